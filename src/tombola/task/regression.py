"""Regression of (inputs, targets) batches by squared error."""

import torch.nn.functional as F
from torch import Tensor

from tombola.task.batches import Batch, Output


def squared_error(output: Output, batch: Batch) -> Tensor:
    """Mean squared error of an output from the targets, of the same shape."""
    return F.mse_loss(output.float(), batch[1].float())


def squared_distance(output: Output, reference: Output, batch: Batch) -> Tensor:
    """Mean squared error of one output from another; for regression both KLs become this."""
    return F.mse_loss(output.float(), reference.float())


def negative_error(output: Output, batch: Batch) -> Tensor:
    """The squared error with its sign turned, so that larger is better."""
    return -squared_error(output, batch)


def itself(output: Output) -> Tensor:
    """The output."""
    return output
