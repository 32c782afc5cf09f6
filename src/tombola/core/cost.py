"""What work cost: time, and samples that went through the network."""

import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds of wall clock, samples passed forward, samples passed backward."""

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds - other.seconds, self.forward - other.forward, self.backward - other.backward)

    @property
    def passes(self) -> int:
        """Forward passes that the samples cost, a backward one counted as two."""
        return self.forward + 2 * self.backward

    def to_dict(self) -> dict[str, float]:
        """Return the three figures by name."""
        return asdict(self)


class Meter:
    """Adds up the cost of a loop; it starts from what was spent before an interruption."""

    def __init__(self, before: Cost | None = None) -> None:
        self._before = before or Cost()
        self._since = time.perf_counter()
        self._forward = 0
        self._backward = 0

    def count(self, *, forward: int = 0, backward: int = 0) -> None:
        """Add samples."""
        self._forward += forward
        self._backward += backward

    def read(self) -> Cost:
        """Return everything spent so far."""
        return self._before + Cost(time.perf_counter() - self._since, self._forward, self._backward)
