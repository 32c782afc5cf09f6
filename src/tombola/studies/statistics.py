"""What may be said of figures measured over seeds: means, paired differences, verdicts in words.

Every table and verdict uses these. Differences of percentages are points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tombola.core.measure import ACCURACY, Measure

CONFIDENCE = 0.95
# Fewer seeds than this are indicative, whatever the interval says.
ENOUGH_SEEDS = 5
# What differs by less than this share of the figures that it is computed from differs by their rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of n values, and the t interval of the mean.

    std: None of one value. low, high: None of one value, and of fewer than five that are all the same: accuracies are
    measured in steps, so that so few may agree by chance, and an interval of no length would call that certain.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None

    @property
    def indicative(self) -> bool:
        """Whether there are too few seeds to prove anything."""
        return self.n < ENOUGH_SEEDS

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


def summarise(values: Sequence[float], comparisons: int = 1, rounded: float | None = None) -> Summary:
    """Return the summary of values, one a seed.

    comparisons: in how many places the same question is asked; intervals are widened for all of them together to hold
    (Bonferroni). rounded: by how much values may differ through rounding, unless given by their own size.
    """
    if not values:
        raise ValueError("there is nothing to summarise")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Summary(1, mean, None, None, None)
    if len(values) < ENOUGH_SEEDS and _are_alike(values, _rounded(values) if rounded is None else rounded):
        return Summary(len(values), mean, 0.0, None, None)
    from scipy.special import stdtrit  # Student's t; scipy.stats takes half a second to load

    std = float(np.std(values, ddof=1))
    level = 1 - (1 - CONFIDENCE) / comparisons
    reach = float(stdtrit(len(values) - 1, (1 + level) / 2)) * std / math.sqrt(len(values))
    return Summary(len(values), mean, std, mean - reach, mean + reach)


@dataclass(frozen=True)
class Difference:
    """What a method gains on another, paired by seed.

    summary: of what is gained, in points or in the measure's unit, above 0 where the method is better. p: of the paired
    t test, None where `summary` has no interval. verdict: in words.
    """

    summary: Summary
    p: float | None
    verdict: str


def compare_paired(
    ours: Sequence[float], theirs: Sequence[float], comparisons: int = 1, measure: Measure = ACCURACY
) -> Difference:
    """Return what one list of figures gains on another, of the same seeds in the same order.

    comparisons: see `summarise`. measure: which way is better, and by how much nothing is worse.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"pairs need equally many figures, got {len(ours)} and {len(theirs)}")
    gains = [measure.gain(a, b) for a, b in zip(ours, theirs, strict=True)]
    rounded = _rounded([*ours, *theirs])
    summary = summarise(gains, comparisons, rounded)
    p = None if summary.low is None else _p_value(gains, rounded)
    return Difference(summary, p, verdict(summary, measure.margin))


def _rounded(figures: Sequence[float]) -> float:
    """Return by how much figures, and their differences, may differ through rounding."""
    return ROUNDING * max(map(abs, figures))


def _are_alike(values: Sequence[float], rounded: float) -> bool:
    return math.isclose(max(values), min(values), rel_tol=0, abs_tol=rounded)


def _p_value(gains: Sequence[float], rounded: float) -> float:
    if _are_alike(gains, rounded):  # t is NaN, or noise
        return 1.0 if math.isclose(gains[0], 0, abs_tol=rounded) else 0.0
    from scipy.special import stdtr

    t = np.mean(gains) / np.sqrt(np.var(gains, ddof=1) / len(gains))
    return float(2 * stdtr(len(gains) - 1, -abs(t)))


def verdict(summary: Summary, margin: float = ACCURACY.margin) -> str:
    """Return "better", "worse", "not worse" or "undecided", by the interval of a gain.

    margin: not worse is what the interval says to lose less than this.
    """
    if summary.low is None or summary.high is None:
        return "undecided"
    if summary.low > 0:
        return "better"
    if summary.high < 0:
        return "worse"
    return "not worse" if summary.low > -margin else "undecided"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
