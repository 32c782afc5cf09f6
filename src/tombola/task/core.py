"""Task: how to run a model on a batch, and how to read what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from tombola.task import classification, hugging_face, regression, segmentation
from tombola.task.batches import Batch, Output, batch_size


@dataclass(frozen=True)
class Task:
    """How to use a model; the default is classification of (inputs, targets) batches.

    Other presets: `Task.segmentation()`, `Task.regression()`, `Task.hugging_face()`.

    forward: runs the model on a batch.
    loss: mean over the batch, of an output.
    divergence: of one output from another, mean over the batch; not negative, 0 where they agree.
    metric: of an output, the larger the better.
    prediction: of an output, the last of the features that feature-mse compares; (N, ...).
    counted: of a batch, how many items (samples, pixels) its loss and metric are the means over; evaluations weight
        batches by it.
    """

    forward: Callable[[nn.Module, Batch], Output] = classification.forward_inputs
    loss: Callable[[Output, Batch], Tensor] = classification.cross_entropy
    divergence: Callable[[Output, Output, Batch], Tensor] = classification.softmax_divergence
    metric: Callable[[Output, Batch], Tensor] = classification.accuracy
    prediction: Callable[[Output], Tensor] = classification.probabilities
    counted: Callable[[Batch], int] = batch_size

    @classmethod
    def segmentation(cls, ignored: int = 255) -> "Task":
        """(images, labels) with a label a pixel; those equal to `ignored` do not count."""
        pixels = segmentation.Pixels(ignored)
        return cls(segmentation.forward_pixels, pixels.loss, pixels.divergence, pixels.accuracy, counted=pixels.counted)

    @classmethod
    def regression(cls) -> "Task":
        """(inputs, targets) by squared error; both KLs become the squared error to the teacher's output."""
        return cls(
            loss=regression.squared_error,
            divergence=regression.squared_distance,
            metric=regression.negative_error,
            prediction=regression.itself,
        )

    @classmethod
    def hugging_face(cls) -> "Task":
        """Dictionaries of arguments, labels among them; the model's own loss, its logits."""
        return cls(
            hugging_face.forward_arguments,
            hugging_face.own_loss,
            hugging_face.logits_divergence,
            hugging_face.accuracy_or_loss,
            hugging_face.logits_probabilities,
        )
