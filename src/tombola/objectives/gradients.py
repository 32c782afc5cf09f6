"""Objectives that look at gradients, by double backward: grad-norm, grad-match."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.objectives.base import Objective
from tombola.objectives.masked_batch import MaskedBatch

# Keeps a tensor without spread, such as the gradient of an empty layer, from dividing by zero.
SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True)
class GradNorm(Objective):
    """How fast the sparse network starts to learn."""

    name: ClassVar[str] = "grad-norm"
    backward: ClassVar[int] = 4
    over: ClassVar[str] = "batch"

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return -‖∇_θ loss(f_z)‖₂ over all parameters."""
        found: Tensor = -torch.linalg.vector_norm(masked.gradient(masked.network, masked.mask, every_parameter=True))
        return found


@dataclass(frozen=True)
class GradMatch(Objective):
    """How far the gradients of f_z and of f are apart, tensor by tensor."""

    name: ClassVar[str] = "grad-match"
    asks_network: ClassVar[bool] = True
    forward: ClassVar[int] = 2
    backward: ClassVar[int] = 5
    over: ClassVar[str] = "batch"

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return the mean over prunable tensors of the MSE between the standardised gradients."""
        sparse = masked.network.layout.views(masked.gradient(masked.network, masked.mask))
        dense = masked.network.layout.views(masked.gradient(masked.teacher.network, None))
        distances = [(standardised(sparse[name]) - standardised(dense[name])).square().mean() for name in sparse]
        return torch.stack(distances).mean()


def standardised(tensor: Tensor) -> Tensor:
    """Return a tensor with mean 0 and (unbiased) standard deviation 1 over all its entries."""
    spread = tensor.std() if tensor.numel() > 1 else tensor.abs().sum() * 0
    return (tensor - tensor.mean()) / (spread + SMALLEST_SPREAD)
