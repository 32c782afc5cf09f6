"""Task: how to run a model on a batch, and how to read what comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import UsageError

Batch = Any
Output = Any


def batch_size(batch: Batch) -> int:
    """Return the number of samples in a batch: the length of the first tensor found in it."""
    if isinstance(batch, Tensor):
        return batch.shape[0]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.dim() > 0:
            return part.shape[0]
    raise UsageError(f"a batch must hold a tensor, got {type(batch).__name__}")


def forward_inputs(model: nn.Module, batch: Batch) -> Output:
    """Run the model on the first entry of an (inputs, targets) batch."""
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise UsageError(
            f"a batch must be a pair (inputs, targets), got {type(batch).__name__}; give task= for anything else"
        )
    return model(batch[0])


def cross_entropy(output: Output, batch: Batch) -> Tensor:
    """Cross-entropy, mean over the batch. output: (N, C, ...); batch: (inputs, targets)."""
    return F.cross_entropy(_wide(output), batch[1])


def softmax_divergence(output: Output, reference: Output, batch: Batch) -> Tensor:
    """KL( softmax output || softmax reference ) over the class axis, mean over the batch.

    Both (N, C, ...). Further axes (pixels) count as samples.
    """
    log_p = F.log_softmax(_wide(output), dim=1)
    log_q = F.log_softmax(_wide(reference), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def probabilities(output: Output) -> Tensor:
    """Softmax over the class axis."""
    return _wide(output).softmax(dim=1)


def _wide(tensor: Tensor) -> Tensor:
    """Return at least float32: a softmax in half precision is too coarse to compare."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def accuracy(output: Output, batch: Batch) -> Tensor:
    """Fraction of samples whose largest output is the target."""
    return (output.argmax(dim=1) == batch[1]).double().mean()


@dataclass(frozen=True)
class Task:
    """How to use a model; the default is classification of (inputs, targets) batches.

    forward: runs the model on a batch.
    loss: mean over the batch, of an output.
    divergence: of one output from another, mean over the batch; not negative, 0 where they agree.
    metric: of an output, the larger the better.
    prediction: of an output, the last of the features that feature-mse compares; (N, ...).
    """

    forward: Callable[[nn.Module, Batch], Output] = forward_inputs
    loss: Callable[[Output, Batch], Tensor] = cross_entropy
    divergence: Callable[[Output, Output, Batch], Tensor] = softmax_divergence
    metric: Callable[[Output, Batch], Tensor] = accuracy
    prediction: Callable[[Output], Tensor] = probabilities
