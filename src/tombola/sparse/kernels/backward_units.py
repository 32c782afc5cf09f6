"""Backward through a unit's cut, what was added to it, and its normalisation."""

import numpy as np

from tombola.core.compiling import kernel
from tombola.sparse.kernels.base import FLAGS, ZERO, inlined

# What a unit does with the gradient of what was added to its output.
NO_RESIDUAL, WRITE, ADD = range(3)


@inlined
def _pass_on(target, gradient, mode):  # type: ignore[no-untyped-def]
    if mode == WRITE:
        target[:] = gradient
    else:
        for i in range(target.shape[0]):
            target[i] += gradient[i]


@inlined
def _cut_sums(gradient, source, mean, scale, shift):  # type: ignore[no-untyped-def]
    """Return what `_sums` does of a row that is cut where scale * (source - mean) + shift is not above zero."""
    total = product = ZERO
    for i in range(gradient.shape[0]):
        value = gradient[i] if scale * (source[i] - mean) + shift > 0 else ZERO
        total += value
        product += value * (source[i] - mean)
    return total, product


@inlined
def _cut(gradient, deciding):  # type: ignore[no-untyped-def]
    for i in range(gradient.shape[0]):
        gradient[i] = gradient[i] if deciding[i] > 0 else ZERO


@inlined
def _sums(gradient, source, mean):  # type: ignore[no-untyped-def]
    """Return a row's sum, and that of it * (source - mean)."""
    total = product = ZERO
    for i in range(gradient.shape[0]):
        total += gradient[i]
        product += gradient[i] * (source[i] - mean)
    return total, product


@kernel(*FLAGS)
def unit_backward(  # type: ignore[no-untyped-def]
    channels, gradient, out, before, normalises, moves, norm, gamma, beta, residual, mode, adds, cuts, sums
):
    """Turn the gradient of a unit's output into that of what was normalised; by channel, in place.

    sums (2, C): gets the gradients of gamma and of beta (or of the bias where nothing is normalised).
    """
    height, length = gradient.shape[1], gradient.shape[2]
    for c in channels:
        mean, inverse, weight = (norm[0, c], norm[2, c], gamma[c]) if normalises else (ZERO, ZERO, ZERO)
        scale, shift = weight * inverse, beta[c] if normalises else ZERO
        # Whether the output was cut is read from what was normalised, which is read anyway, where nothing was added;
        # then the gradient need not be written twice.
        later = cuts and normalises and not adds
        total = moment = 0.0
        for h in range(height):
            row, source = gradient[c, h], before[c, h]
            if later:
                part, product = _cut_sums(row, source, mean, scale, shift)
            else:
                if cuts:
                    _cut(row, out[c, h])
                part, product = _sums(row, source, mean)
            total += part
            moment += product
            if mode != NO_RESIDUAL:
                _pass_on(residual[c, h], row, mode)
        sums[0, c], sums[1, c] = moment * inverse, total
        if not normalises:
            continue
        slope = np.float32(moment * inverse * inverse / (height * length)) * scale if moves else ZERO
        level = mean * slope - (scale * np.float32(total / (height * length)) if moves else ZERO)
        for h in range(height):
            row, source = gradient[c, h], before[c, h]
            if later:
                for i in range(length):
                    value = row[i] if scale * (source[i] - mean) + shift > 0 else ZERO
                    row[i] = scale * value - slope * source[i] + level
            else:
                for i in range(length):
                    row[i] = scale * row[i] - slope * source[i] + level
