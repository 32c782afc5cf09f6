"""Tickets from training over and over: Lottery Ticket Rewinding, and iterative magnitude pruning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.cost import Cost
from tombola.errors import UsageError
from tombola.finders.along import demand_rewind
from tombola.finders.base import full_ticket, make_ticket
from tombola.problem import Problem
from tombola.ranking import count_kept, keep_top
from tombola.ticket import Ticket
from tombola.training import State


@dataclass(frozen=True)
class _Round:
    """What a round left: the mask that was trained, how the weights ended, and what all of it cost from θ₀ on."""

    mask: Tensor
    trained: State
    cost: Cost


@dataclass(frozen=True)
class LTR:
    """Train, prune the smallest remaining weights of all layers together, rewind to θ_k, repeat (Frankle et al. 2020).

    Every round's training is that of its ticket, so the store keeps it; a descent that was stopped goes on at the
    round it was in. Densities off the grid (powers of 1 - rate) are branches: the last round above, pruned straight.

    rate: share of the remaining weights that a round prunes.
    """

    name: ClassVar[str] = "ltr"
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise UsageError(f"rate must lie between 0 and 1, got {self.rate!r}")

    def check_at(self, at: str) -> None:
        """Raise UsageError unless tickets can be drawn there."""
        demand_rewind(self.name, at)

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density, all from a single descent."""
        self.check_at(problem.at)
        for density in densities:
            count_kept(density, problem.layout.total)
        drawn = dict(self._descend(problem, sorted(set(densities) - {1}, reverse=True)))
        for density in densities:
            yield full_ticket(self, problem) if density == 1 else drawn[density]

    def _descend(self, problem: Problem, falling: Sequence[float]) -> Iterator[tuple[float, Ticket]]:
        """Go down to the last round above each density, rounds from the store where they are, and prune once more."""
        if not falling:
            return
        done, number = self._first_round(problem), 1
        for density in falling:
            target = count_kept(density, problem.layout.total)
            while (kept := self._kept(problem, number)) > target:
                done = self._next_round(problem, done, kept, number)
                number += 1
            scores = self._scores(problem, done)
            mask = keep_top(scores, target)
            # What make_ticket adds, the way to the weights, is part of the descent's cost already.
            yield density, make_ticket(self, problem, density, mask, scores, done.cost - problem.spent)

    def _kept(self, problem: Problem, number: int) -> int:
        """Return how many weights are left after some rounds; none is no round."""
        return int((1 - self.rate) ** number * problem.layout.total + 0.5)

    def _first_round(self, problem: Problem) -> _Round:
        dense = problem.dense_at(problem.epochs)
        everything = torch.ones(problem.layout.total, dtype=torch.bool)
        return _Round(everything, dense, dense.cost)

    def _next_round(self, problem: Problem, before: _Round, kept: int, number: int) -> _Round:
        mask = keep_top(self._scores(problem, before), kept)
        problem.progress.say(f"{self.name}: round {number}, {kept:,} of {problem.layout.total:,} weights")
        trained = problem.fit(Ticket(problem.layout.views(mask)))
        return _Round(mask, trained, before.cost + (trained.cost - problem.spent))

    def _scores(self, problem: Problem, done: _Round) -> Tensor:
        """Return the sizes of the trained weights; those pruned already rank below all, so masks are nested."""
        sizes = problem.layout.flatten(problem.values_of(done.trained)).abs()
        return sizes.masked_fill(~done.mask, -torch.inf)


@dataclass(frozen=True)
class IMP(LTR):
    """Iterative magnitude pruning: the same with a rewind to the initial weights (Frankle and Carbin 2019)."""

    name: ClassVar[str] = "imp"

    def check_at(self, at: str) -> None:
        """Raise UsageError unless tickets are drawn at the initial weights."""
        if at not in {"init", "given"}:
            raise UsageError("finder imp rewinds to the initial weights: draw it at init (--draw-at init), or use ltr")
