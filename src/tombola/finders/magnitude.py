"""Magnitude: keep the largest weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tombola.allocation import check_allocation, keep
from tombola.cost import Meter
from tombola.finders.base import draw_each, make_ticket
from tombola.problem import Problem
from tombola.store import Stage
from tombola.ticket import Ticket


@dataclass(frozen=True)
class Magnitude:
    """Ranks weights by their size, where they are drawn: at init, at the rewind point or after training.

    allocation: global ranks all layers together; uniform and erk give every layer its own count. Source: Han et al.
    2015; before training, Frankle et al. 2021.
    """

    name: ClassVar[str] = "magnitude"
    allocation: str = "global"

    def __post_init__(self) -> None:
        check_allocation(self.allocation)

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density; under one allocation they are nested."""

        def draw_one(density: float, stage: Stage) -> Ticket:
            meter = Meter()
            scores = problem.layout.flatten(problem.values_of(problem.weights)).abs()
            mask = keep(scores, problem.layout, density, self.allocation)
            return make_ticket(self, problem, density, mask, scores, meter.read())

        return draw_each(self, problem, densities, draw_one)
