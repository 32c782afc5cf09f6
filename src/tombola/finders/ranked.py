"""What finders share that rank weights by scores known beforehand: the allocation over layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tombola.allocation import check_allocation, keep
from tombola.cost import Meter
from tombola.finders.base import draw_each, make_ticket
from tombola.problem import Problem
from tombola.store import Stage
from tombola.ticket import Ticket


@dataclass(frozen=True)
class Ranked:
    """allocation: global ranks all layers together; uniform and erk give every layer its own count."""

    name: ClassVar[str]
    allocation: str = "global"

    def __post_init__(self) -> None:
        check_allocation(self.allocation)

    def scores(self, problem: Problem) -> Tensor:
        """Return one score for each weight (d,), larger for better ones."""
        raise NotImplementedError

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density; globally ranked ones come from the same scores, so they are nested."""

        def draw_one(density: float, stage: Stage) -> Ticket:
            meter = Meter()
            scores = self.scores(problem)
            mask = keep(scores, problem.layout, density, self.allocation)
            return make_ticket(self, problem, density, mask, scores, meter.read())

        return draw_each(self, problem, densities, draw_one)
