"""Arithmetic that several floors share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor, half precision widened: softmaxes, standard deviations and logits are too coarse in it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def softmax_kl(output: Tensor, reference: Tensor, dim: int) -> Tensor:
    """Return KL( softmax output || softmax reference ) over one axis, which the result lacks."""
    log_p = F.log_softmax(at_least_float32(output), dim=dim)
    log_q = F.log_softmax(at_least_float32(reference), dim=dim)
    return (log_p.exp() * (log_p - log_q)).sum(dim=dim)


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape and hold the same, what is no number (NaN) included."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def distance(wanted: Tensor, found: Tensor) -> float:
    """Return the largest difference between two outputs, over their size; infinite for two shapes."""
    if wanted.shape != found.shape:
        return float("inf")
    return float((wanted - found).abs().max()) / max(float(wanted.abs().max()), 1e-6)
