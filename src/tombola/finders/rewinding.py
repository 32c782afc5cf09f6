"""Tickets from training over and over: Lottery Ticket Rewinding, and iterative magnitude pruning."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola.core.cost import Cost
from tombola.core.parts import INSIDE, option
from tombola.core.selection import Density, Selection
from tombola.finders.base import Drawn, Finder, Needs
from tombola.finders.drawing import drawn
from tombola.finders.problem import Problem
from tombola.finders.training_finder import REWINDS
from tombola.ticket import Ticket
from tombola.training import State

# A density on the grid, such as 0.8**22, is no round below itself.
ROUND_OFF = 1e-9


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
    divides: ClassVar[bool] = True
    rate: float = option(
        0.2, "share of the remaining weights that a round of ltr or imp prunes", must=INSIDE, group="rivals"
    )

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(trains=True, at=REWINDS, dense=True)

    def grouping(self) -> dict[str, Any]:
        """Return what an identity holds of how groups of different sizes are cut."""
        return {"uneven": "nested"}

    def stages(self, density: float) -> int:
        """Return how many rounds end above a density."""
        return max(0, math.ceil(math.log(density) / math.log(1 - self.rate) - ROUND_OFF) - 1)

    def advance(self, problem: Problem, density: Density, stages: int) -> None:
        """Do so many rounds of the descent."""
        self._descend(problem, self.selection(problem, density), stages)

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, from a descent whose rounds lie in the store where they were done."""
        selection = self.selection(problem, density)
        done = self._descend(problem, selection)
        ranked = selection.groups.score(self._scores(problem, done))
        # Groups that were pruned may fit where the smallest remaining one does not: they stay pruned.
        mask, scores = done.mask & selection.keep(ranked), selection.groups.expand(ranked)
        # What `drawn` adds, the way to the weights, is part of the descent's cost already.
        return drawn(self, problem, density, mask, scores, done.cost - problem.cost_so_far, self.start(problem, done))

    def _descend(self, problem: Problem, selection: Selection, most: float = math.inf) -> Round:
        """Return what the last round leaves that ends above a selection, or the round of number `most`."""
        done, number = self._first_round(problem), 1
        while number <= most and (wanted := self._after(selection, number)).kept > selection.kept:
            done = self._next_round(problem, done, wanted, number)
            number += 1
        return done

    def _after(self, selection: Selection, number: int) -> Selection:
        """Return what is kept after some rounds, no density below the wanted one."""
        return selection.at(lambda density: max(density, (1 - self.rate) ** number))

    def _first_round(self, problem: Problem) -> Round:
        dense = problem.dense_at(problem.epochs)
        everything = torch.ones(problem.layout.total, dtype=torch.bool, device="cpu")
        return Round(everything, dense, dense.cost)

    def _next_round(self, problem: Problem, before: Round, wanted: Selection, number: int) -> Round:
        mask = before.mask & wanted.keep(wanted.groups.score(self._scores(problem, before)))
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
    divides: ClassVar[bool] = True

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(trains=True, at=("init", "given"), dense=True)
