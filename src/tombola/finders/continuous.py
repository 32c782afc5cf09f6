"""Continuous Sparsification (Savarese, Silva and Maire 2020): soft gates that harden as the training goes on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tombola import diagnostics
from tombola.cost import Cost
from tombola.errors import UsageError
from tombola.finders.along import Along
from tombola.finders.base import describe, make_ticket
from tombola.flat import Layout
from tombola.network import GatedNetwork
from tombola.problem import Problem
from tombola.ranking import count_kept, keep_top
from tombola.store import Stage
from tombola.task import Batch, Output, Task
from tombola.ticket import Ticket
from tombola.training import Companion

MOMENTUM = 0.9


@dataclass(frozen=True)
class ContinuousSparsification(Along):
    """Trains weights under gates σ(β s), β rising from 1 to `temperature` over each round, with a price on open gates.

    After a round the weights are rewound and s becomes min(β s, s₀): what closed stays closed. There are rounds until
    no more gates are open than are wanted, `rounds` at most, and the largest s of the last are kept, so that the ticket
    has the wanted density whatever the rounds arrived at. Rounds are shared by all densities.

    gate_start: s₀; smaller for sparser rounds. learning_rate: of SGD on s, momentum 0.9. penalty: of an open gate.
    """

    name: ClassVar[str] = "continuous-sparsification"
    rounds: int = 2
    temperature: float = 200.0
    learning_rate: float = 0.1
    gate_start: float = 0.0
    penalty: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise UsageError(f"rounds must be a whole number of at least 1, got {self.rounds!r}")
        for name, holds, allowed in (
            ("temperature", 1 <= self.temperature < math.inf, "a number of at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0"),
            ("gate_start", math.isfinite(self.gate_start), "a finite number"),
            ("penalty", 0 <= self.penalty < math.inf, "a number that is not negative"),
        ):
            if not holds:
                raise UsageError(f"{name} of {self.name} must be {allowed}, got {getattr(self, name)!r}")

    def draw_one(self, problem: Problem, density: float, stage: Stage) -> Ticket:
        """Return the ticket of one density below 1."""
        wanted = count_kept(density, problem.layout.total)
        stage.resume()  # cuts the journal back
        gates, cost = torch.full((problem.layout.total,), self.gate_start), Cost()
        for number in range(1, self.rounds + 1):
            if number > 1:
                gates = (self.temperature * gates).clamp(max=self.gate_start)
            gates, spent, rows = self._round(problem, gates, number)
            cost += spent
            for row in rows:
                stage.record(row)
            if int((gates > 0).sum()) <= wanted:
                break
        warnings = diagnostics.closed_gates(float((gates > 0).double().mean()), density)
        return make_ticket(self, problem, density, keep_top(gates, wanted), gates, cost, warnings=warnings)

    def _round(self, problem: Problem, start: Tensor, number: int) -> tuple[Tensor, Cost, list[dict[str, Any]]]:
        """Return s after a round, what the round cost, and what it recorded."""
        stage = problem.draw_stage({**describe(self), "round": number}, None, trains=True)
        with stage.locked():
            kept = stage.get("round")
            if kept is None:
                gates = HardeningGates(self, problem.layout, start)
                trained = problem.accompany(gates, stage, f"{self.name}, round {number}", self.epochs)
                kept = {"gates": gates.values.detach(), "cost": (trained.cost - problem.spent).to_dict()}
                stage.put("round", kept)
                stage.clear_checkpoint()
        return kept["gates"].cpu(), Cost(**kept["cost"]), stage.rows()


class HardeningGates(Companion):
    """Gates σ(β s) beside the weights, s learning by SGD."""

    def __init__(self, finder: ContinuousSparsification, layout: Layout, start: Tensor) -> None:
        self._finder, self._layout, self.values = finder, layout, start.clone()
        self._beta = 1.0

    def begin(self, model: nn.Module, task: Task) -> None:
        """Put gates on the model's weights."""
        super().begin(model, task)
        self._network = GatedNetwork(model, self._layout, task)
        self.values = self.values.to(next(model.parameters()).device).requires_grad_()
        self._optimizer = torch.optim.SGD([self.values], lr=self._finder.learning_rate, momentum=MOMENTUM)

    def forward(self, batch: Batch, share: float) -> Output:
        """Run the model under its gates."""
        self._beta = self._finder.temperature**share
        return self._network.under(torch.sigmoid(self._beta * self.values), batch)

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Move s by the gradient that the loss left there, and by that of the price of open gates."""
        assert self.values.grad is not None
        open_by = torch.sigmoid(self._beta * self.values)
        self.values.grad += self._finder.penalty * self._beta * open_by * (1 - open_by)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def evaluated(self) -> nn.Module:
        """Return the network under its gates."""
        return self._network.masked(torch.sigmoid(self._beta * self.values.detach()))

    def row(self) -> dict[str, Any]:
        """Return how many gates are open."""
        return {"hard_density": float((self.values.detach() > 0).float().mean())}

    def state(self) -> dict[str, Any]:
        """Return s and its optimiser."""
        return {"values": self.values.detach(), "optimizer": self._optimizer.state_dict(), "beta": self._beta}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        with torch.no_grad():
            self.values.copy_(state["values"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._beta = state["beta"]
