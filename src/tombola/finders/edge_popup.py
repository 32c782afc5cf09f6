"""Edge-popup (Ramanujan et al. 2020): scores learn which of the frozen weights to keep."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola.allocation import check_allocation, keep
from tombola.cost import Cost, Meter
from tombola.data import Item
from tombola.errors import SearchError, UsageError
from tombola.finders.base import draw_each, full_ticket, make_ticket
from tombola.finders.search import RECORD_EVERY, run_steps
from tombola.flat import Layout
from tombola.network import FrozenNetwork
from tombola.problem import Problem
from tombola.seeds import generator
from tombola.store import Stage
from tombola.ticket import Ticket

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


@dataclass(frozen=True)
class EdgePopup:
    """Every step runs the network with the weights of the largest |score|; the gradient passes straight through.

    steps: of SGD on the scores, whose learning rate falls to zero by a half cosine, momentum 0.9, weight decay 1e-4.
    allocation: of the kept weights over the layers, uniform as published. The objective is the task's loss. Scores
    start as PyTorch's linear layers do, uniform in ±1/√fan_in.
    """

    name: ClassVar[str] = "edge-popup"
    steps: int = 1960
    learning_rate: float = 0.1
    allocation: str = "uniform"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate of the search must be a number above 0, got {self.learning_rate!r}")
        check_allocation(self.allocation)

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density, each from a search of its own."""
        return draw_each(self, problem, densities, lambda density, stage: self._draw_one(problem, density, stage))

    def _draw_one(self, problem: Problem, density: float, stage: Stage) -> Ticket:
        if density == 1:
            return full_ticket(self, problem)
        search = ScoreSearch(self, problem, density)
        run_steps(search, self.steps, problem, stage)
        cost = search.meter.read()
        return make_ticket(self, problem, density, search.mask(), search.scores.detach().abs(), cost)


def initial_scores(layout: Layout, seed: int) -> Tensor:
    """Return scores (d,), uniform in ±1/√fan_in of each layer."""
    numbers = torch.rand(layout.total, generator=generator(seed, "edge-popup"))
    reach = [1 / math.sqrt(math.prod(shape[1:]) or 1) for shape in layout.shapes]
    parts = zip(numbers.split(list(layout.counts)), reach, strict=True)
    return torch.cat([(2 * part - 1) * bound for part, bound in parts])


class ScoreSearch:
    """One search under way."""

    def __init__(self, finder: EdgePopup, problem: Problem, density: float) -> None:
        self._finder, self._problem, self._density = finder, problem, density
        self._network = FrozenNetwork(problem.network(), problem.layout, problem.task, problem.runtime)
        self._network.use_batch_statistics()
        start = initial_scores(problem.layout, problem.seed)
        self.scores = start.to(self._network.weights.device).requires_grad_()
        self._optimizer = torch.optim.SGD(
            [self.scores], lr=finder.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self.step, self.meter = 0, Meter()
        self._loss_sum, self._losses = 0.0, 0

    def mask(self) -> Tensor:
        """Return the flat mask of the largest |score|."""
        return keep(self.scores.detach().abs(), self._problem.layout, self._density, self._finder.allocation)

    def advance(self, item: Item) -> dict[str, Any] | None:
        """Take one step on a batch; return a row of metrics when one is due."""
        batch = self._problem.runtime.move(item.batch)
        sizes = self.scores.abs()
        mask = self.mask().to(sizes.dtype) + sizes - sizes.detach()
        loss = self._problem.task.loss(self._network.under(mask * self._network.weights, batch), batch)
        (self.scores.grad,) = torch.autograd.grad(loss, self.scores)
        self._loss_sum, self._losses = self._loss_sum + float(loss.detach()), self._losses + 1
        if not math.isfinite(self._loss_sum):
            raise SearchError(f"edge-popup broke down at step {self.step}: the loss is {float(loss.detach())}")
        due = self.step % RECORD_EVERY == 0 or self.step == self._finder.steps - 1
        row = {"stage": "search", "step": self.step, "objective": self._loss_sum / self._losses} if due else None
        if due:
            self._loss_sum, self._losses = 0.0, 0
        share = self.step / self._finder.steps
        self._optimizer.param_groups[0]["lr"] = self._finder.learning_rate * (1 + math.cos(math.pi * share)) / 2
        self._optimizer.step()
        samples = self._problem.task.samples(batch)
        self.meter.count(forward=samples, backward=samples)
        self.step += 1
        return row

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""
        return {
            "scores": self.scores.detach(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "loss_sum": self._loss_sum,
            "losses": self._losses,
            "cost": self.meter.read().to_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""
        with torch.no_grad():
            self.scores.copy_(state["scores"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._loss_sum, self._losses = state["step"], state["loss_sum"], state["losses"]
        self.meter = Meter(Cost(**state["cost"]))
