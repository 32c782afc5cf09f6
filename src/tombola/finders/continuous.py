"""Continuous Sparsification (Savarese, Silva and Maire 2020): soft gates that harden as the training goes on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tombola.core.concrete import hard_density
from tombola.core.cost import Cost
from tombola.core.parts import COUNT, FINITE, NOT_NEGATIVE, POSITIVE, Must, identify, option
from tombola.core.selection import Density, Selection
from tombola.finders import diagnostics
from tombola.finders.balance import start_logits
from tombola.finders.base import Drawn, gated_beside
from tombola.finders.drawing import drawn
from tombola.finders.gates import Gates
from tombola.finders.problem import Problem
from tombola.finders.training_finder import TrainingFinder
from tombola.networks.network import GatedNetwork
from tombola.networks.task import Batch, Output, Task
from tombola.training import TrainingCallback

MOMENTUM = 0.9
# Where s lies of gates that are open, or closed, for good: σ is 1, or 0, in float32, and has no slope.
DECIDED = 200.0


@dataclass(frozen=True)
class ContinuousSparsification(TrainingFinder):
    """Trains weights under gates σ(β s), β rising from 1 to `temperature` over each round, with a price on open gates.

    After a round the weights are rewound and s becomes min(β s, s₀): what closed stays closed. There are rounds until
    no more gates are open than are wanted, `rounds` at most, and the largest s of the last are kept, so that the ticket
    has the wanted density whatever the rounds arrived at. Rounds are shared by all densities. s learns by SGD with
    momentum 0.9.
    """

    name: ClassVar[str] = "continuous-sparsification"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 2
    rounds: int = option(2, "most rounds of continuous-sparsification", must=COUNT, group="rivals")
    temperature: float = option(
        200.0,
        "last β of continuous-sparsification",
        must=Must(lambda value: 1 <= value <= 1e30, "of at least 1"),
        group="search",
    )
    learning_rate: float = option(0.1, "of SGD on s", must=POSITIVE, flag="search-learning-rate", group="search")
    gate_start: float = option(
        0.0, "where the gates of continuous-sparsification start, smaller for sparser rounds", must=FINITE,
        group="rivals",
    )  # fmt: skip
    penalty: float = option(
        1e-8, "price of an open gate of continuous-sparsification", must=NOT_NEGATIVE, group="rivals"
    )

    def holding(self) -> dict[str, Any]:
        """Return that layers are held where nothing is to be chosen, which they were not at first."""
        return {"decided": "held"}

    def stages(self, density: float) -> int:
        """Return the most rounds that there may be."""
        return self.rounds

    def advance(self, problem: Problem, density: Density, stages: int) -> None:
        """Do so many rounds, or as many as the density asks for."""
        for _ in islice(self._rounds(problem, self.selection(problem, density)), stages):
            pass

    def find(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, along as many trainings as there are rounds."""
        selection, entry = self.selection(problem, density), problem.entry
        entry.resume()  # cuts the journal back
        rounds = list(self._rounds(problem, selection))
        cost = sum((cost for _, cost, _ in rounds), Cost())
        for row in (row for _, _, rows in rounds for row in rows):
            entry.record(row)
        gates = rounds[-1][0]
        wanted = selection.kept / problem.layout.total
        warnings = diagnostics.closed_gates(hard_density(gates, selection.groups.sizes), wanted)
        scores = selection.groups.expand(gates)
        return drawn(self, problem, density, selection.keep(gates), scores, cost, warnings=warnings)

    def _rounds(self, problem: Problem, selection: Selection) -> Iterator[tuple[Tensor, Cost, list[dict[str, Any]]]]:
        """Yield s after each round, what the round cost, and what it recorded, until few enough gates are open.

        Gates of layers that are kept whole, or closed, are 1, or 0, at every β, and do not move.
        """
        like = torch.empty(0, dtype=torch.float32, device="cpu")
        gates = first = start_logits(selection, lambda _: self.gate_start, like, DECIDED)
        for number in range(1, self.rounds + 1):
            if number > 1:
                gates = (self.temperature * gates).minimum(first)
            gates, cost, rows = self._round(problem, selection, gates, number)
            yield gates, cost, rows
            if int(selection.groups.expand(gates > 0).sum()) <= selection.kept:
                return

    def _round(
        self, problem: Problem, selection: Selection, start: Tensor, number: int
    ) -> tuple[Tensor, Cost, list[dict[str, Any]]]:
        """Return s after a round, what the round cost, and what it recorded."""
        known = {**identify(self), "round": number, **_decided_layers(selection)}
        entry = problem.draw_entry(known, None, trains=True)
        with entry.locked():
            stored = entry.get("round")
            if stored is None:
                gates = HardeningGates(self, problem, selection, start)
                trained = problem.fit_with(gates, entry, f"{self.name}, round {number}", self.epochs)
                stored = {"gates": gates.values, "cost": (trained.cost - problem.cost_so_far).to_dict()}
                entry.put("round", stored)
                entry.clear_checkpoint()
        return stored["gates"].cpu(), Cost(**stored["cost"]), entry.rows()


def _decided_layers(selection: Selection) -> dict[str, list[str]]:
    """Return what a round depends on of the densities: the layers kept whole and those closed, where there are any."""
    found: dict[str, list[str]] = {"whole": [], "closed": []}
    for pool in selection.pools:
        if pool.decided:
            found["whole" if pool.kept else "closed"] += [selection.layout.names[i] for i in pool.layers]
    return {key: sorted(names) for key, names in found.items() if names}


class Hardening:
    """Masks σ(β s)."""

    beta = 1.0

    def mask(self, parameters: Tensor, step: int) -> Tensor:
        """Return σ(β s)."""
        self._open = torch.sigmoid(self.beta * parameters)
        return self._open

    def pull(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        """Return the gradient in s."""
        return gradient * (1 - self._open) * self._open * self.beta

    def price(self, parameters: Tensor) -> Tensor:
        """Return the gradient of the number of open gates in s."""
        open_by = torch.sigmoid(self.beta * parameters)
        return self.beta * open_by * (1 - open_by)


class HardeningGates(TrainingCallback):
    """Gates σ(β s) beside the weights, s learning by SGD."""

    def __init__(self, finder: ContinuousSparsification, problem: Problem, selection: Selection, start: Tensor) -> None:
        self._finder, self._problem, self._selection, self._start = finder, problem, selection, start
        self._forming = Hardening()
        self._step = 0

    @property
    def values(self) -> Tensor:
        """The gates' parameters s (g,)."""
        return self._gates.parameters.detach()

    def begin(self, model: nn.Module, task: Task) -> None:
        """Put gates on the model's weights."""
        super().begin(model, task)
        self._network = GatedNetwork(model, self._problem.layout, task, gated_beside(self._finder, self._problem))
        sgd = partial(torch.optim.SGD, lr=self._finder.learning_rate, momentum=MOMENTUM)
        start = self._start.to(next(model.parameters()).device)
        self._gates = Gates(start, self._selection.groups, self._forming, sgd)

    def forward(self, batch: Batch, share: float) -> Output:
        """Run the model under its gates."""
        self._forming.beta = self._finder.temperature**share
        self._mask = self._gates.mask(self._step)
        return self._network.under(self._mask, batch)

    def leaves(self) -> list[Tensor]:
        """Return the mask."""
        return [self._mask]

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Move s by the gradient that the loss left at the mask, and by that of the price of open gates."""
        assert self._mask.grad is not None
        gradient = self._gates.pull(self._mask.grad)
        price = self._finder.penalty * self._forming.price(self.values)
        self._gates.move(gradient + price, self._finder.learning_rate)
        self._step += 1

    def evaluated(self) -> nn.Module:
        """Return the network under its gates."""
        return self._network.masked(self._selection.groups.expand(torch.sigmoid(self._forming.beta * self.values)))

    def row(self) -> dict[str, Any]:
        """Return how many gates are open."""
        return {"hard_density": hard_density(self.values, self._selection.groups.sizes)}

    def state(self) -> dict[str, Any]:
        """Return the gates, β and the step."""
        return {"gates": self._gates.state(), "beta": self._forming.beta, "step": self._step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._gates.restore(state["gates"])
        self._forming.beta, self._step = state["beta"], state["step"]
