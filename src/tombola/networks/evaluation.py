"""Metric and loss of a model on data."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tombola.core.seeds import seeded
from tombola.data import Feed
from tombola.errors import UsageError
from tombola.networks.network import explained_batches, explained_run, modes_kept
from tombola.networks.runtime import Runtime
from tombola.networks.task import Batch, Pooled, Task

# Raised when the same network on the same data measures otherwise.
VERSION = 2


@dataclass(frozen=True)
class Evaluation:
    """The task's metric (accuracy as a fraction) and loss: means over all that the task counts, or of their counts."""

    metric: float
    loss: float
    samples: int


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, feed: Feed, runtime: Runtime) -> Evaluation:
    """Evaluate a model, in eval mode, on one epoch of a feed; its training mode is put back afterwards.

    A model that draws random numbers even so draws the same ones in every evaluation. Raises UsageError where the feed
    gives nothing that the task counts.
    """
    with modes_kept(model):
        model.eval()
        with seeded(0, "evaluation", device=runtime.device):
            return _means(model, task, feed, runtime)


def _means(model: nn.Module, task: Task, feed: Feed, runtime: Runtime) -> Evaluation:
    ranks = runtime.ranks
    mine = {
        place: _measured(model, task, item.batch, runtime)
        for place, item in enumerate(feed.epoch(0))
        if place % ranks.size == ranks.rank  # whole batches, so that the figures are the same bits however many share
    }
    found = {place: each for part in ranks.gathered(mine) for place, each in part.items()}
    metric = loss = 0.0
    pooled = task.metric if isinstance(task.metric, Pooled) else None
    total = torch.zeros((), dtype=torch.float32, device="cpu")
    counted = samples = 0
    for place in sorted(found):
        size, count, of_metric, counts, of_loss = found[place]
        samples, counted = samples + size, counted + count
        metric, loss = metric + of_metric * count, loss + of_loss * count
        total = total if counts is None else total + counts
    if not counted:
        raise UsageError("data is empty, or has no target that counts: there is nothing to evaluate on")
    return Evaluation(pooled.value(total) if pooled else metric / counted, loss / counted, samples)


def _measured(
    model: nn.Module, task: Task, batch: Batch, runtime: Runtime
) -> tuple[int, int, float, Tensor | None, float]:
    """Return a batch's samples, how many items count of it, its mean metric, or counts for it, and its mean loss."""
    samples, count = task.samples(batch), task.counted(batch)
    batch = runtime.move(batch)
    if not count:  # a mean over nothing need be no number
        return samples, 0, 0.0, None, 0.0
    with runtime.autocast(), explained_run("model cannot be run on a batch of the data"), explained_batches():
        output = task.forward(model, batch)
    if isinstance(task.metric, Pooled):
        return samples, count, 0.0, task.metric.counts(output, batch).cpu(), float(task.loss(output, batch))
    return samples, count, float(task.metric(output, batch)), None, float(task.loss(output, batch))
