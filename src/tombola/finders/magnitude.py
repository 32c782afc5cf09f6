"""Magnitude: keep the largest weights."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tombola.finders.problem import Problem
from tombola.finders.ranked import Ranked


@dataclass(frozen=True)
class Magnitude(Ranked):
    """Ranks weights by their size, where they are drawn: at init, at the rewind point or after training.

    Source: Han et al. 2015; before training, Frankle et al. 2021.
    """

    name: ClassVar[str] = "magnitude"
    divides: ClassVar[bool] = True

    def scores(self, problem: Problem) -> Tensor:
        """Return |θ|."""
        return problem.layout.flatten(problem.values_of(problem.weights)).abs()
