"""Tickets from training over and over: Lottery Ticket Rewinding, and iterative magnitude pruning."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.core.cost import Cost
from tombola.core.parts import INSIDE, option
from tombola.core.selection import Density, Selection
from tombola.finders.base import Drawn, Finder, Needs, drawn
from tombola.finders.problem import Problem
from tombola.finders.training_finder import REWINDS
from tombola.ticket import Ticket
from tombola.training import State


@dataclass(frozen=True)
class Round:
    """What a round left: the mask that was trained, how the weights ended, and what all of it cost from θ₀ on."""

    mask: Tensor
    trained: State
    cost: Cost


@dataclass(frozen=True)
class LTR(Finder):
    """Train, prune the smallest remaining weights of all layers together, rewind to θ_k, repeat (Frankle et al. 2020).

    Every round's training is that of its ticket, so the store keeps it; a descent that was stopped goes on at the
    round it was in, and densities share their rounds. Densities off the grid (powers of 1 - rate) are branches: the
    last round above, pruned straight.
    """

    name: ClassVar[str] = "ltr"
    rate: float = option(
        0.2, "share of the remaining weights that a round of ltr or imp prunes", must=INSIDE, group="rivals"
    )

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(trains=True, at=REWINDS)

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, from a descent whose rounds lie in the store where they were done."""
        selection, number = self.selection(problem, density), 1
        done = self._first_round(problem)
        while (wanted := self._after(selection, number)).kept > selection.kept:
            done = self._next_round(problem, done, wanted, number)
            number += 1
        scores = self._scores(problem, done)
        mask = selection.keep(selection.groups.reduce(scores))
        # What `drawn` adds, the way to the weights, is part of the descent's cost already.
        return drawn(self, problem, density, mask, scores, done.cost - problem.cost_so_far, self.start(problem, done))

    def _after(self, selection: Selection, number: int) -> Selection:
        """Return what is kept after some rounds, no density below the wanted one."""
        return selection.at(lambda density: max(density, (1 - self.rate) ** number))

    def _first_round(self, problem: Problem) -> Round:
        dense = problem.dense_at(problem.epochs)
        everything = torch.ones(problem.layout.total, dtype=torch.bool)
        return Round(everything, dense, dense.cost)

    def _next_round(self, problem: Problem, before: Round, wanted: Selection, number: int) -> Round:
        mask = before.mask & wanted.keep(wanted.groups.reduce(self._scores(problem, before)))
        problem.progress.say(f"{self.name}: round {number}, {int(mask.sum()):,} of {problem.layout.total:,} weights")
        start = self.start(problem, before) or problem.weights
        trained = problem.fit(Ticket(problem.layout.views(mask)), start)
        return Round(mask, trained, before.cost + (trained.cost - start.cost))

    def start(self, problem: Problem, before: Round) -> State | None:
        """Return what the weights left by a round are trained from, None being those of the problem: a rewind."""
        return None

    def _scores(self, problem: Problem, done: Round) -> Tensor:
        """Return the sizes of the trained weights; those pruned already rank below all, so masks are nested."""
        sizes = problem.layout.flatten(problem.values_of(done.trained)).abs()
        return sizes.masked_fill(~done.mask, -torch.inf)


@dataclass(frozen=True)
class IMP(LTR):
    """Iterative magnitude pruning: the same with a rewind to the initial weights (Frankle and Carbin 2019)."""

    name: ClassVar[str] = "imp"

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(trains=True, at=("init", "given"))
