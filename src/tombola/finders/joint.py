"""Joint search: weights and logits train together while the wanted density falls; then the rewind."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from tombola import concrete, diagnostics
from tombola.controllers import Controller, ProportionalBalance, check_controller
from tombola.errors import SearchError, UsageError
from tombola.finders.along import Along, check_share
from tombola.finders.base import make_ticket
from tombola.network import GatedNetwork
from tombola.problem import Problem
from tombola.ranking import count_kept, keep_top
from tombola.seeds import generator
from tombola.store import Stage
from tombola.task import Batch, Output, Task
from tombola.ticket import Ticket
from tombola.training import Companion

# Where the gates start: a logit of 3, which is nearly the density that the falling target starts from.
START_LOGIT, START_DENSITY = 3.0, 0.95
# How far they move: closed gates together keep a fiftieth of the wanted density, open ones lie at 0.993 or more. A
# logit that runs on leaves itself no slope by which the density could bring it back.
CLOSED_SHARE, OPEN_LOGIT = 0.02, 5.0


@dataclass(frozen=True)
class Joint(Along):
    """Trains the network under masks sampled from its logits, the weights by the recipe and the logits by Adam.

    The wanted density falls geometrically from 95 % over `share` of one training, and stays. The objective is the
    task's loss. controller: what makes the expected density follow. learning_rate: of Adam on the logits. temperature:
    τ of the binary Concrete distribution. The logits stay between two bounds, so that long trainings and high rates
    reach the density too. Ours, not the paper's.
    """

    name: ClassVar[str] = "joint"
    share: float = 0.6
    controller: Controller = ProportionalBalance()
    learning_rate: float = 0.1
    temperature: float = concrete.TEMPERATURE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.share)
        for name in ("learning_rate", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} of the search must be a number above 0, got {getattr(self, name)!r}")
        check_controller(self.controller)

    def wanted(self, density: float, share: float) -> float:
        """Return the density to aim at after a share of the training."""
        start = max(START_DENSITY, density)
        return start * (density / start) ** min(share / self.share, 1.0)

    def draw_one(self, problem: Problem, density: float, stage: Stage) -> Ticket:
        """Return the ticket of one density below 1."""
        gates = Gates(self, problem, density)
        trained = problem.accompany(gates, stage, self.name, self.epochs)
        logits = gates.logits.detach()
        mask = keep_top(logits, count_kept(density, problem.layout.total))
        warnings = diagnostics.missed_density(concrete.expected_density(logits), density)
        return make_ticket(self, problem, density, mask, logits, trained.cost - problem.spent, warnings=warnings)


class Gates(Companion):
    """Logits that learn beside the weights."""

    def __init__(self, finder: Joint, problem: Problem, density: float) -> None:
        self._finder, self._layout, self._density = finder, problem.layout, density
        self._noise = generator(problem.seed, "concrete")
        self._multiplier = 0.0
        self._error = 0.0
        self._range = concrete.logit(density * CLOSED_SHARE), max(OPEN_LOGIT, concrete.logit((1 + density) / 2))
        self.logits = torch.full((self._layout.total,), START_LOGIT)

    def begin(self, model: nn.Module, task: Task) -> None:
        """Put gates on the model's weights."""
        super().begin(model, task)
        self._network = GatedNetwork(model, self._layout, task)
        self.logits = self.logits.to(next(model.parameters()).device).requires_grad_()
        self._optimizer = torch.optim.Adam([self.logits], lr=self._finder.learning_rate, fused=True)

    def forward(self, batch: Batch, share: float) -> Output:
        """Run the model under a mask sampled anew."""
        noise = concrete.draw_noise(self.logits, self._noise)
        return self._network.under(concrete.sample(self.logits, noise, self._finder.temperature), batch)

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Move the logits by the gradient that the loss left there, steered to the density wanted by now."""
        finder, gradient = self._finder, self.logits.grad
        assert gradient is not None
        wanted = finder.wanted(self._density, share)
        steering = finder.controller.steer(self.logits, gradient, wanted, self._multiplier, finder.learning_rate)
        if not math.isfinite(steering.task_norm):
            raise SearchError("joint: the gradient of the loss in the logits is not finite; lower the learning rate")
        self._multiplier, self._error = steering.multiplier, steering.error
        self.logits.grad = steering.gradient
        self._optimizer.step()
        self.logits.clamp_(*self._range)
        self._optimizer.zero_grad(set_to_none=True)

    def evaluated(self) -> nn.Module:
        """Return the network with every gate as far open as it is on average."""
        return self._network.masked(torch.sigmoid(self.logits.detach()))

    def row(self) -> dict[str, Any]:
        """Return what became of the logits."""
        logits = self.logits.detach()
        return {
            "expected_density": concrete.expected_density(logits),
            "hard_density": concrete.hard_density(logits),
            "density_error": self._error,
        }

    def state(self) -> dict[str, Any]:
        """Return logits, optimiser, noise and λ."""
        return {
            "logits": self.logits.detach(),
            "optimizer": self._optimizer.state_dict(),
            "noise": self._noise.get_state(),
            "multiplier": self._multiplier,
            "error": self._error,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._noise.set_state(state["noise"])
        self._multiplier, self._error = state["multiplier"], state["error"]
