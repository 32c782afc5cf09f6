"""The arithmetic of a search's step as compiled loops, each of which reads memory once. Importing this imports numba.

What is written here as formulas in PyTorch stands in `concrete`, `controllers` and `torch.optim.Adam`; both agree to
rounding. Logarithm and exponential are polynomials (Moshier's Cephes, to a unit in the last place or two), because the
C library's, called number by number, take several times as long. Sums are in float64, in an order that depends on the
processor but on no number of threads.
"""

from typing import Any

import numpy as np

from tombola.core.compiling import kernel
from tombola.core.concrete import SMALLEST

# Numbers whose noise waits in the processor's nearest cache.
_CHUNK = 4096
# Python's numbers would be float64 and int64 here, and all that they meet with them.
_HALF, _ONE = np.float32(0.5), np.float32(1)
_LOG2_E = np.float32(1.44269504088896341)
# ln 2 in two parts, of which the first has so few digits that its multiples are exact.
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Between these e^x and 1/(1 + e^x) are normal float32 numbers.
_LOWEST, _HIGHEST = np.float32(-87), np.float32(87)
# Of exponents: what makes them positive, so that to cut off the fraction is to round down; and float32's own.
_SHIFT, _SHIFT_AND_HALF, _BIAS, _MANTISSA = np.int32(128), np.float32(128.5), np.int32(127), np.int32(23)
_EXP = tuple(map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)))
_EXP_5, _EXP_4, _EXP_3, _EXP_2, _EXP_1 = _EXP
_SQRT_HALF_BITS = np.float32(0.5**0.5).view(np.int32)
_LOG = tuple(map(np.float32, (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)))  # fmt: skip
_LOG_8, _LOG_7, _LOG_6, _LOG_5, _LOG_4, _LOG_3, _LOG_2, _LOG_1, _LOG_0 = _LOG
# The uniform noise is u = (2^23 + k)/2^24 of whole numbers k from -2^23 on (`seeds.fill_uniform`), its lowest raised.
_CENTRE, _BITS_BELOW = np.float32(2**23), np.int32(8)
_FLOOR = np.float32(SMALLEST * 2**24)


@kernel("contract")
def _exp(x: Any) -> Any:
    """Return e^x of a float32, x held between bounds; NaN stays NaN."""
    x = _LOWEST if x < _LOWEST else x
    x = _HIGHEST if x > _HIGHEST else x
    power = np.int32(x * _LOG2_E + _SHIFT_AND_HALF) - _SHIFT
    whole = np.float32(power)
    rest = x - whole * _LN2_HIGH
    rest = rest - whole * _LN2_LOW
    found = ((((_EXP_5 * rest + _EXP_4) * rest + _EXP_3) * rest + _EXP_2) * rest + _EXP_1) * rest + _HALF
    found = found * rest * rest + rest + _ONE
    return found * np.int32(np.int32(power + _BIAS) << _MANTISSA).view(np.float32)


@kernel("contract")
def _log(x: Any) -> Any:
    """Return ln x of a normal float32 above 0."""
    bits = np.float32(x).view(np.int32)
    power = np.int32(bits - _SQRT_HALF_BITS) >> _MANTISSA
    m = np.int32(bits - np.int32(power << _MANTISSA)).view(np.float32) - _ONE
    whole, square = np.float32(np.int32(power)), m * m
    found = (((_LOG_8 * m + _LOG_7) * m + _LOG_6) * m + _LOG_5) * m + _LOG_4
    found = ((((found * m + _LOG_3) * m + _LOG_2) * m + _LOG_1) * m + _LOG_0) * m * square
    found = found + whole * _LN2_LOW - _HALF * square
    return m + found + whole * _LN2_HIGH


@kernel()
def _draw(stream: Any, words: Any) -> None:
    """Fill words with the next numbers of an SFC64 generator, whose state goes on."""
    a, b, c, count = stream[0], stream[1], stream[2], stream[3]
    for i in range(len(words)):
        word = a + b + count
        count += np.uint64(1)
        a = b ^ (b >> np.uint64(11))
        b = c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + word
        words[i] = word
    stream[0], stream[1], stream[2], stream[3] = a, b, c, count


@kernel("contract", "reassoc")
def _sample(noise: Any, logits: Any, mask: Any, sharpness: Any) -> Any:
    gates = squares = 0.0
    for i in range(len(logits)):
        k = np.float32(noise[i] >> _BITS_BELOW)
        below = _CENTRE + k
        below = _FLOOR if below < _FLOOR else below
        mask[i] = _ONE / (_ONE + _exp(_log((_CENTRE - k) / below) * sharpness - logits[i]))
        gate = _ONE / (_ONE + _exp(-logits[i]))
        slope = np.float64(gate * (_ONE - gate))
        gates += np.float64(gate)
        squares += slope * slope
    return gates, squares


@kernel()
def sample(stream: Any, logits: Any, mask: Any, cuts: Any, sharpness: Any) -> Any:
    """Fill mask with sigmoid(logit(u) * sharpness + a), u being the stream's noise.

    logits, mask: float32 (n,). cuts: (s + 1,) from 0 to n. Returns float64 (s, 2): the sums of sigmoid(a), and of its
    slope's squares, from each cut to the next.
    """
    words = np.empty(_CHUNK // 2, np.uint64)
    noise = words.view(np.int32)
    sums = np.zeros((len(cuts) - 1, 2))
    for begin in range(0, len(logits), _CHUNK):
        _draw(stream, words)
        for part in range(len(sums)):
            low, high = max(begin, cuts[part]), min(begin + _CHUNK, cuts[part + 1])
            if low < high:
                found = _sample(noise[low - begin : high - begin], logits[low:high], mask[low:high], sharpness)
                sums[part, 0] += found[0]
                sums[part, 1] += found[1]
    return sums


@kernel("contract", "reassoc")
def _square(gradient: Any, mask: Any) -> Any:
    total = 0.0
    for i in range(len(mask)):
        pulled = np.float64(gradient[i] * (mask[i] * (_ONE - mask[i])))
        total += pulled * pulled
    return total


@kernel()
def squares(gradient: Any, mask: Any, cuts: Any) -> Any:
    """Return float64 (s,): the sums of squares, from each cut to the next, of ∂R/∂a = ∂R/∂z z(1 - z).

    gradient, mask: ∂R/∂z and z, float32 (n,).
    """
    sums = np.zeros(len(cuts) - 1)
    for part in range(len(sums)):
        low, high = cuts[part], cuts[part + 1]
        sums[part] = _square(gradient[low:high], mask[low:high])
    return sums


@kernel("contract")
def _move(gradient: Any, mask: Any, logits: Any, first: Any, second: Any, reach: Any, length: Any, adam: Any) -> None:
    first_share, second_kept, second_share, step, root, epsilon = adam
    for i in range(len(logits)):
        gate = _ONE / (_ONE + _exp(-logits[i]))
        combined = gradient[i] * (mask[i] * (_ONE - mask[i])) + reach * (gate * (_ONE - gate) / length)
        first[i] += first_share * (combined - first[i])
        second[i] = second_kept * second[i] + second_share * combined * combined
        logits[i] -= step * first[i] / (np.sqrt(second[i]) / root + epsilon)


@kernel()
def move(
    gradient: Any, mask: Any, logits: Any, first: Any, second: Any, cuts: Any, owners: Any, pushes: Any, adam: Any
) -> None:
    """Move logits by Adam along ∂R/∂a + reach * slope/length.

    gradient, mask, logits, first, second: ∂R/∂z, z, a and Adam's moments, float32 (n,). owners: (s,) the row of
    `pushes`, float32 (p, 2) of reach and length, that holds from each cut to the next; below 0 nothing moves.
    adam: what `adam_factors` returns.
    """
    for part in range(len(owners)):
        owner = owners[part]
        if owner >= 0:
            low, high = cuts[part], cuts[part + 1]
            _move(
                gradient[low:high], mask[low:high], logits[low:high], first[low:high], second[low:high],
                pushes[owner, 0], pushes[owner, 1], adam,
            )  # fmt: skip


def adam_factors(step: int, rate: float, betas: tuple[float, float], epsilon: float) -> tuple[np.float32, ...]:
    """Return what an element of Adam's step, counted from 1, is multiplied by, rounded once."""
    first, second = betas
    found = (1 - first, second, 1 - second, rate / (1 - first**step), (1 - second**step) ** 0.5, epsilon)
    return tuple(map(np.float32, found))
