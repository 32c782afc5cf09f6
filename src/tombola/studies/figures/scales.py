"""Axes: where ticks stand, and scales that show the differences that matter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

from tombola.core.measure import ACCURACY, Measure

Kind = Literal["linear", "log", "probit"]
# Accuracies of 0 and 100 % lie at infinity on a probit axis; they are drawn here.
_LOWEST, _HIGHEST = 0.05, 99.95
_PROBIT_TICKS = (
    0.1,
    0.5,
    1,
    2,
    5,
    10,
    20,
    30,
    40,
    50,
    60,
    70,
    80,
    85,
    90,
    92,
    94,
    95,
    96,
    97,
    98,
    98.5,
    99,
    99.5,
    99.9,
)
_MOST_TICKS = 8
# A panel near the best shows so many values or more.
_FEWEST_VALUES = 3
_normal = NormalDist()


@dataclass(frozen=True)
class Axis:
    """An axis: its title, its scale, its ends, and ticks as (value, text). reverse: large values come first."""

    title: str
    kind: Kind
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    reverse: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, linear on paper."""
        if self.kind == "log":
            return math.log10(value)
        return probit(value) if self.kind == "probit" else value

    @property
    def ends(self) -> tuple[float, float]:
        """Return the places of both ends, the first to be drawn left or below."""
        ends = self.place(self.low), self.place(self.high)
        return (ends[1], ends[0]) if self.reverse else ends

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies, 0 at its first end and 1 at its last."""
        first, last = self.ends
        return (self.place(value) - first) / (last - first)


def probit(percent: float) -> float:
    """Return the standard normal quantile of a percentage, which is kept off 0 and 100."""
    return _normal.inv_cdf(min(max(percent, _LOWEST), _HIGHEST) / 100)


def score_axis(values: Sequence[float], measure: Measure = ACCURACY) -> Axis:
    """Return an axis for scores; of percentages a probit one where a linear one would hide differences near the top."""
    if measure.in_percent:
        return _percent_axis(values, f"test {measure.words}")
    return linear_axis(values, f"test {measure.words}", measure.lowest, measure.highest)


def _percent_axis(values: Sequence[float], title: str) -> Axis:
    low, high = min(values), max(values)
    if high - low > 25 and high > 80:
        low, high = max(_LOWEST, low), min(_HIGHEST, high)
        room = 0.08 * (probit(high) - probit(low))
        low, high = (100 * _normal.cdf(end) for end in (probit(low) - room, probit(high) + room))
        ticks = [tick for tick in _PROBIT_TICKS if low <= tick <= high]
        return Axis(title, "probit", low, high, _apart([(t, f"{t:g}") for t in ticks], "probit", low, high))
    return linear_axis(values, title, lowest=0.0, highest=100.0)


def linear_axis(
    values: Sequence[float],
    title: str,
    lowest: float = -math.inf,
    highest: float = math.inf,
    most: int = _MOST_TICKS,
    whole: bool = False,
) -> Axis:
    """Return a linear axis with room around values.

    lowest, highest: what no value can pass. whole: whether ticks between whole numbers would mean nothing.
    """
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    room = (0.1 * (high - low) if high - low > 1e-6 * size else 0.05 * size) or 1.0
    low, high = max(lowest - room / 2, low - room), min(highest + room / 2, high + room)
    ticks = _round_numbers(max(low, lowest), min(high, highest), most)
    if whole:
        ticks = [tick for tick in ticks if tick == round(tick)] or ticks
    return Axis(title, "linear", low, high, tuple((tick, f"{tick:.10g}") for tick in ticks))


def log_axis(values: Sequence[float], title: str, reverse: bool = False, own: bool = False) -> Axis:
    """Return a logarithmic axis; own: its ticks stand at the values themselves, where there is room."""
    positive = [value for value in values if value > 0]
    low, high = min(positive), max(positive)
    room = (high / low) ** 0.06 if high > low else 1.5
    low, high = low / room, high * room
    wanted = sorted(set(positive)) if own else _log_numbers(low, high)
    ticks = _apart([(tick, _plain(tick)) for tick in wanted], "log", low, high)
    return Axis(title, "log", low, high, ticks, reverse)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _log_numbers(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones, finer where a decade is not reached."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8)):
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [value for value in found if low <= value <= high]
        if len(inside) >= 4:
            return inside
    return inside if len(inside) >= 2 else _round_numbers(low, high, 5)


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """Return at most so many multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _apart(ticks: Sequence[tuple[float, str]], kind: Kind, low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Return those ticks whose texts do not touch: each at least a tenth of the axis from the one before."""
    axis = Axis("", kind, low, high, ())
    found: list[tuple[float, str]] = []
    for tick in ticks:
        if not found or axis.share(tick[0]) - axis.share(found[-1][0]) >= 0.07 + 0.01 * len(tick[1]):
            found.append(tick)
    return tuple(found)


def zoom(values: Sequence[float], share: float = 0.25, measure: Measure = ACCURACY) -> tuple[float, float] | None:
    """Return the range near the best that is worth a panel of its own, None where all can be seen as it is."""
    if not measure.larger_is_better:
        found = _zoom([-value for value in values], share, measure)
        return found and (-found[1], -found[0])
    return _zoom(values, share, measure)


def _zoom(values: Sequence[float], share: float, measure: Measure) -> tuple[float, float] | None:
    """Do the same near the top.

    values: mean scores. It is what lies above the widest gap between them, where that leaves at least
    `_FEWEST_VALUES` squeezed into that share of the axis; else, of percentages, the ten points below the best,
    likewise.
    """
    ordered = sorted(values)
    whole = ordered[-1] - ordered[0] if ordered else 0.0
    if len(ordered) <= _FEWEST_VALUES or whole <= 0:
        return None
    gaps = [(b - a, b) for a, b in pairwise(ordered)]
    for start in (max(gaps)[1], *([ordered[-1] - 10.0] if measure.in_percent else [])):
        inside = [value for value in ordered if value >= start]
        span = inside[-1] - inside[0]
        if _FEWEST_VALUES <= len(inside) < len(ordered) and 0 < span <= share * whole:
            return inside[0], inside[-1]
    return None


def spread(wanted: Sequence[float], gap: float) -> list[float] | None:
    """Return places in [0, 1], at least `gap` apart and close to the wanted ones, in their order; None without room.

    Of all such places they are those with the smallest squares of what each is moved by.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    count = len(wanted)
    room = 1 - (count - 1) * gap
    if room < 0:
        return None
    if not count:
        return []
    values, steps = np.asarray(wanted, dtype=float), gap * np.arange(count)
    order = np.argsort(values, kind="stable")
    # Without the gaps, places need only rise.
    found = np.empty(count)
    found[order] = isotonic_regression(values[order] - steps).x.clip(0, room) + steps
    return [float(place) for place in found]
