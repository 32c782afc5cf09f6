"""Classification of (inputs, targets) batches, the default."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Number

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tombola.core.numeric import at_least_float32, softmax_kl
from tombola.errors import UsageError
from tombola.networks.task.batches import Batch, Output

# No label is left out; PyTorch would leave out -100, of the loss alone.
IGNORED_CLASS = -(2**31)
# How far the probabilities of a sample may be from 1 together: what rounding in half precision leaves.
ROUNDING = 1e-2


def forward_inputs(model: nn.Module, batch: Batch) -> Output:
    """Run the model on the first entry of an (inputs, targets) batch.

    Inputs that are a mapping, such as token ids and an attention mask, are given by name; of an output that has
    `logits`, as Hugging Face's have, these are taken.
    """
    _check_pair(batch)
    inputs = batch[0]
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def targets_of(batch: Batch) -> Tensor:
    """Return the second entry of an (inputs, targets) batch; raises UsageError where there is no such tensor."""
    wanted = "Task(loss=..., divergence=..., metric=...)"
    _check_pair(batch, wanted)
    if not isinstance(batch[1], Tensor):
        raise UsageError(
            f"data's targets must be a tensor, got {type(batch[1]).__name__}; give {wanted} for anything else"
        )
    return batch[1]


def _check_pair(batch: Batch, wanted: str = "task=") -> None:
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise UsageError(
            f"a batch must be a pair (inputs, targets), got {type(batch).__name__}; give {wanted} for anything else"
        )


def no_batch(batch: Batch) -> str:
    """Return what an (inputs, targets) batch seems to be in place of one of tensors, or nothing where it is one."""
    if any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(batch)):
        return "NumPy arrays, where tensors are wanted: torch.as_tensor makes them"
    pair = isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[0], Tensor | Mapping)
    if pair and (batch[1].dim() == 0 if isinstance(batch[1], Tensor) else isinstance(batch[1], Number)):
        return (
            "single samples (input, target), where batches are wanted: torch.utils.data.DataLoader(data, "
            "batch_size=64) makes them"
        )
    return ""


def cross_entropy(output: Output, batch: Batch) -> Tensor:
    """Cross-entropy, mean over the batch. output: (N, C, ...); batch: (inputs, targets).

    Raises UsageError naming a target that is none of the C classes, or that is no probabilities of them.
    """
    return _cross_entropy(output, batch, 0.0)


def smoothed_cross_entropy(smoothing: float) -> Callable[[Output, Batch], Tensor]:
    """Return the cross-entropy from labels of which a share is spread over all classes (Szegedy et al. 2016).

    smoothing: in [0, 1); 0 is the plain cross-entropy.
    """
    return partial(_cross_entropy, smoothing=smoothing)


def is_cross_entropy(loss: Callable[..., Tensor]) -> bool:
    """Whether a loss is one of those above."""
    return loss is cross_entropy or (isinstance(loss, partial) and loss.func is _cross_entropy)


def _cross_entropy(output: Output, batch: Batch, smoothing: float) -> Tensor:
    scores, targets = at_least_float32(of_classes(output)), targets_of(batch)
    if targets.is_floating_point() and targets.shape == scores.shape and not are_probabilities(targets):
        raise UsageError(
            "data's targets are not the probabilities of classes: give Task.multi_label() for labels that do not "
            "exclude each other, Task.regression() for numbers"
        )
    try:
        return F.cross_entropy(scores, targets, ignore_index=IGNORED_CLASS, label_smoothing=smoothing)
    except IndexError as error:
        refuse_wrong_label(targets, scores.shape[1], error)
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"data's targets {in_shape(targets)} do not fit the model's outputs {in_shape(output)}: {error}"
        ) from error


def refuse_wrong_label(
    targets: Tensor, classes: int, error: IndexError | None = None, ignored: int = IGNORED_CLASS
) -> None:
    """Raise UsageError naming the first label that is none of so many classes, where there is one.

    targets: whole numbers of any type and shape. error: the cause. ignored: a label that is left out.
    """
    targets = targets.long()
    wrong = targets[((targets < 0) | (targets >= classes)) & (targets != ignored)]
    if wrong.numel():
        raise UsageError(f"data has the label {int(wrong[0])}; the model's outputs are 0 to {classes - 1}") from error


@torch.no_grad()
def are_probabilities(targets: Tensor) -> bool:
    """Whether real targets (N, C, ...) are not negative and add up to 1 over the classes."""
    sums = at_least_float32(targets).sum(dim=1)
    return bool((targets >= 0).all() and ((sums - 1).abs() < ROUNDING).all())


def in_shape(value: object) -> str:
    """Return a value's shape and type in words."""
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    return f"of type {type(value).__name__}"


def softmax_divergence(output: Output, reference: Output, batch: Batch) -> Tensor:
    """KL( softmax output || softmax reference ) over the class axis, mean over the batch.

    Both (N, C, ...). Further axes (pixels) count as samples.
    """
    return softmax_kl(of_classes(output), reference, dim=1).mean()


def of_classes(output: Output) -> Tensor:
    """Return an output (N, C, ...) with C above 1; raises UsageError for any other: one class has no alternative."""
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise UsageError(
            f"the model's output, {in_shape(output)}, is no batch of scores for classes, (samples, classes, ...); give "
            "task= for anything else, such as Task.binary() or Task.regression()"
        )
    if output.shape[1] < 2:
        raise UsageError(
            f"the model's output, {in_shape(output)}, has one column, over which a softmax is constant; give "
            "task=Task.binary() for yes or no, Task.regression() for numbers"
        )
    return output


def probabilities(output: Output) -> Tensor:
    """Softmax over the class axis."""
    return at_least_float32(of_classes(output)).softmax(dim=1)


def accuracy(output: Output, batch: Batch) -> Tensor:
    """Fraction of samples whose largest output is the target, or the largest of its probabilities."""
    targets, found = targets_of(batch), of_classes(output).argmax(dim=1)
    if targets.is_floating_point() and targets.shape == output.shape:
        targets = targets.argmax(dim=1)
    if targets.shape != found.shape:
        raise UsageError(f"data's targets {in_shape(targets)} do not fit the model's outputs {in_shape(output)}")
    return (found == targets).double().mean()
