"""The optimisers of a recipe."""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from tombola.core.parts import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, Part, option
from tombola.core.plugins import explained
from tombola.core.written import Family
from tombola.errors import UsageError
from tombola.training.sign_in import SignInOptimizer


@runtime_checkable
class Optimizer(Protocol):
    """Makes the optimiser of a training.

    The recipe sets the learning rate of its first group before every step, and those of others in proportion. One that
    says by_shape = False has no use for the weights' shapes, so that tickets may train with it by their kept weights
    alone, vectors; any other of one's own has them train dense.
    """

    def build(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters, whose step() needs no closure."""


def made_by(
    part: Optimizer, parameters: list[Tensor], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return what a part builds; raises UsageError where that fails, or is nothing that the training loop can step."""
    with explained("optimizer", type(part).__name__, "failed to build"):
        found: object = part.build(parameters, learning_rate, weight_decay)
    if not isinstance(found, torch.optim.Optimizer) or not _is_stepped_alone(found):
        raise UsageError(
            "must build a torch.optim.Optimizer whose groups have a learning rate (lr) and whose step() needs no "
            f"closure, got {type(found).__name__} of {type(part).__name__}",
            option="optimizer",
        )
    return found


def _is_stepped_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Whether step() may be called without an argument, at a learning rate that is set from outside."""
    arguments = inspect.signature(optimizer.step).parameters.values()
    asked = [each for each in arguments if each.default is each.empty and each.kind not in _ANY_NUMBER]
    return not asked and all("lr" in group for group in optimizer.param_groups)


_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class SGD(Part):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    name: ClassVar[str] = "sgd"
    momentum: float = option(0.9, "momentum of SGD", must=BELOW_ONE, flag="momentum", group="training")
    nesterov: bool = option(False, "Nesterov's momentum", flag="nesterov", group="training")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise UsageError("must be false where momentum is 0, got True", option="nesterov")

    def build(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=self.momentum, weight_decay=weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class AdamW(Part):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    name: ClassVar[str] = "adamw"
    beta1: float = option(0.9, "decay of the gradients' mean", must=BELOW_ONE)
    beta2: float = option(0.999, "decay of their squares' mean", must=BELOW_ONE)
    epsilon: float = option(1e-8, "added to the root of the squares' mean", must=POSITIVE)

    def build(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""
        settings: dict[str, Any] = {"betas": (self.beta1, self.beta2), "eps": self.epsilon}
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, **settings)


# What others may wrap.
PLAIN: Family[Optimizer] = Family("inner", {kind.name: kind() for kind in (SGD, AdamW)}, Optimizer)
# How far a hyperbolic step goes at most, in the exponent.
FARTHEST = 5.0


@dataclass(frozen=True)
class HAM(Part):
    """A hyperbolic step after every step of another optimiser: θ <- θ exp(-η (α sign(θ) g + β)).

    Of weights of two dimensions and more; η is the learning rate, g the gradient of the step before, and the exponent
    is cut to [-5, 5] as in the authors' code. What a mask holds at zero stays there. Source: Jacobs et al. 2025, arXiv
    2506.02630, (HYP*), with the α and β of its ImageNet runs.
    """

    name: ClassVar[str] = "ham"
    by_shape: ClassVar[bool] = True
    inner: Optimizer = option(SGD(), "what steps the weights before ham: sgd, adamw", family=PLAIN)
    alpha: float = option(200.0, "how strongly ham follows the gradient", must=NOT_NEGATIVE)
    beta: float = option(1e-3, "how strongly ham shrinks weights", must=NOT_NEGATIVE)

    def build(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""
        optimizer = made_by(self.inner, parameters, learning_rate, weight_decay)
        optimizer.register_step_post_hook(lambda stepped, *_: self.bend(stepped))
        return optimizer

    @torch.no_grad()
    def bend(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the hyperbolic step."""
        for group in optimizer.param_groups:
            for weight in (each for each in group["params"] if each.grad is not None and each.dim() >= 2):
                exponent = (weight.sign() * weight.grad).mul_(self.alpha).add_(self.beta).mul_(-group["lr"])
                weight.mul_(exponent.clamp_(-FARTHEST, FARTHEST).exp_())


@dataclass(frozen=True)
class SignIn(Part):
    """Another optimiser steps m and w, of which every weight θ = m ⊙ w of two dimensions and more is the product.

    They start with m² - w² = β, and are brought back there every so many steps, θ staying what it is. Source: Gadhikar
    et al. 2025, arXiv 2504.12801 (β = 1; how often it resets could not be looked up: here about an epoch of CIFAR-10).
    """

    name: ClassVar[str] = "sign-in"
    version: ClassVar[int] = 2
    by_shape: ClassVar[bool] = True
    inner: Optimizer = option(SGD(), "what steps the factors of sign-in: sgd, adamw", family=PLAIN)
    scale: float = option(1.0, "β of sign-in, to which m² - w² is reset", must=POSITIVE)
    every: int = option(400, "steps between two resets of sign-in", must=COUNT)

    def build(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""

        def make(factors: list[Tensor]) -> torch.optim.Optimizer:
            return made_by(self.inner, factors, learning_rate, weight_decay)

        return SignInOptimizer(parameters, make, learning_rate, self.scale, self.every)


OPTIMIZERS: Family[Optimizer] = Family(
    "optimizer",
    {kind.name: kind() for kind in (SGD, AdamW, SignIn, HAM)},
    Optimizer,
)
