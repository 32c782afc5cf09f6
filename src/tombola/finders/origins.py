"""From which weights a ticket is trained, whoever found its mask."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tombola.core.cost import Cost
from tombola.core.seeds import seeded
from tombola.errors import UsageError
from tombola.finders.base import Drawn, needs_of
from tombola.finders.problem import Problem
from tombola.networks.masking import named_parameters
from tombola.networks.network import load_weights
from tombola.training import State

ORIGINS = ("rewind", "init", "final", "signs")
# Those that ask for the end of a training, of the dense network's where the finder leaves no weights.
OF_THE_END = ("final", "signs")
ORIGIN_HELP = (
    "weights that the ticket is trained from, in the same epochs: rewind (those that it belongs to), init (the initial "
    "ones), final (the kept weights of a mask that moved in one training, of all others the end of the dense one), "
    "signs (new initial sizes, the final weights' signs)"
)


def origin(
    kind: str, finder: Any, problem: Problem, found: Drawn, usual: State, initial: State, fresh: Callable[[], nn.Module]
) -> tuple[State, Cost]:
    """Return the state that a ticket is trained from, and what it took beyond the draw.

    kind: one of ORIGINS. usual: the state that the ticket belongs to, whose epoch the training goes on from whatever
    its weights are. initial: θ₀. fresh: makes the model with initial weights drawn anew. Sources: of the signs, Zhou
    et al. 2019, arXiv 1905.01067, and Gadhikar and Burkholz 2024, arXiv 2402.19262.
    """
    if kind == "rewind":
        return usual, Cost()
    if kind == "init":
        return replace(initial, epoch=usual.epoch, cost=usual.cost), Cost()
    final, further = found.kept, Cost()
    if final is None:
        final = problem.dense_at(problem.epochs)
        further = Cost() if needs_of(finder).dense else final.cost - problem.cost_so_far
    tensors = final.tensors if kind == "final" else with_signs(fresh(), final, problem).tensors
    return State(tensors, usual.epoch, usual.cost), further


@torch.no_grad()
def with_signs(model: nn.Module, final: State, problem: Problem) -> State:
    """Return a model's values, the signs of its prunable weights those of a state, where that is not zero there."""
    parameters = {name: parameter for name, _, parameter in named_parameters(model)}
    signs = {name: value for name, value in problem.values_of(final).items() if name in problem.layout.names}
    for name, value in signs.items():
        sign = value.sign().to(parameters[name].device)
        parameters[name].copy_(torch.where(sign == 0, parameters[name], parameters[name].abs() * sign))
    return State.of(model)


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a model whose modules drew their initial values anew; raises UsageError where none does."""
    copied = load_weights(model, model.state_dict())
    # Modules draw where their parameters lie, not where the network is trained.
    with seeded(seed, "signs", device=next(copied.parameters()).device):
        for module in copied.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    if State.of(copied).digest == State.of(model).digest:
        raise UsageError(
            "cannot be signs: no module of the model can draw its initial weights anew (by reset_parameters)",
            option="train_from",
        )
    return copied
