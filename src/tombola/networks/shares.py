"""Shares: batches divided over ranks, each of which runs the network on some of the samples."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tombola.core.ranks import ALONE, Ranks
from tombola.data import Item, RowRange
from tombola.errors import UsageError
from tombola.networks.runtime import Runtime, changed
from tombola.networks.task import Batch, Task

# A batch with fewer samples a rank is not divided, but run whole by all of them: a network cannot normalise by one
# sample, and a mean over none is none.
FEWEST = 2


@dataclass(frozen=True)
class Portion:
    """Which part of a batch's samples, and of what the task counts of it, a rank has."""

    of_samples: float = 1.0
    of_counted: float = 1.0
    ranks: Ranks = ALONE

    def mean(self, value: Tensor) -> Tensor:
        """Return a mean over all that the task counts, differentiable, from that over what it counts of the portion."""
        return self.ranks.mean(value, self.of_counted)

    def mean_of_samples(self, value: Tensor) -> Tensor:
        """Return the same of a mean over samples."""
        return self.ranks.mean(value, self.of_samples)

    def gradient(self, value: Tensor, leaf: Tensor) -> Tensor:
        """Return the gradient of a scalar of the whole batch, the same on all ranks, in a leaf that all have."""
        return self.ranks.total([torch.autograd.grad(self.ranks.piece(value), leaf)[0]])[0]


WHOLE = Portion()


@dataclass(frozen=True)
class Share:
    """What a rank has of a batch: all of it where there is one rank, or too little to divide.

    item: like the feed's. batch: in its place. samples: of the whole batch. counts: what the task counts of each rank's
    part, where the batch is divided.
    """

    item: Item
    batch: Batch
    task: Task
    samples: int
    portion: Portion = WHOLE
    counts: tuple[int, ...] = ()

    @property
    def counted(self) -> int:
        """What the task counts of the whole batch."""
        return sum(self.counts) if self.counts else self.task.counted(self.batch)

    @property
    def times(self) -> float:
        """How many times as many samples as the share the batch has."""
        return self.samples / self.task.samples(self.batch)


def share_of(item: Item, task: Task, runtime: Runtime) -> Share:
    """Return this rank's share of a batch; raises UsageError for one that cannot be divided."""
    ranks, samples = runtime.ranks, task.samples(item.batch)
    if ranks.size > 1 and samples >= FEWEST * ranks.size:
        bounds = pairwise(samples * rank // ranks.size for rank in range(ranks.size + 1))
        parts = [rows_of(item, RowRange(*pair, samples), task) for pair in bounds]
        counts = tuple(task.counted(part.batch) for part in parts)
        if all(counts):
            mine = parts[ranks.rank]
            of = task.samples(mine.batch) / samples, counts[ranks.rank] / sum(counts)
            return Share(mine, runtime.move(mine.batch), task, samples, Portion(*of, ranks), counts)
    return Share(item, runtime.move(item.batch), task, samples, Portion(1 / ranks.size, 1 / ranks.size, ranks))


def rows_of(item: Item, rows: RowRange, task: Task) -> Item:
    """Return an item of some of its samples; raises UsageError where it does not tell whose a tensor is.

    Tensors are cut, and lists with as many entries as samples. Where such a list stands for the inputs of a pair, and
    all its entries are tensors with as many rows, they are taken for several inputs, and are cut each.
    """
    pair = isinstance(item.batch, list | tuple) and len(item.batch) == 2
    inputs = item.batch[0] if pair else None

    def belongs(part: Any) -> bool:
        if isinstance(part, Tensor):
            if part.dim() and part.shape[0] != rows.of:
                raise UsageError(_INDIVISIBLE.format(f"a tensor of shape {tuple(part.shape)}", rows.of))
            return part.dim() > 0
        if not isinstance(part, list) or part is item.batch or len(part) != rows.of:
            return False
        of_each = [isinstance(entry, Tensor) and entry.shape[:1] == (rows.of,) for entry in part]
        return not (part is inputs and all(of_each))

    batch = changed(item.batch, belongs, lambda part: part[rows.begin : rows.end])
    if task.samples(batch) != rows.end - rows.begin:
        raise UsageError(_INDIVISIBLE.format(type(item.batch).__name__, rows.of))
    if isinstance(item.key, Tensor):
        return Item(batch, item.key[rows.begin : rows.end])
    return Item(batch, item.key, rows)


_INDIVISIBLE = (
    "data's batches cannot be divided over processes: one holds {}, and not one entry for each of its {} samples along "
    "the first axis; take one process"
)
