"""Joint search: weights and logits train together while the wanted density falls; then the rewind."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tombola.core import concrete
from tombola.core.concrete import Relaxation, relaxation_option
from tombola.core.controllers import Controller, Figures, controller_option
from tombola.core.parts import POSITIVE, option
from tombola.core.selection import Density, Selection
from tombola.errors import SearchError
from tombola.finders import diagnostics
from tombola.finders.balance import far, holding, start_logits
from tombola.finders.base import Drawn, gated_beside
from tombola.finders.drawing import drawn
from tombola.finders.problem import Problem
from tombola.finders.steering import arithmetic, steering
from tombola.finders.training_finder import TrainingFinder, falling_share
from tombola.networks.network import GatedNetwork
from tombola.networks.task import Batch, Output, Task
from tombola.training import TrainingCallback

# Where the gates start: a logit of 3, which is nearly the density that the falling target starts from.
START_LOGIT, START_DENSITY = 3.0, 0.95
# How far they move: closed gates together keep a fiftieth of the wanted density, open ones lie at 0.993 or more. A
# logit that runs on leaves itself no slope by which the density could bring it back.
CLOSED_SHARE, OPEN_LOGIT = 0.02, 5.0


@dataclass(frozen=True)
class Joint(TrainingFinder):
    """Trains the network under masks sampled from its logits, the weights by the recipe and the logits by Adam.

    The wanted density falls geometrically from 95 % over `share` of one training, and stays. The objective is the
    task's loss. The logits stay between two bounds, so that long trainings and high rates reach the density too. Ours,
    not the paper's.
    """

    name: ClassVar[str] = "joint"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 4
    share: float = falling_share()
    controller: Controller = controller_option()
    learning_rate: float = option(
        0.1, "of Adam on the logits", must=POSITIVE, flag="search-learning-rate", group="search"
    )
    relaxation: Relaxation = relaxation_option()

    def wanted(self, density: float, share: float) -> float:
        """Return the density to aim at after a share of the training."""
        start = max(START_DENSITY, density)
        found: float = start * (density / start) ** min(share / self.share, 1.0)
        return found

    def arithmetic(self, count: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return what an identity holds of how so many logits are computed, which are float32 whatever the weights."""
        return arithmetic(self.relaxation, self.controller, count, device, torch.float32)

    def holding(self) -> dict[str, Any]:
        """Return what an identity holds of how layers are held where nothing is to be chosen."""
        return holding(self.relaxation)

    def find(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, along a training."""
        selection = self.selection(problem, density)
        search = JointSearch(self, problem, selection)
        trained = problem.fit_with(search, problem.entry, self.name, self.epochs)
        logits = search.logits
        expected = concrete.expected_density(logits, selection.groups.sizes)
        warnings = diagnostics.missed_density(expected, selection.kept / problem.layout.total)
        scores, cost = selection.groups.expand(logits), trained.cost - problem.cost_so_far
        return drawn(self, problem, density, selection.keep(logits), scores, cost, warnings=warnings)


def reach(density: float) -> tuple[float, float]:
    """Return the bounds of the logits of gates of which a share is wanted open."""
    return concrete.logit(density * CLOSED_SHARE), max(OPEN_LOGIT, concrete.logit((1 + density) / 2))


class JointSearch(TrainingCallback):
    """Logits that learn beside the weights."""

    def __init__(self, finder: Joint, problem: Problem, selection: Selection) -> None:
        self._finder, self._problem, self._selection = finder, problem, selection
        # Gates that are decided stay as far out as they are.
        self._free = [pool for pool in selection.pools if not pool.decided]
        self._step = 0
        self._figures: Figures = {}

    @property
    def logits(self) -> Tensor:
        """The logits a (g,)."""
        return self._steering.logits

    def begin(self, model: nn.Module, task: Task) -> None:
        """Put gates on the model's weights."""
        super().begin(model, task)
        self._network = GatedNetwork(model, self._problem.layout, task, gated_beside(self._finder, self._problem))
        like = torch.empty(0, dtype=torch.float32, device=next(model.parameters()).device)
        start = start_logits(self._selection, lambda _: START_LOGIT, like, far(self._finder.relaxation))
        self._steering = steering(
            self._selection, start, self._finder.relaxation, self._finder.controller, self._problem.seed
        )

    def forward(self, batch: Batch, share: float) -> Output:
        """Run the model under a mask sampled anew."""
        self._mask = self._steering.mask(self._step)
        return self._network.under(self._mask, batch)

    def leaves(self) -> list[Tensor]:
        """Return the mask."""
        return [self._mask]

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Move the logits by the gradient that the loss left at the mask, steered to the density wanted by now."""
        finder, by_mask = self._finder, self._mask.grad
        assert by_mask is not None
        self._figures = self._steering.weigh(
            by_mask, lambda density: finder.wanted(density, share), finder.learning_rate, share
        )
        self._steering.move(finder.learning_rate)
        for pool in self._free:
            self._steering.clamp(*reach(pool.kept / pool.total), pool.parts)
        self._step += 1

    def evaluated(self) -> nn.Module:
        """Return the network with every gate as far open as it is on average."""
        return self._network.masked(self._selection.groups.expand(torch.sigmoid(self.logits)))

    def row(self) -> dict[str, Any]:
        """Return what became of the logits; raises SearchError where they broke down."""
        if not math.isfinite(self._figures["task_norm"]):
            raise SearchError("joint: the gradient of the loss in the logits is not finite; lower the learning rate")
        return {
            "expected_density": concrete.expected_density(self.logits, self._selection.groups.sizes),
            "hard_density": concrete.hard_density(self.logits, self._selection.groups.sizes),
            "density_error": float(self._figures["error"]),
        }

    def state(self) -> dict[str, Any]:
        """Return gates, their balance and the step."""
        return {
            **self._steering.state(),
            "step": self._step,
            "figures": dict(self._figures),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._steering.restore(state)
        self._step, self._figures = state["step"], state["figures"]
