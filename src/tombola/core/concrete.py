"""Relaxed masks over one flat vector of logits: binary Concrete (Maddison et al. 2017; Louizos et al. 2018)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from tombola.core.flat import over_pieces
from tombola.core.parts import LARGEST, POSITIVE, Part, option
from tombola.core.written import Family

TEMPERATURE = 2 / 3
# Below it noise would leave float32's range; there all masks but those at u = 1/2 are 0 or 1 already.
LOWEST_TEMPERATURE = 1 / LARGEST
# Bounds of the uniform noise: the published lower one, and the largest float32 below 1.
SMALLEST, _LARGEST = 1e-10, 1 - 2**-24


def logit(share: float) -> float:
    """Return the a at which sigmoid(a) is the share, which lies between 0 and 1."""
    return math.log(share) - math.log1p(-share)


def sample(logits: Tensor, noise: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return z = sigmoid(logit(u)/temperature + a), a relaxed mask in (0, 1) for each logit a.

    logits, noise u in [0, 1): vectors of the same length. Differentiable in the logits.
    """
    logistic = noise.clamp(SMALLEST, _LARGEST).logit_().div_(max(temperature, LOWEST_TEMPERATURE))
    return torch.sigmoid(logistic.add_(logits))


def slope(gates: Tensor) -> Tensor:
    """Return s(1 - s) of s = sigmoid(a), which is ds/da, in one pass."""
    return torch.addcmul(gates, gates, gates, value=-1)


@runtime_checkable
class Relaxation(Protocol):
    """How masks are made of logits, element by element."""

    def mask(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return z (n,) of logits a (n,) and uniform noise u (n,) in [0, 1)."""

    def slope(self, mask: Tensor, logits: Tensor) -> Tensor:
        """Return dz/da (n,) of z and a."""


@dataclass(frozen=True)
class Concrete(Part):
    """z = sigmoid(logit(u)/τ + a), as published."""

    name: ClassVar[str] = "concrete"
    temperature: float = option(
        TEMPERATURE,
        "temperature τ of the binary Concrete distribution",
        must=POSITIVE,
        flag="temperature",
        unset="2/3",
        group="search",
    )

    def mask(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return z of logits and noise."""
        return sample(logits, noise, self.temperature)

    def slope(self, mask: Tensor, logits: Tensor) -> Tensor:
        """Return z(1 - z)."""
        return slope(mask)


@dataclass(frozen=True)
class StraightThrough(Part):
    """z = 1 where u < sigmoid(a), else 0, with the gradient of sigmoid(a) (Bengio et al. 2013); an ablation."""

    name: ClassVar[str] = "straight-through"
    version: ClassVar[int] = 2

    def mask(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return z of logits and noise."""
        gates = torch.sigmoid(logits)
        return (noise < gates).to(gates.dtype)

    def slope(self, mask: Tensor, logits: Tensor) -> Tensor:
        """Return the slope of sigmoid(a)."""
        return slope(torch.sigmoid(logits))


@dataclass(frozen=True)
class Deterministic(Part):
    """z = sigmoid(a), without noise; an ablation."""

    name: ClassVar[str] = "deterministic"

    def mask(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return z of the logits."""
        return torch.sigmoid(logits)

    def slope(self, mask: Tensor, logits: Tensor) -> Tensor:
        """Return z(1 - z)."""
        return slope(mask)


RELAXATIONS: Family[Relaxation] = Family(
    "relaxation",
    {kind.name: kind() for kind in (Concrete, StraightThrough, Deterministic)},
    Relaxation,
)


def relaxation_option() -> Any:
    """Declare how the masks of a search are sampled."""
    words = "how masks are sampled: concrete; ablations straight-through, deterministic"
    return option(Concrete(), words, family=RELAXATIONS, group="search")


def expected_density(logits: Tensor, sizes: Tensor | None = None) -> float:
    """Return mean(sigmoid(a)) over weights; sizes: how many each logit stands for, (g,), one without."""
    if sizes is None:
        return _mean_of_pieces(torch.sigmoid, logits)
    return _over_weights(torch.sigmoid(logits), sizes)


def hard_density(logits: Tensor, sizes: Tensor | None = None) -> float:
    """Return the fraction of weights whose gates are open on their own (a > 0)."""
    is_open = logits > 0
    if sizes is None:
        return int(torch.count_nonzero(is_open)) / logits.numel()
    return _over_weights(is_open, sizes)


def _over_weights(values: Tensor, sizes: Tensor) -> float:
    weights = sizes.to(values.device, torch.float64)
    return float((values * weights).sum() / weights.sum())


def mean_entropy(logits: Tensor) -> float:
    """Return the mean entropy of the gates, in nats: softplus(a) - a * sigmoid(a)."""
    return _mean_of_pieces(lambda part: F.softplus(part) - part * torch.sigmoid(part), logits)


def _mean_of_pieces(function: Callable[[Tensor], Tensor], values: Tensor) -> float:
    """Return the mean of a function, in float64; of a billion values each whole vector would take 4 GB."""
    sums = over_pieces(lambda part: function(part).sum(dtype=torch.float64), values)
    return float(torch.stack(sums).sum()) / values.numel()
