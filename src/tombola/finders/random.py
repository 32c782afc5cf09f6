"""Random: every set of k weights is as likely as any other. The floor that every finder must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.core.groups import Groups
from tombola.core.seeds import generator
from tombola.finders.problem import Problem
from tombola.finders.ranked import Ranked


@dataclass(frozen=True)
class Random(Ranked):
    """Ranks weights, or groups of them, by uniform random scores."""

    name: ClassVar[str] = "random"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def scores_of(self, groups: Groups, problem: Problem) -> Tensor:
        """Return uniform random numbers, which depend on the seed alone."""
        count = sum(groups.layout().counts)
        return torch.rand(count, dtype=torch.float64, generator=generator(problem.seed, "random"), device="cpu")
