"""Whether a network and a task can be divided over ranks, looked at on the first batch, before any work."""

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from tombola.core.flat import Layout
from tombola.core.numeric import same_values
from tombola.core.seeds import GlobalState, seeded
from tombola.data import Feed, Item, RowRange
from tombola.errors import UsageError
from tombola.networks.network import FrozenNetwork, explained_batches, private_copy, statistics_modules
from tombola.networks.runtime import Runtime
from tombola.networks.shares import FEWEST, rows_of
from tombola.networks.task import Batch, Output, Task

# By what share of it a mean may differ from that of its parts: float32 sums, of the same outputs or of other ones.
_SAME_OUTPUTS, _OTHER_OUTPUTS = 1e-4, 1e-2
# A divergence is looked at between the network and one of smaller weights.
_SMALLER = 0.5


def over_ranks(
    model: nn.Module, layout: Layout, task: Task, feed: Feed, runtime: Runtime, needs: Collection[str]
) -> Runtime:
    """Return a runtime that knows what a division of batches over its ranks changes; the same one for one rank.

    needs: names of the task's parts that will be asked for. Raises UsageError where the mean over a batch is not the
    mean over its parts, such as that of a loss balanced by classes.
    """
    if runtime.ranks.size == 1:
        return runtime
    network = FrozenNetwork(model, layout, task, runtime)
    with seeded(0, "division", device=runtime.device), torch.no_grad():
        for item in islice(feed.epoch(0), 1):
            _check_means(network, task, item, needs)
            by_share = bool(statistics_modules(model)) or _draws(model, task, item, runtime)
            runtime = replace(runtime, by_share=by_share or _remembers(model, task, item, runtime))
    return runtime


def _check_means(network: FrozenNetwork, task: Task, item: Item, needs: Collection[str]) -> None:
    samples = task.samples(item.batch)
    if samples < 2:
        return
    cut = max(1, samples // 4)
    divided = [RowRange(0, cut, samples), RowRange(cut, samples, samples)]
    runtime = network.runtime
    parts = [(rows, runtime.move(rows_of(item, rows, task).batch)) for rows in divided]
    counts = [task.counted(batch) for _, batch in parts]
    if not all(counts):
        return
    whole = runtime.move(item.batch)
    outputs = _Outputs(network, whole)
    for name, values in (("loss", _loss), ("divergence", _divergence)):
        if name not in needs:
            continue
        found = float(values(task, outputs.of_whole(), whole))
        together = sum(
            float(values(task, outputs.of_part(rows, batch), batch)) * count / sum(counts)
            for (rows, batch), count in zip(parts, counts, strict=True)
        )
        if abs(found - together) > outputs.tolerance * max(abs(found), 1e-6):
            raise UsageError(
                f"Task({name}=...) cannot be divided over processes: of a batch it is {found:.5g}, and the mean over "
                f"its parts, weighted by what Task(counted=...) counts, is {together:.5g}; take one process, or a "
                f"{name} that is a mean over what is counted"
            )


def _loss(task: Task, outputs: tuple[Output, Output], batch: Batch) -> Tensor:
    return task.loss(outputs[0], batch)


def _divergence(task: Task, outputs: tuple[Output, Output], batch: Batch) -> Tensor:
    return task.divergence(*outputs, batch)


class _Outputs:
    """Outputs of the network and of one of smaller weights; of part of a batch cut out of the whole, where they can."""

    def __init__(self, network: FrozenNetwork, batch: Batch) -> None:
        self._network = network
        self._whole = self._run(batch)
        self._samples = all(isinstance(output, Tensor) and output.dim() for output in self._whole)
        self.tolerance = _SAME_OUTPUTS if self._samples else _OTHER_OUTPUTS

    def _run(self, batch: Batch) -> tuple[Output, Output]:
        smaller = _SMALLER * self._network.weights
        return self._network.dense(batch), self._network.under(smaller, batch)

    def of_whole(self) -> tuple[Output, Output]:
        return self._whole

    def of_part(self, rows: RowRange, batch: Batch) -> tuple[Output, Output]:
        if not self._samples:
            return self._run(batch)
        first, second = self._whole
        return rows.of_output(first), rows.of_output(second)


def _draws(model: nn.Module, task: Task, item: Item, runtime: Runtime) -> bool:
    """Whether a network draws from the global generators in training, as dropout does."""
    before = GlobalState.now(runtime.device)
    _trained(model, task, item, runtime)
    return not _alike(before, GlobalState.now(runtime.device))


def _remembers(model: nn.Module, task: Task, item: Item, runtime: Runtime) -> bool:
    """Whether a network in training leaves in its buffers what depends on which samples it is given."""
    samples = task.samples(item.batch)
    if samples < 2 * FEWEST or next(model.buffers(), None) is None:
        return False
    some = rows_of(item, RowRange(0, samples // 2, samples), task)
    of_some, of_all = (dict(_trained(model, task, each, runtime).named_buffers()) for each in (some, item))
    if of_some.keys() != of_all.keys():
        return True
    return not all(same_values(of_some[name], buffer) for name, buffer in of_all.items())


def _trained(model: nn.Module, task: Task, item: Item, runtime: Runtime) -> nn.Module:
    """Return a copy of a network after a run in training mode."""
    copied = runtime.place(private_copy(model)).train()
    with runtime.autocast(), explained_batches():
        task.forward(copied, runtime.move(item.batch))
    return copied


def _alike(one: GlobalState, other: GlobalState) -> bool:
    equal: Callable[[Any, Any], bool] = torch.equal
    on_cuda = one.cuda is None or other.cuda is None or equal(one.cuda, other.cuda)
    kept = [str(state.numpy[1].tolist()) + str(state.numpy[2:]) + str(state.python) for state in (one, other)]
    return equal(one.cpu, other.cpu) and on_cuda and kept[0] == kept[1]
