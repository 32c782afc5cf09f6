"""Sign-In: weights are trained as products of two factors, which makes their signs change more easily."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tombola.training.rates import rates_beside, set_learning_rate


def split(weights: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return m and w with m w = θ and m² - w² = β, m above zero."""
    first = (((scale**2 + 4 * weights.square()).sqrt() + scale) / 2).sqrt()
    return first, weights / first


class SignInOptimizer(Optimizer):
    """Steps m and w in place of every θ = m ⊙ w of two dimensions and more, by an optimiser within.

    Every so many steps m and w are chosen anew for the same θ with m² - w² = β, and so are those of weights that
    somebody else set since the last step (a mask, a state that was loaded); what the optimiser within remembers of the
    old ones it forgets. parameters: of the network; those of fewer dimensions are stepped as they are, and frozen ones
    (requires_grad False) are left alone. make: builds the optimiser within.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        make: Callable[[list[Tensor]], Optimizer],
        learning_rate: float,
        scale: float,
        every: int,
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate})
        self._scale, self._every, self._steps = scale, every, 0
        self._whole = [parameter for parameter in parameters if parameter.dim() >= 2 and parameter.requires_grad]
        with torch.no_grad():
            self._factors = [split(parameter, scale) for parameter in self._whole]
        inner = [factor.requires_grad_() for pair in self._factors for factor in pair]
        plain = [parameter for parameter in parameters if parameter.dim() < 2 or not parameter.requires_grad]
        self._within = make([*inner, *plain])
        self._beside = rates_beside(self._within)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step the factors, and set the weights to their products."""
        found = None if closure is None else torch.enable_grad()(closure)()
        set_learning_rate(self._within, self.param_groups[0]["lr"], self._beside)
        anew = self._steps % self._every == 0
        for weight, pair in zip(self._whole, self._factors, strict=True):
            self._follow(weight, pair, anew)
            for factor, other in (pair, pair[::-1]):
                factor.grad = None if weight.grad is None else weight.grad * other
        self._within.step()
        for weight, (first, second) in zip(self._whole, self._factors, strict=True):
            weight.copy_(first * second)
        self._steps += 1
        return found

    def _follow(self, weight: Tensor, pair: tuple[Tensor, Tensor], anew: bool) -> None:
        """Split weights anew: all, or those whose factors' product they are not, or cannot leave zero."""
        first, second = pair
        stale = (first * second != weight) | ((first == 0) & (second == 0))
        stale = torch.ones_like(stale) if anew and self._steps else stale
        for factor, found in zip(pair, split(weight, self._scale), strict=True):
            factor.copy_(torch.where(stale, found, factor))
            for remembered in self._within.state.get(factor, {}).values():
                if isinstance(remembered, Tensor) and remembered.shape == factor.shape:
                    remembered.masked_fill_(stale, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return factors, the optimiser within, and the number of steps."""
        factors = [[first.detach(), second.detach()] for first, second in self._factors]
        return {**super().state_dict(), "factors": factors, "within": self._within.state_dict(), "steps": self._steps}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from an earlier `state_dict()`."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for pair, found in zip(self._factors, state_dict["factors"], strict=True):
            for factor, value in zip(pair, found, strict=True):
                factor.copy_(value)
        self._within.load_state_dict(state_dict["within"])
        self._steps = state_dict["steps"]
