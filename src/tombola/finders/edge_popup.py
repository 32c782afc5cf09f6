"""Edge-popup (Ramanujan et al. 2020): scores learn which of the frozen weights to keep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola.core.allocation import Allocation, Uniform
from tombola.core.cost import Cost, Meter
from tombola.core.flat import Layout
from tombola.core.parts import COUNT, POSITIVE, option
from tombola.core.seeds import generator
from tombola.core.selection import Density, Selection
from tombola.data import Item
from tombola.errors import SearchError
from tombola.finders.base import Drawn, Finder, Needs, allocation_option, gated_beside, search_batch_size
from tombola.finders.drawing import drawn
from tombola.finders.gates import Forming, Gates
from tombola.finders.problem import Problem
from tombola.finders.search import RECORD_EVERY, run_steps
from tombola.networks.network import FrozenNetwork
from tombola.networks.shares import share_of

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


@dataclass(frozen=True)
class ScoreFinder(Finder):
    """What finders share whose scores learn on frozen weights, by SGD with momentum and a falling half cosine."""

    steps: int = option(1960, "length of the search", must=COUNT, group="search")
    learning_rate: float = option(
        0.1, "of SGD on the scores, at first", must=POSITIVE, flag="search-learning-rate", group="search"
    )
    batch_size: int = search_batch_size(512)

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(samples=self.batch_size, batches=self.steps, task=("loss",))


@dataclass(frozen=True)
class EdgePopup(ScoreFinder):
    """Every step runs the network with the weights of the largest |score|; the gradient passes straight through.

    Steps are of SGD on the scores, whose learning rate falls to zero by a half cosine, momentum 0.9, weight decay 1e-4.
    The objective is the task's loss. Scores start as PyTorch's linear layers do, uniform in ±1/√fan_in; those of
    groups of weights, which have no fan_in, in ±1. Allocation is uniform, as published.
    """

    name: ClassVar[str] = "edge-popup"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 3
    allocation: Allocation = allocation_option(Uniform())

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        search = ScoreSearch(self, problem, self.selection(problem, density))
        run_steps(search, self.steps, problem)
        scores = search.selection.groups.expand(search.scores.abs())
        return drawn(self, problem, density, search.mask(), scores, search.meter.read())


def initial_scores(layout: Layout, seed: int) -> Tensor:
    """Return scores (g,), uniform in ±1/√fan_in of each layer; in ±1 where groups of weights are laid end to end."""
    draws = generator(seed, "edge-popup")
    numbers = torch.rand(layout.total, generator=draws, dtype=torch.float32, device="cpu")
    reach = [1 / math.sqrt(math.prod(shape[1:]) or 1) for shape in layout.shapes]
    parts = zip(numbers.split(list(layout.counts)), reach, strict=True)
    return torch.cat([(2 * part - 1) * bound for part, bound in parts])


class TopScores:
    """Masks of the largest |score|; the gradient passes straight through the cut to |score|."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection

    def mask(self, parameters: Tensor, step: int) -> Tensor:
        """Return zeros and ones."""
        return self._selection.keep(parameters.abs()).to(parameters.dtype)

    def pull(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        """Return the gradient, its sign turned where the score is negative."""
        return gradient * parameters.sign()


class ScoreSearch:
    """One search under way."""

    weight_decay = WEIGHT_DECAY

    def __init__(self, finder: ScoreFinder, problem: Problem, selection: Selection) -> None:
        self._finder, self._problem, self.selection = finder, problem, selection
        beside = gated_beside(finder, problem)
        self._network = FrozenNetwork(problem.network(), problem.layout, problem.task, problem.runtime, beside=beside)
        self._network.use_batch_statistics()
        start, forming = self.begin()
        sgd = partial(torch.optim.SGD, lr=finder.learning_rate, momentum=MOMENTUM, weight_decay=self.weight_decay)
        self._gates = Gates(start.to(self._network.weights.device), selection.groups, forming, sgd)
        self.step, self.meter = 0, Meter()
        self._loss_sum, self._losses = 0.0, 0

    def begin(self) -> tuple[Tensor, Forming]:
        """Return the scores (g,) to start from, and how masks are formed of scores."""
        return initial_scores(self.selection.groups.layout(), self._problem.seed), TopScores(self.selection)

    @property
    def scores(self) -> Tensor:
        """The scores (g,)."""
        return self._gates.parameters.detach()

    def mask(self) -> Tensor:
        """Return the flat mask (d,) of the largest |score|."""
        return self.selection.keep(self.scores.abs())

    def advance(self, item: Item) -> dict[str, Any] | None:
        """Take one step on a batch; return a row of metrics when one is due."""
        problem, mask = self._problem, self._gates.mask(self.step)
        share = share_of(item, problem.task, problem.runtime)
        with problem.runtime.ranks.apart(problem.seed, "search", self.step, device=problem.runtime.device):
            output = self._network.masked(mask, share.batch)
        loss = share.portion.mean(problem.task.loss(output, share.batch))
        gradient = self._gates.pull(share.portion.gradient(loss, mask))
        self._loss_sum, self._losses = self._loss_sum + float(loss.detach()), self._losses + 1
        if not math.isfinite(self._loss_sum):
            raise SearchError(f"{self._finder.name} broke down at step {self.step}: the loss is {float(loss.detach())}")
        due = self.step % RECORD_EVERY == 0 or self.step == self._finder.steps - 1
        row = {"stage": "search", "step": self.step, "objective": self._loss_sum / self._losses} if due else None
        if due:
            self._loss_sum, self._losses = 0.0, 0
        done = self.step / self._finder.steps
        self.move(gradient, self._finder.learning_rate * (1 + math.cos(math.pi * done)) / 2)
        self.meter.count(forward=share.samples, backward=share.samples)
        self.step += 1
        return row

    def move(self, gradient: Tensor, learning_rate: float) -> None:
        """Take a step along a gradient (g,)."""
        self._gates.move(gradient, learning_rate)

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""
        return {
            "gates": self._gates.state(),
            "step": self.step,
            "loss_sum": self._loss_sum,
            "losses": self._losses,
            "cost": self.meter.read().to_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""
        self._gates.restore(state["gates"])
        self.step, self._loss_sum, self._losses = state["step"], state["loss_sum"], state["losses"]
        self.meter = Meter(Cost(**state["cost"]))
