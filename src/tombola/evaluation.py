"""Metric and loss of a model on data."""

from dataclasses import dataclass

import torch
from torch import nn

from tombola.data import Feed
from tombola.errors import UsageError
from tombola.runtime import Runtime
from tombola.task import Task, batch_size


@dataclass(frozen=True)
class Evaluation:
    """Means over all samples: the task's metric (accuracy as a fraction) and loss."""

    metric: float
    loss: float
    samples: int


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, feed: Feed, runtime: Runtime) -> Evaluation:
    """Evaluate a model, in eval mode, on one epoch of a feed; its training mode is put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    metric = loss = 0.0
    samples = 0
    try:
        for item in feed.epoch(0):
            batch = runtime.move(item.batch)
            count = batch_size(batch)
            with runtime.autocast():
                output = task.forward(model, batch)
            metric += float(task.metric(output, batch)) * count
            loss += float(task.loss(output, batch)) * count
            samples += count
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not samples:
        raise UsageError("data is empty: there is nothing to evaluate on")
    return Evaluation(metric / samples, loss / samples, samples)
