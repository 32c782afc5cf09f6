"""The task that outputs and targets plainly ask for, where the user gave none or gave it in parts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tombola.errors import UsageError
from tombola.networks.task.batches import Batch, Output, batch_size, counted_targets, target_keys
from tombola.networks.task.classification import IGNORED_CLASS, are_probabilities, in_shape, is_cross_entropy
from tombola.networks.task.core import Task
from tombola.networks.task.hugging_face import Heads
from tombola.networks.task.parts import Default, Missing
from tombola.networks.task.segmentation import Pixels

PARTS = ("loss", "divergence", "metric", "prediction")
# Two losses are the same where they differ by less, as float32 has it.
ALIKE = 1e-4
# Outputs whose exponentials add up to 1 to this are logarithms of probabilities.
LOGARITHMS = 1e-2


def settle_task(task: Task | None, output: Output, batch: Batch, further: Iterable[Batch] = ()) -> Task:
    """Return the task to go on with after the model's first output, of a batch.

    further: batches whose targets are looked at where the first one's do not tell. Without a loss of the user's own:

    - one output a sample, targets 0 and 1 and nothing else: Task.binary();
    - several outputs, for each a target 0 or 1, not all rows being probabilities of classes: Task.multi_label();
    - several outputs, whole numbers or rows of probabilities as targets: classification.

    Other targets for each output are a UsageError that names the choices. Beside a loss of the user's own, what is left
    of classification stays where that loss sees outputs through their softmax alone. A Hugging Face model's heads are
    those of its first output. Raises UsageError also where the samples are not as many as the output's rows, and no
    target says which of the two is right.
    """
    task = task or Task()
    _check_samples(task, output, batch)
    if type(task.loss) is Default:
        task = _by_targets(task, output, batch, further)
    missing = {name: part.part for name in PARTS if isinstance(part := getattr(task, name), Missing)}
    if missing and _sees_softmax(task, output, batch):
        task = replace(task, **missing)
    return _with_heads(task, output, batch)


def _check_samples(task: Task, output: Output, batch: Batch) -> None:
    """Raise UsageError where outputs speak against the default count; a pair's targets are believed."""
    rows = _rows(output)
    targets = [batch[key] for key in target_keys(batch)]
    if task.samples is not batch_size or rows is None:
        return
    if any(isinstance(value, Tensor) and not value.dim() for value in targets):
        return  # a sample in place of a batch, of which the loss says more
    if counted_targets(batch) is not None and (isinstance(batch, Mapping) or len(batch) == 2 != rows):
        return
    count = batch_size(batch)
    if count != rows:
        raise UsageError(
            f"a batch seems to hold {count} samples, and the model gives {rows} outputs for it; give "
            "Task(samples=...), which counts them"
        )


def _rows(output: Output) -> int | None:
    if isinstance(output, Tensor):
        return output.shape[0] if output.dim() else None
    return len(output) if isinstance(output, list) else None


def _by_targets(task: Task, output: Output, batch: Batch, further: Iterable[Batch]) -> Task:
    chosen = _chosen(output, batch, further)
    if chosen is None:
        return task
    own = [name for name in PARTS if type(getattr(task, name)) is not Default]
    if own:
        raise UsageError(
            f"data's targets are labels of 0 and 1, which classification's loss is not for: beside the {own[0]}, give "
            "Task(loss=...) too"
        )
    return replace(task, **{name: getattr(chosen, name) for name in PARTS})


def _chosen(output: Output, batch: Batch, further: Iterable[Batch]) -> Task | None:
    """Return the preset for targets that stand for each output; None for classes, and for what the loss refuses."""
    targets = targets_of_pair(batch)
    if not isinstance(output, Tensor) or not output.dim() or targets is None:
        return None
    one = output.dim() == 1 or output.shape[1] == 1
    if not one and targets.shape != output.shape:
        return None
    if one and not targets.is_floating_point() and bool((targets > 1).any()):
        return None
    if _without_axis(targets, one).shape != _without_axis(output, one).shape:
        raise UsageError(
            f"data's targets {in_shape(targets)} do not fit the model's outputs {in_shape(output)}: classes need "
            "outputs (samples, classes, ...), Task.binary() and Task.regression() a target for each output"
        )
    seen = [targets, *_alike(targets, further)]
    # Rows with one label each are classes, unless the rows of some batch have none or several.
    if not one and all(map(are_probabilities, seen)) and targets.is_floating_point():
        return None
    _check_yes_and_no(seen, one)
    return Task.binary() if one else Task.multi_label()


def _alike(first: Tensor, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Give the targets of further batches, as long as they are like the first ones."""
    for batch in batches:
        targets = targets_of_pair(batch)
        if targets is None or targets.shape[1:] != first.shape[1:]:
            return
        yield targets


def targets_of_pair(batch: Batch) -> Tensor | None:
    """Return the targets of an (inputs, targets) batch, numbers (N, ...); None where it has no such tensor."""
    pair = isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor)
    return batch[1] if pair and batch[1].dim() and not batch[1].is_complex() else None


def _without_axis(values: Tensor, one: bool) -> Tensor:
    return values.squeeze(1) if one and values.dim() > 1 else values


def _check_yes_and_no(targets: list[Tensor], one: bool) -> None:
    """Raise UsageError unless targets are 0 and 1, both of them and nothing else, and several labels no classes."""
    others = [part[(part != 0) & (part != 1)] for part in targets]
    strange = [float(part[0]) for part in others if part.numel()][:1]
    seen = [value for value in (0, 1) if any(bool((part == value).any()) for part in targets)]
    if not strange and len(seen) == 2 and (one or not all(map(are_probabilities, targets))):
        return
    shown = f"{strange[0]:g} is one" if strange else f"all are {seen[0]}" if len(seen) == 1 else "one 1 in each row"
    labels, classes = (
        ("Task.binary()", "a model with an output for each class")
        if one
        else ("Task.multi_label()", "real targets, of which each row adds up to 1")
    )
    raise UsageError(
        f"data's targets, one for each of the model's outputs, do not say what they are ({shown}): choose "
        f"task=Task.regression() for numbers, task={labels} for labels of 0 and 1, or, for classes, {classes}"
    )


@torch.no_grad()
def _sees_softmax(task: Task, output: Output, batch: Batch) -> bool:
    """Whether a loss depends on outputs (N, C, ...) through their softmax over the classes alone.

    It then does not change when all scores of a sample do by the same amount. Looked at for outputs that are drawn, not
    for the model's, at which a loss may be flat. Outputs that are the logarithms of probabilities are told by them.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 2 or output.shape[1] < 2:
        return False
    if output.numel() and float(output.float().logsumexp(dim=1).abs().max()) < LOGARITHMS:
        return True
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(output.shape, generator=generator, device="cpu").to(output)
    by = torch.randn(output[:, :1].shape, generator=generator, device="cpu").to(output)
    try:
        before, after, other = (float(task.loss(values, batch)) for values in (drawn, drawn + by, drawn.flip(1)))
    except Exception:  # noqa: BLE001 - the loss is the user's, and what it says of the model's own outputs counts
        return False
    near = ALIKE * max(1.0, abs(before))
    return abs(before - after) < near < abs(before - other)


def ignored_by(loss: Callable[..., Tensor]) -> int | None:
    """Return the label that a loss of classes leaves out, if it is one of tombola's own; None for any other."""
    part = loss.part if isinstance(loss, Default) else loss
    pixels = getattr(part, "__self__", None)
    if isinstance(pixels, Pixels):
        return pixels.ignored
    return IGNORED_CLASS if is_cross_entropy(part) else None


def _with_heads(task: Task, output: Output, batch: Batch) -> Task:
    """Return a task whose Hugging Face parts know the heads; where these cannot be told, asking for them says so."""
    reading = [name for name in (*PARTS, "counted") if getattr(getattr(task, name), "__self__", None) == Heads()]
    if not reading:
        return task
    try:
        heads = Heads().settled(output, batch)
    except UsageError:
        return task
    return replace(task, **{name: getattr(heads, getattr(task, name).__name__) for name in reading})
