"""The probe: model and task meet the first batch of each feed, so that what does not fit is known before any work."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

from torch import Tensor, nn

from tombola.core.flat import Layout
from tombola.core.seeds import seeded
from tombola.data import Feed
from tombola.errors import UsageError
from tombola.networks.bf16 import BF16Watch
from tombola.networks.network import FrozenNetwork, explained_batches, explained_run
from tombola.networks.runtime import Runtime
from tombola.networks.task import Batch, Output, Pooled, Task, settle_task
from tombola.networks.task.choice import ignored_by, targets_of_pair
from tombola.networks.task.classification import forward_inputs, no_batch, refuse_wrong_label

# Batches whose targets are looked at where those of the first do not say what they are.
FURTHER = 8


def settle(
    model: nn.Module,
    layout: Layout,
    task: Task | None,
    feeds: Mapping[str, Feed | None],
    runtime: Runtime,
    needs: Collection[str] = ("loss",),
) -> tuple[Task, bool]:
    """Run the model and each part of its task on the first batch of each feed.

    Returns the task to go on with, whose parts end in a UsageError on any batch that they cannot be used on, and
    whether bf16 would spoil the model on a CPU. feeds: by the arguments that they come from. needs: names of the parts
    that will be asked for; those of a preset that are not needed may refuse the batch. Raises UsageError naming what is
    at fault, such as a feed without a batch.
    """
    network, settled, labels = FrozenNetwork(model, layout, task or Task(), runtime), None, None
    with seeded(0, "probe", device=runtime.device), BF16Watch() as watch:
        for name, feed in feeds.items():
            if feed is None:
                continue
            items = feed.epoch(0)
            item = next(items, None)
            if item is None:
                words = "is empty: it gave no batch, as loaders with drop_last do that hold less than one"
                raise UsageError(words, option=name)
            batch = runtime.move(item.batch)
            with _told_from_batches(task or Task(), batch):
                with explained_run("model cannot be run on the data's batches"):
                    output = network.dense(batch)
                further = (item.batch for item in islice(items, FURTHER))
                if settled is None:
                    chosen = settle_task(task, output, batch, further)
                    labels = None if runtime.device.type == "cpu" else _labels(chosen, output)
                    settled = _explained(chosen, output, labels if "loss" in needs else None)
                _check_parts(settled, output, item.batch, batch, needs, labels)
    return settled or task or Task(), watch.wrong


@contextmanager
def _told_from_batches(task: Task, batch: Batch) -> Iterator[None]:
    """Where something fails on what is no batch of tensors, say that and not what came of it."""
    try:
        yield
    except UsageError as error:
        words = no_batch(batch) if task.forward is forward_inputs else ""
        if not words:
            raise
        raise UsageError(f"data gives {words}") from error


@dataclass(frozen=True)
class _Explained:
    """A part of a task that says by its name what it cannot be used on."""

    name: str
    part: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        with explained_run(f"Task({self.name}=...) cannot be used on a batch of the data"):
            return self.part(*arguments)


@dataclass(frozen=True)
class _Forward:
    """Runs the model, and says what it cannot be run on."""

    part: Callable[[nn.Module, Batch], Output]

    def __call__(self, model: nn.Module, batch: Batch) -> Output:
        with explained_run("model cannot be run on a batch of the data"), explained_batches():
            return self.part(model, batch)


@dataclass(frozen=True)
class _Divergence(_Explained):
    """The divergence, which looks at no targets: outputs of other axes than the first had mean something else."""

    axes: int | None

    def __call__(self, output: Output, *others: Any) -> Any:
        if _axes(output) != self.axes:
            first = "no tensor" if self.axes is None else f"one of {self.axes} axes"
            raise UsageError(f"the model gives {_shown(output)} for a batch of the data, and {first} for the first one")
        return super().__call__(output, *others)


@dataclass(frozen=True)
class _Labels:
    """What labels there may be: the loss refuses others on the CPU, where a card's kernel ends in an assertion.

    After that the process can do nothing there, so labels are looked at before they are moved. ignored: the one label
    that the loss leaves out.
    """

    classes: int
    ignored: int

    def check(self, batch: Batch) -> None:
        """Raise UsageError for labels that are no classes, as long as they lie on the CPU."""
        targets = targets_of_pair(batch)
        if targets is not None and targets.device.type == "cpu" and not targets.is_floating_point():
            refuse_wrong_label(targets, self.classes, ignored=self.ignored)


def _labels(task: Task, output: Output) -> _Labels | None:
    ignored = ignored_by(task.loss)
    if ignored is None or not isinstance(output, Tensor) or output.dim() < 2 or output.shape[1] < 2:
        return None
    return _Labels(output.shape[1], ignored)


@dataclass(frozen=True)
class _Samples(_Explained):
    """Counts a batch's samples, which is done before it is moved, and looks at its labels."""

    labels: _Labels

    def __call__(self, batch: Batch) -> Any:
        found = super().__call__(batch)
        self.labels.check(batch)
        return found


def _axes(output: Output) -> int | None:
    return output.dim() if isinstance(output, Tensor) else None


def _explained(task: Task, output: Output, labels: _Labels | None) -> Task:
    parts: dict[str, Any] = {
        f.name: _Explained(f.name, getattr(task, f.name)) for f in fields(task) if f.name != "forward"
    }
    if isinstance(task.metric, Pooled):
        parts["metric"] = replace(task.metric, counts=_Explained("metric", task.metric.counts))
    if labels is not None:
        parts["samples"] = _Samples("samples", task.samples, labels)
    parts["divergence"] = _Divergence("divergence", task.divergence, _axes(output))
    return replace(task, forward=_Forward(task.forward), **parts)


def _check_parts(
    task: Task, output: Output, given: Batch, batch: Batch, needs: Collection[str], labels: _Labels | None
) -> None:
    """Call every part once, and look at what it returns. given: the batch before it was moved."""
    of_output = (output, batch)
    for name, arguments, is_right, allowed in (
        ("samples", (given,), _is_positive, "a whole number above 0"),
        ("counted", (given,), _is_count, "a whole number that is not negative"),
        ("loss", of_output, _is_number, "a tensor of one number"),
        ("divergence", (output, *of_output), _is_number, "a tensor of one number"),
        ("metric", of_output, _is_like_number, "one number"),
        ("prediction", (output,), _is_tensor, "a tensor (samples, ...)"),
    ):
        try:
            if name == "loss" and labels is not None:
                labels.check(given)
            found = getattr(task, name)(*arguments)
        except UsageError as error:
            if name in ("samples", "counted", *needs) or error.__cause__ is not None:
                raise
            continue  # a preset's part that this data is not for, and that says so whenever it is asked
        if not is_right(found):
            raise UsageError(f"Task({name}=...) must return {allowed}, got {_shown(found)}")


def _is_count(value: Any) -> bool:
    return _is_like_number(value) and int(value) == value and value >= 0


def _is_positive(value: Any) -> bool:
    return _is_count(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _is_like_number(value: Any) -> bool:
    return _is_number(value) or isinstance(value, int | float)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60]
