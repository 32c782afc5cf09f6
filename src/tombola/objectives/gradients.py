"""Objectives that look at gradients, by double backward: grad-norm, grad-match."""

import torch
from torch import Tensor

from tombola.objectives.view import View

# Keeps a tensor without spread, such as the gradient of an empty layer, from dividing by zero.
SMALLEST_SPREAD = 1e-12


def grad_norm(view: View) -> Tensor:
    """Return -‖∇_θ loss(f_z)‖₂ over all parameters: how fast the sparse network starts to learn."""
    return -torch.linalg.vector_norm(view.gradient(view.network, view.mask, every_parameter=True))


def grad_match(view: View) -> Tensor:
    """Return the mean over prunable tensors of the MSE between the standardised gradients of f_z and of f."""
    sparse = view.network.layout.views(view.gradient(view.network, view.mask))
    dense = view.network.layout.views(view.gradient(view.teacher.network, None))
    distances = [(standardised(sparse[name]) - standardised(dense[name])).square().mean() for name in sparse]
    return torch.stack(distances).mean()


def standardised(tensor: Tensor) -> Tensor:
    """Return a tensor with mean 0 and (unbiased) standard deviation 1 over all its entries."""
    spread = tensor.std() if tensor.numel() > 1 else tensor.abs().sum() * 0
    return (tensor - tensor.mean()) / (spread + SMALLEST_SPREAD)
