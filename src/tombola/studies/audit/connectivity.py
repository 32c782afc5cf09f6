"""Whether two trainings of a ticket end in one basin: the error along the straight line between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

POINTS = 11
# Two networks are connected when the error rises by less than this along the line (Frankle et al. 2020).
BARRIER = 2.0


@dataclass(frozen=True)
class Connectivity:
    """Errors in percent at equally spaced points between two trained networks, ends included."""

    errors: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """How far the largest error lies above the mean of the two ends, in points."""
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2

    @property
    def connected(self) -> bool:
        """Whether the error hardly rises between the two."""
        return self.barrier < BARRIER

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"errors": list(self.errors), "barrier": self.barrier, "connected": self.connected}


def walk(first: Mapping[str, Any], last: Mapping[str, Any], error: Callable[[dict[str, Any]], float]) -> Connectivity:
    """Return the errors along the line from one state_dict to another; `error` measures a state_dict in between."""
    shares = [number / (POINTS - 1) for number in range(POINTS)]
    return Connectivity(tuple(error(between(first, last, share)) for share in shares))


def between(first: Mapping[str, Any], last: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return the values a share of the way from one state_dict to another; what is no real number stays the first's."""
    return {name: _mix(value, last[name], share) for name, value in first.items()}


def _mix(first: Any, last: Any, share: float) -> Any:
    real = isinstance(first, torch.Tensor) and first.is_floating_point()
    return torch.lerp(first, last, share) if real else first
