"""Whether two trainings of a ticket end in one basin: the error along the straight line between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tombola.core.measure import ACCURACY, Measure

POINTS = 11
# Two networks are connected when the error in percent rises by less than this along the line (Frankle et al. 2020).
BARRIER = 2.0


@dataclass(frozen=True)
class Connectivity:
    """Errors at equally spaced points between two trained networks, ends included.

    measure: of what they are the errors: where larger is better, of percentages what is missing to 100, of others the
    figure with its sign turned; where smaller is better the figure itself.
    """

    errors: tuple[float, ...]
    measure: Measure = ACCURACY

    @property
    def barrier(self) -> float:
        """How far the largest error lies above the mean of the two ends; of percentages, in points."""
        return max(self.errors) - self._ends

    @property
    def _ends(self) -> float:
        return (self.errors[0] + self.errors[-1]) / 2

    @property
    def connected(self) -> bool:
        """Whether the error hardly rises between the two."""
        return self.barrier < (BARRIER if self.measure.in_percent else self.measure.tolerance(self._ends))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"errors": list(self.errors), "barrier": self.barrier, "connected": self.connected}


def walk(
    first: Mapping[str, Any],
    last: Mapping[str, Any],
    score: Callable[[dict[str, Any]], float],
    measure: Measure = ACCURACY,
) -> Connectivity:
    """Return the errors along the line from one state_dict to another; `score` measures a state_dict in between."""
    shares = [number / (POINTS - 1) for number in range(POINTS)]
    best = 100.0 if measure.in_percent and measure.larger_is_better else 0.0
    return Connectivity(tuple(measure.gain(best, score(between(first, last, share))) for share in shares), measure)


def between(first: Mapping[str, Any], last: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return the values a share of the way from one state_dict to another; what is no real number stays the first's."""
    return {name: _mix(value, last[name], share) for name, value in first.items()}


def _mix(first: Any, last: Any, share: float) -> Any:
    real = isinstance(first, torch.Tensor) and first.is_floating_point()
    return torch.lerp(first, last, share) if real else first
