"""Task: how to run a model on a batch, and how to read what comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tombola.core.measure import (
    ACCURACY,
    F1,
    LABEL_ACCURACY,
    MEAN_ABSOLUTE_ERROR,
    MEAN_IOU,
    MEAN_SQUARED_ERROR,
    PIXEL_ACCURACY,
    Measure,
)
from tombola.data.targets import IGNORED_PIXEL
from tombola.errors import UsageError
from tombola.networks.task import classification, hugging_face, labels, metrics, regression, segmentation
from tombola.networks.task.batches import Batch, Output, batch_size
from tombola.networks.task.metrics import Measured, Pooled, measure_of
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

    forward: runs the model on a batch. loss: mean over the batch, of an output. divergence: of one output from another,
    mean over the batch; not negative, 0 where they agree. metric: of an output, the larger the better; a mean over the
    batch, or a `Pooled` of counts that add up over batches. What
        it is called and how its figures are shown says its `measure` (as `Measured` has one), else its name.
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
    metric: Callable[[Output, Batch], Any] = METRIC
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

    @property
    def measure(self) -> Measure:
        """What the metric is called, and how its figures are shown."""
        return measure_of(self.metric)

    @classmethod
    def binary(cls, metric: str = "accuracy") -> "Task":
        """(inputs, targets) with one logit a sample, (N,) or (N, 1, ...), and targets 0 or 1 of either shape.

        Binary cross-entropy, the KL between Bernoulli distributions, and the fraction of outputs on the right side of
        0, or (metric "f1") the F1 of targets 1; means over samples, and over pixels where there are any.
        """
        return cls._of_labels(labels.OneLabel(), metric, ACCURACY)

    @classmethod
    def multi_label(cls, metric: str = "label-accuracy") -> "Task":
        """(inputs, targets) with a logit and a target 0 or 1 for each of several labels, both (N, L, ...).

        Labels do not exclude each other. Binary cross-entropy and the KL between Bernoulli distributions are means over
        all labels; the metric is the fraction of right labels, not of samples whose labels are all right, or (metric
        "f1") the F1 of all labels of all samples taken together (micro-averaged).
        """
        return cls._of_labels(labels.ManyLabels(), metric, LABEL_ACCURACY)

    @classmethod
    def _of_labels(cls, of: labels.ManyLabels, metric: str, share: Measure) -> "Task":
        known = (Measured(of.accuracy, share), Pooled(of.counts, metrics.f1, F1))
        return cls(loss=of.loss, divergence=of.divergence, metric=_chosen(metric, known), prediction=of.probabilities)

    @classmethod
    def segmentation(cls, ignored: int = IGNORED_PIXEL, metric: str = "pixel-accuracy") -> "Task":
        """(images, labels) with a label a pixel; those equal to `ignored` do not count.

        The metric is the fraction of right pixels, or (metric "mean-iou") the mean over classes of intersection over
        union.
        """
        pixels = segmentation.Pixels(ignored)
        known = (
            Measured(pixels.accuracy, PIXEL_ACCURACY),
            Pooled(pixels.confusion, metrics.mean_iou, MEAN_IOU),
        )
        return cls(
            segmentation.forward_pixels,
            pixels.loss,
            pixels.divergence,
            _chosen(metric, known),
            pixels.probabilities,
            pixels.counted,
        )

    @classmethod
    def regression(cls, metric: str = "mean-squared-error") -> "Task":
        """(inputs, targets) by squared error; both KLs become the squared error to the teacher's output.

        The metric is the squared error, or (metric "mean-absolute-error") the absolute one, its sign turned.
        """
        known = (
            Measured(regression.negative_error, MEAN_SQUARED_ERROR),
            Measured(regression.negative_absolute_error, MEAN_ABSOLUTE_ERROR),
        )
        return cls(
            loss=regression.squared_error,
            divergence=regression.squared_distance,
            metric=_chosen(metric, known),
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


def _chosen(metric: str, known: Sequence[Measured | Pooled]) -> Measured | Pooled:
    """Return a metric by the name of its measure, with dashes; raises UsageError listing what there is."""
    by_name = {each.measure.dashed: each for each in known}
    if metric not in by_name:
        raise UsageError(f"must be {' or '.join(by_name)}, got {metric!r}", option="metric")
    return by_name[metric]
