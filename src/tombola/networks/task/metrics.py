"""Metrics that are no means over batches: of counts that add up over them, such as F1 and the mean IoU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola.core.measure import ACCURACY, Measure
from tombola.networks.task.batches import Batch, Output
from tombola.networks.task.parts import Default


@dataclass(frozen=True)
class Measured:
    """A metric, mean over the batch and the larger the better, and what it is called and how its figures are shown."""

    part: Callable[[Output, Batch], Any]
    measure: Measure

    def __call__(self, output: Output, batch: Batch) -> Any:
        """Return the metric of one batch."""
        return self.part(output, batch)


@dataclass(frozen=True)
class Pooled:
    """A metric of counts.

    counts: of an output and its batch, a tensor that adds up over batches. value: the metric of such a sum, the larger
    the better. measure: what it is called and how its figures are shown. Called like any metric, it gives that of one
    batch.
    """

    counts: Callable[[Output, Batch], Tensor]
    value: Callable[[Tensor], float]
    measure: Measure

    @property
    def part(self) -> Callable[[Output, Batch], Tensor]:
        """What it is made of."""
        return self.counts

    def __call__(self, output: Output, batch: Batch) -> float:
        """Return the metric of one batch."""
        return self.value(self.counts(output, batch))


def measure_of(metric: Callable[..., Any]) -> Measure:
    """Return a metric's measure; of one of the user's own that has none, its name and the figures as they are."""
    if isinstance(metric, Default):
        return ACCURACY
    found = getattr(metric, "measure", None)
    if isinstance(found, Measure):
        return found
    inner = getattr(metric, "part", None)
    if callable(inner):
        return measure_of(inner)
    return Measure(getattr(metric, "__name__", "").strip("<>_").replace("_", " ") or "metric")


def f1(counts: Tensor) -> float:
    """Return 2 TP / (2 TP + FP + FN) of (3,) counts of true positives, false positives and false negatives.

    1 where there is neither a positive target nor a positive output.
    """
    right, wrong, missed = counts.tolist()
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 1.0


def mean_iou(confusion: Tensor) -> float:
    """Return the mean over classes of intersection over union; confusion: (C, C), targets by outputs.

    Classes that neither targets nor outputs have do not count (Everingham et al. 2010; Long et al. 2015).
    """
    both = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    there = union > 0
    return float((both[there] / union[there]).mean()) if bool(there.any()) else 0.0


def confusion_of(found: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return how often each class was taken for each: (C, C) int64, targets by outputs; both whole numbers below C."""
    pairs = targets.reshape(-1) * classes + found.reshape(-1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).cpu()
