"""Task: how to run a model on a batch, and how to read what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from tombola.networks.task import classification, hugging_face, labels, regression, segmentation
from tombola.networks.task.batches import Batch, Output, batch_size
from tombola.networks.task.parts import Default, Missing

# What a task consists of unless something else is given.
LOSS = Default("loss", classification.cross_entropy)
DIVERGENCE = Default("divergence", classification.softmax_divergence)
METRIC = Default("metric", classification.accuracy)
PREDICTION = Default("prediction", classification.probabilities)


@dataclass(frozen=True)
class Task:
    """How to use a model; the default is classification of (inputs, targets) batches.

    Other presets: `Task.binary()`, `Task.multi_label()`, `Task.segmentation()`, `Task.regression()`,
    `Task.hugging_face()`.

    forward: runs the model on a batch.
    loss: mean over the batch, of an output.
    divergence: of one output from another, mean over the batch; not negative, 0 where they agree.
    metric: of an output, the larger the better.
    prediction: of an output, the last of the features that feature-mse compares; (N, ...).
    counted: of a batch, how many items (samples, pixels) its loss and metric are the means over; evaluations weight
        batches by it, and a summed loss is the mean times it. The samples, unless given.
    samples: of a batch, how many samples it holds; by default as many as it has targets (the last of several entries,
        or what a mapping calls labels or targets), else the length that all its tensors share.

    Beside a loss of one's own, divergence, metric and prediction that are not given stay classification's only where
    that loss, like cross-entropy, sees outputs through their softmax alone; else they raise UsageError when asked for.
    """

    forward: Callable[[nn.Module, Batch], Output] = classification.forward_inputs
    loss: Callable[[Output, Batch], Tensor] = LOSS
    divergence: Callable[[Output, Output, Batch], Tensor] = DIVERGENCE
    metric: Callable[[Output, Batch], Tensor] = METRIC
    prediction: Callable[[Output], Tensor] = PREDICTION
    counted: Callable[[Batch], int] = batch_size
    samples: Callable[[Batch], int] = batch_size

    def __post_init__(self) -> None:
        if self.counted is batch_size:
            object.__setattr__(self, "counted", self.samples)
        if type(self.loss) is Default or classification.is_cross_entropy(self.loss):
            return
        for name in ("divergence", "metric", "prediction"):
            part = getattr(self, name)
            if type(part) is Default:
                object.__setattr__(self, name, Missing(name, part.part))

    @classmethod
    def binary(cls) -> "Task":
        """(inputs, targets) with one logit a sample, (N,) or (N, 1, ...), and targets 0 or 1 of either shape.

        Binary cross-entropy, the KL between Bernoulli distributions, and the fraction of outputs on the right side of
        0; means over samples, and over pixels where there are any.
        """
        return cls._of_labels(labels.OneLabel())

    @classmethod
    def multi_label(cls) -> "Task":
        """(inputs, targets) with a logit and a target 0 or 1 for each of several labels, both (N, L, ...).

        Labels do not exclude each other. Binary cross-entropy and the KL between Bernoulli distributions are means over
        all labels; the metric is the fraction of right labels, not of samples whose labels are all right.
        """
        return cls._of_labels(labels.ManyLabels())

    @classmethod
    def _of_labels(cls, of: labels.ManyLabels) -> "Task":
        return cls(loss=of.loss, divergence=of.divergence, metric=of.accuracy, prediction=of.probabilities)

    @classmethod
    def segmentation(cls, ignored: int = 255) -> "Task":
        """(images, labels) with a label a pixel; those equal to `ignored` do not count."""
        pixels = segmentation.Pixels(ignored)
        return cls(
            segmentation.forward_pixels,
            pixels.loss,
            pixels.divergence,
            pixels.accuracy,
            pixels.probabilities,
            pixels.counted,
        )

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
        """Dictionaries of arguments, labels among them; the model's own loss, and its logits, whatever their head.

        The divergence is the sum over heads (start and end of an answer, say) of KLs between softmaxes, or between
        Bernoulli distributions for labels that do not exclude each other, or of squared errors for numbers. The metric
        is the accuracy where there is one label a sample, the fraction of right labels where there are several, else
        the loss with its sign turned.
        """
        heads = hugging_face.Heads()
        return cls(
            hugging_face.forward_arguments,
            hugging_face.own_loss,
            heads.divergence,
            heads.metric,
            heads.prediction,
            heads.counted,
            hugging_face.samples,
        )
