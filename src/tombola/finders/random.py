"""Random: every set of k weights is as likely as any other. The floor that every finder must beat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from tombola.allocation import check_allocation, keep
from tombola.cost import Meter
from tombola.finders.base import draw_each, make_ticket
from tombola.problem import Problem
from tombola.seeds import generator
from tombola.store import Stage
from tombola.ticket import Ticket


@dataclass(frozen=True)
class Random:
    """Ranks weights by uniform random scores.

    allocation: global ranks all layers together; uniform and erk give every layer its own count.
    """

    name: ClassVar[str] = "random"
    allocation: str = "global"

    def __post_init__(self) -> None:
        check_allocation(self.allocation)

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density; all come from the same scores, so they are nested."""

        def draw_one(density: float, stage: Stage) -> Ticket:
            meter = Meter()
            scores = torch.rand(problem.layout.total, dtype=torch.float64, generator=generator(problem.seed, "random"))
            mask = keep(scores, problem.layout, density, self.allocation)
            return make_ticket(self, problem, density, mask, scores, meter.read())

        return draw_each(self, problem, densities, draw_one)
