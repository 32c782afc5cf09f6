"""Regression of (inputs, targets) batches by squared error."""

import torch.nn.functional as F
from torch import Tensor

from tombola.errors import UsageError
from tombola.networks.task.batches import Batch, Output
from tombola.networks.task.classification import in_shape, targets_of


def squared_error(output: Output, batch: Batch) -> Tensor:
    """Mean squared error of an output from the targets, of the same shape but for axes of length 1.

    Raises UsageError for targets of any other shape.
    """
    targets = _fitted(output, batch)
    return F.mse_loss(output.float(), targets)


def _fitted(output: Output, batch: Batch) -> Tensor:
    """Return the targets in the shape of the outputs; raises UsageError where they have another."""
    targets = targets_of(batch)
    if not isinstance(output, Tensor):
        raise UsageError(f"the model's output, {in_shape(output)}, is no tensor of numbers")
    # (N, 1) and (N,) are the same numbers; PyTorch would compare every one with every other.
    if output.squeeze().shape != targets.squeeze().shape:
        raise UsageError(
            f"data's targets of shape {tuple(targets.shape)} do not fit the model's outputs of shape "
            f"{tuple(output.shape)}: regression needs a target for each output"
        )
    return targets.reshape(output.shape).float()


def squared_distance(output: Output, reference: Output, batch: Batch) -> Tensor:
    """Mean squared error of one output from another; for regression both KLs become this."""
    return F.mse_loss(output.float(), reference.float())


def negative_error(output: Output, batch: Batch) -> Tensor:
    """The squared error with its sign turned, so that larger is better."""
    return -squared_error(output, batch)


def negative_absolute_error(output: Output, batch: Batch) -> Tensor:
    """The mean absolute error with its sign turned."""
    return -F.l1_loss(output.float(), _fitted(output, batch))


def itself(output: Output) -> Tensor:
    """The output."""
    found: Tensor = output
    return found
