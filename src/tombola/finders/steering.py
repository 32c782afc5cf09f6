"""Steering: gates, the controller that holds their density, and Adam, as one; by PyTorch, or compiled for many weights.

Which of the two is a fixed rule (`is_compiled`) that looks at no clock. They agree to rounding and not to the bit, so
that a result's identity says where the compiled one was used (`arithmetic`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from tombola.core.compiling import numba_works
from tombola.core.concrete import Concrete, Relaxation
from tombola.core.controllers import Controller, Figures, GradBalance, Lagrangian, ProportionalBalance
from tombola.core.selection import Selection
from tombola.finders.balance import Balance
from tombola.finders.gates import Gates, Sampled

# Weights from which arithmetic is compiled: with fewer it is a small part of a step, and one piece or two of memory.
COMPILED_FROM = 2**20
# Raised when the numbers of the compiled arithmetic change.
COMPILED_VERSION = 1
# Adam's epsilon where nobody says.
EPSILON = 1e-8
_COMPILED_CONTROLLERS = (GradBalance, ProportionalBalance, Lagrangian)


class Steering(Protocol):
    """Logits under way: a mask at each step, and what its gradient and the controller do to them."""

    @property
    def logits(self) -> Tensor:
        """The logits a (g,)."""

    def mask(self, step: int) -> Tensor:
        """Return the mask (d,) of a step, a leaf that asks for its gradient."""

    def weigh(self, gradient: Tensor, wanted: Callable[[float], float], learning_rate: float, share: float) -> Figures:
        """Take ∂R/∂z (d,) of the mask of the last step, and return the figures of the step, which `move` goes by.

        wanted: the density to aim at now, of a pool's final one. share: of the search that is done.
        """

    def pulled(self) -> Tensor:
        """Return ∂R/∂a (g,) of the gradient taken last, before `move`."""

    def move(self, learning_rate: float) -> None:
        """Take Adam's step along what was weighed."""

    def clamp(self, low: float, high: float, parts: Sequence[int]) -> None:
        """Keep the logits of some parts of the groups between two bounds."""

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the search depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""


def is_compiled(
    relaxation: Relaxation, controller: Controller, count: int, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether the arithmetic of so many logits is compiled; parts of the user's own, also by inheritance, never are."""
    ours = type(relaxation) is Concrete and type(controller) in _COMPILED_CONTROLLERS
    return ours and count >= COMPILED_FROM and (device.type, dtype) == ("cpu", torch.float32) and numba_works()


def arithmetic(
    relaxation: Relaxation, controller: Controller, count: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what an identity holds of how logits are computed: nothing where PyTorch does."""
    compiled = is_compiled(relaxation, controller, count, device, dtype)
    return {"arithmetic": {"name": "compiled", "version": COMPILED_VERSION}} if compiled else {}


def steering(
    selection: Selection,
    start: Tensor,
    relaxation: Relaxation,
    controller: Controller,
    seed: int,
    epsilon: float = EPSILON,
) -> Steering:
    """Return logits (g,) at their start, to be steered to a selection's densities. epsilon: Adam's."""
    count = start.numel() if selection.groups.sizes is None else 0  # of logits that count alike
    if isinstance(relaxation, Concrete) and is_compiled(relaxation, controller, count, start.device, start.dtype):
        from tombola.finders.compiled_steering import CompiledSteering  # imports numba

        return CompiledSteering(selection, start, relaxation.temperature, controller, seed, epsilon)
    return PlainSteering(selection, start, relaxation, controller, seed, epsilon)


class PlainSteering:
    """Steering by PyTorch, one thing after the other."""

    def __init__(
        self,
        selection: Selection,
        start: Tensor,
        relaxation: Relaxation,
        controller: Controller,
        seed: int,
        epsilon: float,
    ) -> None:
        adam = partial(torch.optim.Adam, eps=epsilon, fused=True)
        self._gates = Gates(start, selection.groups, Sampled(relaxation, seed), adam)
        self._balance = Balance(controller, selection, start)
        self._pulled = self._gradient = torch.empty(0)

    @property
    def logits(self) -> Tensor:
        """The logits a (g,)."""
        return self._gates.parameters.detach()

    def mask(self, step: int) -> Tensor:
        """Return the mask (d,) of a step."""
        return self._gates.mask(step)

    @torch.no_grad()
    def weigh(self, gradient: Tensor, wanted: Callable[[float], float], learning_rate: float, share: float) -> Figures:
        """Return the figures of a step."""
        self._pulled = self._gates.pull(gradient)
        self._gradient, figures = self._balance.update(self.logits, self._pulled, wanted, learning_rate, share)
        return figures

    def pulled(self) -> Tensor:
        """Return ∂R/∂a (g,)."""
        return self._pulled

    def move(self, learning_rate: float) -> None:
        """Take Adam's step."""
        self._gates.move(self._gradient, learning_rate)
        # Its memory is wanted by the network's next pass.
        self._gradient = torch.empty(0)

    def clamp(self, low: float, high: float, parts: Sequence[int]) -> None:
        """Keep the logits of some parts of the groups between two bounds."""
        self._gates.clamp(low, high, parts)

    def state(self) -> dict[str, Any]:
        """Return gates and balance."""
        return {"gates": self._gates.state(), "balance": self._balance.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._gates.restore(state["gates"])
        self._balance.restore(state["balance"])
