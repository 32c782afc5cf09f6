"""Gates: real parameters, one a group of weights, that become masks, are pulled by the masks' gradients, and are cut.

The one object that Concrete Ticket Search, the joint search, edge-popup and Continuous Sparsification share.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from tombola.core.concrete import Relaxation
from tombola.core.flat import over_pieces
from tombola.core.groups import Groups
from tombola.core.seeds import fill_uniform


class Forming(Protocol):
    """How masks are formed of parameters (g,), step after step."""

    def mask(self, parameters: Tensor, step: int) -> Tensor:
        """Return z (g,) of a step, without gradients; it may be overwritten by that of the next step."""

    def pull(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        """Return ∂R/∂parameters (g,) from ∂R/∂z (g,) of the mask formed last."""


class Sampled:
    """Masks sampled by a relaxation, in memory of its own: new memory costs more than the arithmetic.

    seed: of the noise, which depends on it, on the step and on the place alone, however many threads share the work.
    """

    def __init__(self, relaxation: Relaxation, seed: int) -> None:
        self._relaxation, self._seed = relaxation, seed
        self._mask = self._gradient = torch.empty(0)

    def mask(self, parameters: Tensor, step: int) -> Tensor:
        """Return z (g,) of a step."""
        if self._mask.shape != parameters.shape:
            self._mask, self._gradient = torch.empty_like(parameters), torch.empty_like(parameters)

        def fill(mask: Tensor, part: Tensor) -> None:
            # Where a piece begins in the memory of masks is its place in the vector.
            fill_uniform(mask, self._seed, "concrete", step, int(mask.storage_offset()))
            mask.copy_(self._relaxation.mask(part, mask))

        over_pieces(fill, self._mask, parameters)
        return self._mask

    def pull(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        """Return ∂R/∂a of the mask formed last; overwritten by the next."""

        def fill(out: Tensor, part: Tensor, mask: Tensor, logits: Tensor) -> None:
            torch.mul(self._relaxation.slope(mask, logits), part, out=out)

        over_pieces(fill, self._gradient, gradient, self._mask, parameters)
        return self._gradient


class Gates:
    """Parameters under way: a mask at each step, and what the mask's gradient does to them.

    start: (g,) parameters, one for each of `groups`. forming: how masks are made of them. optimizer: makes their
    optimiser, whose learning rate `move` sets.
    """

    def __init__(
        self, start: Tensor, groups: Groups, forming: Forming, optimizer: Callable[[list[Tensor]], Optimizer]
    ) -> None:
        self.parameters = start.clone().requires_grad_()
        self.groups = groups
        self._forming = forming
        self._optimizer = optimizer([self.parameters])

    def mask(self, step: int) -> Tensor:
        """Return the mask (d,) of a step, a leaf that asks for its gradient."""
        with torch.no_grad():
            formed = self._forming.mask(self.parameters.detach(), step)
            return self.groups.expand(formed).detach().requires_grad_()

    @torch.no_grad()
    def pull(self, gradient: Tensor) -> Tensor:
        """Return ∂R/∂parameters (g,) from ∂R/∂z (d,) of the mask of the last step."""
        return self._forming.pull(self.groups.reduce(gradient), self.parameters.detach())

    def move(self, gradient: Tensor, learning_rate: float) -> None:
        """Take one step of the optimiser along a gradient (g,)."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self.parameters.grad = gradient
        self._optimizer.step()
        self.parameters.grad = None

    @torch.no_grad()
    def clamp(self, low: float, high: float, parts: Sequence[int]) -> None:
        """Keep the parameters of some parts of the groups between two bounds."""
        views = self.parameters.split(list(self.groups.layout().counts))
        for view in [self.parameters] if len(parts) == len(views) else [views[part] for part in parts]:
            view.clamp_(low, high)

    def state(self) -> dict[str, Any]:
        """Return parameters and optimiser."""
        return {"parameters": self.parameters.detach(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""
        with torch.no_grad():
            self.parameters.copy_(state["parameters"])
        self._optimizer.load_state_dict(state["optimizer"])
