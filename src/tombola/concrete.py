"""Relaxed masks over one flat vector of logits: binary Concrete (Maddison et al. 2017; Louizos et al. 2018)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tombola.flat import over_pieces
from tombola.seeds import fill_uniform

TEMPERATURE = 2 / 3
# Bounds of the uniform noise: the published lower one, and the largest float32 below 1.
_SMALLEST, _LARGEST = 1e-10, 1 - 2**-24


def logit(share: float) -> float:
    """Return the a at which sigmoid(a) is the share, which lies between 0 and 1."""
    return math.log(share) - math.log1p(-share)


def initial_logits(density: float, total: int, like: Tensor) -> Tensor:
    """Return `total` logits at logit(density), so that the expected density is the wanted one."""
    return torch.full((total,), logit(density), dtype=like.dtype, device=like.device)


def sample(logits: Tensor, noise: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return z = sigmoid(logit(u)/temperature + a), a relaxed mask in (0, 1) for each logit a.

    logits, noise u in [0, 1): vectors of the same length. Differentiable in the logits.
    """
    logistic = noise.clamp(_SMALLEST, _LARGEST).logit_().div_(temperature)
    return torch.sigmoid(logistic.add_(logits))


def straight_through(logits: Tensor, noise: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return z = 1 where u < sigmoid(a), else 0, with the gradient of sigmoid(a) (Bengio et al. 2013); an ablation.

    There is no temperature; the argument is there for the common signature.
    """
    gates = torch.sigmoid(logits)
    return (noise < gates).to(gates.dtype) + gates - gates.detach()


def deterministic(logits: Tensor, noise: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return z = sigmoid(a), without noise or temperature; an ablation."""
    return torch.sigmoid(logits)


def slope(gates: Tensor) -> Tensor:
    """Return s(1 - s) of s = sigmoid(a), which is ds/da, in one pass."""
    return torch.addcmul(gates, gates, gates, value=-1)


@dataclass(frozen=True)
class Relaxation:
    """How masks are made of logits.

    mask: z of logits a, uniform noise u in [0, 1) and temperature, differentiable in a. slope: dz/da of z and a. All
    element by element.
    """

    mask: Callable[[Tensor, Tensor, float], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


RELAXATIONS = {
    "concrete": Relaxation(sample, lambda mask, logits: slope(mask)),
    "straight-through": Relaxation(straight_through, lambda mask, logits: slope(torch.sigmoid(logits))),
    "deterministic": Relaxation(deterministic, lambda mask, logits: slope(mask)),
}


class Sampler:
    """Samples masks from logits step after step, in memory of its own: new memory costs more than the arithmetic.

    logits: (d,). seed: of the noise, which depends on it, on the step and on the place alone, however many threads
    share the work. The mask of one step is overwritten by that of the next.
    """

    def __init__(self, logits: Tensor, relaxation: Relaxation, temperature: float, seed: int) -> None:
        self._logits, self._relaxation, self._temperature, self._seed = logits, relaxation, temperature, seed
        self._mask, self._gradient = torch.empty_like(logits), torch.empty_like(logits)

    def draw(self, step: int) -> Tensor:
        """Return the mask z (d,) of a step, a leaf that asks for its gradient."""

        def fill(mask: Tensor, logits: Tensor) -> None:
            # Where a piece begins in the memory of masks is its place in the vector.
            fill_uniform(mask, self._seed, "concrete", step, int(mask.storage_offset()))
            mask.copy_(self._relaxation.mask(logits, mask, self._temperature))

        over_pieces(fill, self._mask, self._logits)
        return self._mask.detach().requires_grad_()

    def pull(self, gradient: Tensor) -> Tensor:
        """Return ∂R/∂a from ∂R/∂z of the mask drawn last; overwritten by the next."""

        def fill(out: Tensor, part: Tensor, mask: Tensor, logits: Tensor) -> None:
            torch.mul(self._relaxation.slope(mask, logits), part, out=out)

        over_pieces(fill, self._gradient, gradient, self._mask, self._logits)
        return self._gradient


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
