"""What is asked of a comparison beside its means: the score at equal cost, and where a finder falls behind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tombola.studies.dense import DenseNetwork, alike_in_cost, dense_beside
from tombola.studies.statistics import Difference
from tombola.studies.table import Row

# Costs within this share of each other are equal: seconds are never the same twice.
SAME_COST = 1.05


def cost_unit(rows: Sequence[Row], dense: Sequence[DenseNetwork]) -> str:
    """Return what costs are counted in, "dense trainings" or "seconds".

    Seconds where samples were not counted for all rows, or where dense trainings are not all the same work.
    """
    return "dense trainings" if _are_counted(rows) and alike_in_cost(dense) else "seconds"


def why_seconds(rows: Sequence[Row], unit: str) -> str:
    """Return a sentence where costs are in seconds although samples were counted for all rows; else nothing."""
    differ = "Costs are in seconds, since the trainings of the dense networks are not all the same work."
    return differ if _are_counted(rows) and unit == "seconds" else ""


def _are_counted(rows: Sequence[Row]) -> bool:
    """Whether there are rows, and samples were counted for all of them."""
    return bool(rows) and all(row.dense_equivalents is not None for row in rows)


def cost_of(row: Row, unit: str) -> float:
    """Return the mean cost of a row in a unit of `cost_unit`."""
    return row.seconds if unit == "seconds" or row.dense_equivalents is None else row.dense_equivalents


def base_name(label: str) -> str:
    """Return the finder's name without its options, or its run's: "cts" of "cts:steps=5 --epochs 9".

    One's own keeps its module.
    """
    first, *rest = label.partition(" --")[0].split(":")
    # my_module:Finder:option=1; an option of ours has an equals sign or is a variant in lower case.
    own = bool(rest) and "=" not in rest[0] and rest[0][:1].isupper()
    return f"{first}:{rest[0]}" if own else first


@dataclass(frozen=True)
class EqualCost:
    """The best that a finder reaches at a density for what another costs there (up to `SAME_COST` of it).

    finder: by name. label: which of its variants; None where all of them cost more. gain: of the other finder on it.
    """

    density: float
    budget: float
    finder: str
    label: str | None
    cost: float
    score: float | None
    gain: Difference | None


def equal_cost(rows: Sequence[Row], against: str, unit: str) -> list[EqualCost]:
    """Return, at each density, what every finder reaches for the cost of one, variants of a finder taken together.

    unit: of costs, as `cost_unit` gives it.

    The variant is chosen by its mean test score, so that its lead over its own other variants proves nothing.
    """
    found = []
    for ahead in (row for row in rows if row.finder == against):
        budget = cost_of(ahead, unit)
        others = [row for row in rows if row.density == ahead.density and row.finder != against]
        for name in dict.fromkeys(base_name(row.finder) for row in others):
            variants = [row for row in others if base_name(row.finder) == name]
            found.append(_best(variants, name, ahead, budget, unit))
    return found


def _best(variants: Sequence[Row], name: str, ahead: Row, budget: float, unit: str) -> EqualCost:
    within = [row for row in variants if cost_of(row, unit) <= SAME_COST * budget]
    if not within:
        cheapest = min(cost_of(row, unit) for row in variants)
        return EqualCost(ahead.density, budget, name, None, cheapest, None, None)
    best = max(within, key=lambda row: row.measure.gain(row.score.mean, 0.0))
    gain = ahead.differences.get(best.finder)
    return EqualCost(ahead.density, budget, name, best.finder, cost_of(best, unit), best.score.mean, gain and gain[0])


@dataclass(frozen=True)
class Fall:
    """Where a finder's mean score falls behind the dense network's: of percentages by more than a point.

    density: by interpolation, along the logarithm of density, between the two measured ones around it; None where it
    lies outside of what was measured. holds: the smallest density where it is not behind with every larger one, None
    where it is already behind at the largest.
    """

    finder: str
    density: float | None
    holds: float | None

    @property
    def words(self) -> str:
        """The same in words."""
        if self.density is not None:
            return f"{100 * self.density:.3g} %"
        return "above all densities" if self.holds is None else f"not down to {100 * self.holds:.3g} %"


def falls(rows: Sequence[Row], dense: Sequence[DenseNetwork]) -> list[Fall]:
    """Return where each finder falls behind its dense network of the same seeds, by `Measure.tolerance`."""
    return [_fall(label, [row for row in rows if row.finder == label], dense) for label in _labels(rows)]


def _labels(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.finder for row in rows))


def _fall(label: str, rows: Sequence[Row], networks: Sequence[DenseNetwork]) -> Fall:
    beside = [(row, dense_beside(networks, label, row.seeds)) for row in rows]
    points = sorted(((row.density, _margin(row, dense)) for row, dense in beside), reverse=True)
    for number, (density, margin) in enumerate(points):
        if margin >= 0:
            continue
        if number == 0:
            return Fall(label, None, None)
        above, room = points[number - 1]
        share = room / (room - margin)
        crossing = math.exp(math.log(above) + share * (math.log(density) - math.log(above)))
        return Fall(label, crossing, above)
    return Fall(label, None, points[-1][0])


def _margin(row: Row, dense: float) -> float:
    """Return how much worse a row might still be before it has fallen behind, below 0 where it has."""
    return row.measure.gain(row.score.mean, dense) + row.measure.tolerance(dense)
