"""The optimisers of a recipe."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from tombola.core.parts import BELOW_ONE, POSITIVE, Part, option
from tombola.core.written import Family
from tombola.errors import UsageError


@runtime_checkable
class Optimizer(Protocol):
    """Makes the optimiser of a training; the recipe sets its learning rate before every step."""

    def build(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""


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


OPTIMIZERS: Family[Optimizer] = Family(
    "optimizer",
    {kind.name: kind() for kind in (SGD, AdamW)},
    Optimizer,
)
