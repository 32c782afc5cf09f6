"""The dense network's outputs: stored once per sample where the data allows, else recomputed."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from tombola.core.cost import Cost, Meter
from tombola.core.flat import Layout
from tombola.core.progress import Progress
from tombola.core.seeds import seeded
from tombola.data import Feed, Item, OutputTable
from tombola.errors import TicketWarning, UsageError
from tombola.networks.network import (
    FrozenNetwork,
    estimate_statistics,
    keeps_statistics,
    lacks_statistics,
    uses_batch_statistics,
)
from tombola.networks.runtime import Runtime
from tombola.networks.task import Batch, Output, Task, batch_size, exchanged
from tombola.storage.store import StoreEntry

# Raised when the same network's stored outputs change.
VERSION = 4
# Outputs larger than this many numbers in all (1 GiB of float32) are recomputed rather than stored.
LARGEST_TABLE = 2**28
# One pass over the data settles running statistics; of very long data this many batches do.
STATISTICS_BATCHES = 200
# Fresh networks reach 1.05 to 1.2 times the loss of their mean output on images, and 0.91 on tiny toys by chance;
# after one epoch of training it is well below 0.9.
INFORMED = 0.9
# Of the loss for others' targets, which is larger than the mean output's: fresh networks reach 0.92 times it, and
# linear toys 0.76 by chance; six steps of training bring it well below.
INFORMED_OF_OTHERS = 0.8
# Batches on which that is looked at.
INFORMING_BATCHES = 8


@dataclass
class Teacher:
    """Gives the dense network's output on a batch.

    how: in words, whether outputs are stored or recomputed. forward: samples that went through the network for it.
    seconds: what it took to make, also where its outputs were remembered from another time. samples: counts those of a
    batch.
    """

    network: FrozenNetwork
    table: OutputTable | None
    how: str
    forward: int = 0
    seconds: float = 0.0
    samples: Callable[[Batch], int] = batch_size

    def output(self, item: Item, batch: Batch) -> Output:
        """Return f's output on the item, whose batch is already in place."""
        if self.table is not None:
            return self.table(item)
        self.forward += self.samples(batch)
        return self.network.dense(batch)


def make_teacher(
    model: nn.Module,
    layout: Layout,
    task: Task,
    feed: Feed,
    runtime: Runtime,
    store_outputs: bool = True,
    entry: StoreEntry | None = None,
    by_batch: bool = False,
    shared: bool = False,
) -> Teacher:
    """Return the teacher for a model at its present values.

    Running statistics that never saw a batch are estimated first, on a copy. store_outputs: whether outputs will be
    asked for, so that storing them is worth a pass over the data. entry: remembers them for others who ask the same.
    by_batch: normalise by the statistics of each batch, as the published searches do, in place of the running ones.
    shared: see `FrozenNetwork`.
    """
    meter, counted = Meter(), _Counter(task.samples)
    estimated = lacks_statistics(model) and not by_batch
    with seeded(0, "teacher", device=runtime.device):
        if estimated:
            batches = counted.through(item.batch for item in islice(feed.epoch(0), STATISTICS_BATCHES))
            model, shared = estimate_statistics(model, batches, task, runtime), True
        network = FrozenNetwork(model, layout, task, runtime, shared)
        if by_batch:
            if keeps_statistics(network.model):
                entry = None  # what is stored there are the outputs of the same network by its running statistics
            network.use_batch_statistics()
        if store_outputs:
            table, why, saved = _remembered(network, feed, runtime, counted, entry)
        else:
            table, why, saved = None, "the objective looks inside it", Cost()
    how = "outputs of the dense network are kept once per sample" if table else f"outputs are recomputed: {why}"
    if estimated:
        how += "; its running statistics, never set before, were estimated on the data"
    seconds = meter.read().seconds + saved.seconds
    return Teacher(network, table, how, counted.samples + saved.forward, seconds, task.samples)


def _remembered(
    network: FrozenNetwork, feed: Feed, runtime: Runtime, counted: "_Counter", entry: StoreEntry | None
) -> tuple[OutputTable | None, str, Cost]:
    """Return the look-up of outputs, or why there is none; and what was spent on it at another time."""
    if entry is None:
        return *_make_table(network, feed, runtime, counted), Cost()
    with entry.locked():
        stored = entry.get("outputs")
        if stored is not None:
            return OutputTable(runtime.move(stored["values"])), "", Cost(**stored["cost"])
        meter, before = Meter(), counted.samples
        table, why = _make_table(network, feed, runtime, counted)
        if table is not None:
            meter.count(forward=counted.samples - before)
            entry.put("outputs", {"values": table.values, "cost": meter.read().to_dict()})
    return table, why, Cost()


def _make_table(
    network: FrozenNetwork, feed: Feed, runtime: Runtime, counted: "_Counter"
) -> tuple[OutputTable | None, str]:
    if uses_batch_statistics(network.model):
        return None, "the network normalises by the statistics of each batch"

    def compute(batch: Batch) -> Output:
        counted.add(batch)
        return network.dense(runtime.move(batch))

    if feed.length is None:
        return None, "the data is a stream"
    first = next(iter(feed.epoch(0)), None)
    output = network.dense(runtime.move(first.batch)) if first is not None else None
    if not isinstance(output, Tensor):
        return None, "they are no tensors"
    if output.numel() * feed.length > LARGEST_TABLE:
        return None, "they would not fit in memory"
    return feed.remember(compute), "the data is a stream, or changes, or the outputs have no row for each sample"


class _Counter:
    """Counts samples as batches pass."""

    def __init__(self, count: Callable[[Batch], int]) -> None:
        self._count = count
        self.samples = 0

    def add(self, batch: Batch) -> None:
        self.samples += self._count(batch)

    def through(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.add(batch)
            yield batch


@torch.no_grad()
def is_informed(model: nn.Module, layout: Layout, task: Task, feed: Feed, runtime: Runtime) -> bool | None:
    """Whether a network's outputs predict its targets in a few batches: whether it has learned anything yet.

    Its loss is compared with that of its own mean output, which knows nothing of the input. By Jensen's inequality
    outputs that are independent of the targets cannot have the lower loss, for a loss convex in the output. Where
    outputs cannot be averaged over the samples, its loss is compared with that for targets of other samples. Returns
    None where batches do not tell their targets either. Raises UsageError where there is no batch.
    """
    frozen = FrozenNetwork(model, layout, task, runtime)
    if lacks_statistics(model):
        frozen.use_batch_statistics()
    with seeded(0, "teacher", device=runtime.device):
        given = [item.batch for item in islice(feed.epoch(0), INFORMING_BATCHES)]
        if not given:
            raise UsageError("the data gave no batch, as loaders with drop_last do that hold less than one")
        samples, batches = [task.samples(batch) for batch in given], [runtime.move(batch) for batch in given]
        outputs = [frozen.dense(batch) for batch in batches]
        if all(_has_rows(output, count) for output, count in zip(outputs, samples, strict=True)):
            own, other = _against_mean(task, [output.float() for output in outputs], batches)
            return own < INFORMED * other
        strangers = exchanged(batches)
        if strangers is not None:
            own = _total(task, outputs, batches)
            return own < INFORMED_OF_OTHERS * _total(task, [frozen.dense(b) for b in strangers], strangers)
    return None


def _has_rows(output: Output, samples: int) -> bool:
    return isinstance(output, Tensor) and output.shape[:1] == (samples,)


def _against_mean(task: Task, outputs: list[Tensor], batches: list[Batch]) -> tuple[float, float]:
    """Return the loss of some outputs (N, ...), and that of their mean in place of each."""
    mean = torch.cat(outputs).mean(dim=0, keepdim=True)
    return _total(task, outputs, batches), _total(task, [mean.expand_as(output) for output in outputs], batches)


def _total(task: Task, outputs: list[Output], batches: list[Batch]) -> float:
    return sum(
        float(task.loss(output, batch)) * task.counted(batch) for output, batch in zip(outputs, batches, strict=True)
    )


def usual_objective(
    model: nn.Module, layout: Layout, task: Task, feed: Feed, runtime: Runtime, progress: Progress
) -> str:
    """Return the objective for a search of which none was asked: reverse-kl where the network has learned something.

    Else it is the loss, which is said; where nothing tells, by a TicketWarning.
    """
    informed = is_informed(model, layout, task, feed, runtime)
    if informed:
        return "reverse-kl"
    if informed is None:
        warnings.warn(
            "objective: loss, since batches do not tell whether the network has learned anything; give an objective",
            TicketWarning,
            stacklevel=2,
        )
    else:
        progress.say("objective: loss, since the network's outputs do not predict its targets yet")
    return "loss"
