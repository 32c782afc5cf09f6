"""Relaxed masks over one flat vector of logits: binary Concrete (Maddison et al. 2017; Louizos et al. 2018)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2 / 3
# Bounds of the uniform noise: the published lower one, and the largest float32 below 1.
_SMALLEST, _LARGEST = 1e-10, 1 - 2**-24


def initial_logits(density: float, total: int, like: Tensor) -> Tensor:
    """Return `total` logits at logit(density), so that the expected density is the wanted one."""
    start = math.log(density) - math.log1p(-density)
    return torch.full((total,), start, dtype=like.dtype, device=like.device)


def sample(logits: Tensor, noise: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return z = sigmoid(logit(u)/temperature + a), a relaxed mask in (0, 1) for each logit a.

    logits, noise u in [0, 1): vectors of the same length. Differentiable in the logits.
    """
    noise = noise.clamp(_SMALLEST, _LARGEST)
    return torch.sigmoid(torch.logit(noise) / temperature + logits)


def straight_through(logits: Tensor, noise: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return z = 1 where u < sigmoid(a), else 0, with the gradient of sigmoid(a) (Bengio et al. 2013); an ablation.

    There is no temperature; the argument is there for the common signature.
    """
    gates = torch.sigmoid(logits)
    return (noise < gates).to(gates.dtype) + gates - gates.detach()


def deterministic(logits: Tensor, noise: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return z = sigmoid(a), without noise or temperature; an ablation."""
    return torch.sigmoid(logits)


RELAXATIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "concrete": sample,
    "straight-through": straight_through,
    "deterministic": deterministic,
}


def draw_noise(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return one uniform number for each logit, from the generator's device."""
    noise = torch.rand(logits.shape, generator=generator, dtype=logits.dtype, device=generator.device)
    return noise.to(logits.device)


def expected_density(logits: Tensor) -> float:
    """Return mean(sigmoid(a))."""
    return float(torch.sigmoid(logits).mean(dtype=torch.float64))


def hard_density(logits: Tensor) -> float:
    """Return the fraction of gates that are open on their own (a > 0)."""
    return float((logits > 0).mean(dtype=torch.float64))


def mean_entropy(logits: Tensor) -> float:
    """Return the mean entropy of the gates, in nats: softplus(a) - a * sigmoid(a)."""
    return float((F.softplus(logits) - logits * torch.sigmoid(logits)).mean(dtype=torch.float64))
