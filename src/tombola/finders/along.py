"""What finders share that train weights and masks together, and then rewind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tombola.errors import UsageError
from tombola.finders.base import draw_each, full_ticket
from tombola.problem import Problem
from tombola.store import Stage
from tombola.ticket import Ticket


def demand_rewind(name: str, at: str) -> None:
    """Raise UsageError at the trained weights: there is no training left to find a ticket in."""
    if at == "trained":
        raise UsageError(f"finder {name} trains and rewinds: draw it at rewind or at init (--draw-at)")


@dataclass(frozen=True)
class Along:
    """Finds each density's ticket along a training from the problem's weights; the ticket belongs to those weights.

    epochs: length of that whole training, by default the recipe's; the ticket's own training keeps the recipe's.
    """

    name: ClassVar[str]
    epochs: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.epochs is not None and (not isinstance(self.epochs, int) or self.epochs < 1):
            raise UsageError(f"epochs of the search must be a whole number of at least 1, got {self.epochs!r}")

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density, each from a training of its own."""
        self.check_at(problem.at)
        if self.epochs is not None and self.epochs <= problem.weights.epoch:
            raise UsageError(
                f"epochs of the search must lie above {problem.weights.epoch}, where it starts, got {self.epochs}"
            )

        def draw_one(density: float, stage: Stage) -> Ticket:
            return full_ticket(self, problem) if density == 1 else self.draw_one(problem, density, stage)

        return draw_each(self, problem, densities, draw_one, trains=True)

    def check_at(self, at: str) -> None:
        """Raise UsageError unless tickets can be drawn there."""
        demand_rewind(self.name, at)

    def draw_one(self, problem: Problem, density: float, stage: Stage) -> Ticket:
        """Return the ticket of one density below 1."""
        raise NotImplementedError


def check_share(share: float) -> None:
    """Raise UsageError unless a share of a training is one."""
    if not 0 < share <= 1:
        raise UsageError(f"share must lie in (0, 1], got {share!r}")
