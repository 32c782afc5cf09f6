"""Classification of (inputs, targets) batches, the default; with ignored targets it is segmentation."""

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.numeric import at_least_float32, softmax_kl
from tombola.task.batches import Batch, Output


def forward_inputs(model: nn.Module, batch: Batch) -> Output:
    """Run the model on the first entry of an (inputs, targets) batch."""
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise UsageError(
            f"a batch must be a pair (inputs, targets), got {type(batch).__name__}; give task= for anything else"
        )
    return model(batch[0])


def cross_entropy(output: Output, batch: Batch) -> Tensor:
    """Cross-entropy, mean over the batch. output: (N, C, ...); batch: (inputs, targets).

    Raises UsageError naming a target that is none of the C classes.
    """
    return _cross_entropy(output, batch, 0.0)


def smoothed_cross_entropy(smoothing: float) -> Callable[[Output, Batch], Tensor]:
    """Return the cross-entropy from labels of which a share is spread over all classes (Szegedy et al. 2016).

    smoothing: in [0, 1); 0 is the plain cross-entropy.
    """
    return partial(_cross_entropy, smoothing=smoothing)


def _cross_entropy(output: Output, batch: Batch, smoothing: float) -> Tensor:
    scores = at_least_float32(_of_classes(output))
    try:
        return F.cross_entropy(scores, batch[1], label_smoothing=smoothing)
    except IndexError as error:
        labels, classes = batch[1], output.shape[1]
        wrong = labels[(labels < 0) | (labels >= classes)]
        if not wrong.numel():
            raise
        raise UsageError(f"data has the label {int(wrong[0])}; the model's outputs are 0 to {classes - 1}") from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"data's targets {_words(batch[1])} do not fit the model's outputs {_words(output)}: {error}"
        ) from error


def _words(value: object) -> str:
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    return f"of type {type(value).__name__}"


def softmax_divergence(output: Output, reference: Output, batch: Batch) -> Tensor:
    """KL( softmax output || softmax reference ) over the class axis, mean over the batch.

    Both (N, C, ...). Further axes (pixels) count as samples.
    """
    return softmax_kl(_of_classes(output), reference, dim=1).mean()


def _of_classes(output: Output) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() < 2:
        raise UsageError(
            f"the model's output, {_words(output)}, is no batch of scores for classes, (samples, classes, ...); give "
            "task= for anything else"
        )
    return output


def probabilities(output: Output) -> Tensor:
    """Softmax over the class axis."""
    return at_least_float32(_of_classes(output)).softmax(dim=1)


def accuracy(output: Output, batch: Batch) -> Tensor:
    """Fraction of samples whose largest output is the target, or the largest of its probabilities."""
    targets = batch[1]
    if targets.is_floating_point() and targets.shape == output.shape:
        targets = targets.argmax(dim=1)
    return (output.argmax(dim=1) == targets).double().mean()
