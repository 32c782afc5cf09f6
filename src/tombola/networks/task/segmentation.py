"""Segmentation: classes on axis 1, a target for each pixel, some of them ignored."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.core.numeric import at_least_float32, softmax_kl
from tombola.errors import UsageError
from tombola.networks.task.batches import Batch, Output
from tombola.networks.task.classification import (
    forward_inputs,
    in_shape,
    of_classes,
    probabilities,
    refuse_wrong_label,
    targets_of,
)
from tombola.networks.task.metrics import confusion_of


def forward_pixels(model: nn.Module, batch: Batch) -> Output:
    """Run the model; of a dictionary of outputs, as torchvision's segmentation models give it, take "out"."""
    output = forward_inputs(model, batch)
    return output["out"] if isinstance(output, dict) else output


@dataclass(frozen=True)
class Pixels:
    """Means over the pixels whose target is not `ignored`, 0 where there is none.

    Outputs are (N, C, H, W) with C above 1, targets (N, H, W).
    """

    ignored: int

    def counted(self, batch: Batch) -> int:
        """Return the number of such pixels."""
        return int((targets_of(batch) != self.ignored).sum())

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Cross-entropy; raises UsageError naming a target that is none of the C classes."""
        scores = at_least_float32(of_classes(output))
        targets = self._targets(scores[:, 0], batch)
        try:
            values = F.cross_entropy(scores, targets, ignore_index=self.ignored, reduction="none")
        except IndexError as error:
            refuse_wrong_label(targets, scores.shape[1], error, self.ignored)
            raise
        return self._mean(values, batch)

    def divergence(self, output: Output, reference: Output, batch: Batch) -> Tensor:
        """KL( softmax output || softmax reference )."""
        return self._mean(softmax_kl(of_classes(output), reference, dim=1), batch)

    def accuracy(self, output: Output, batch: Batch) -> Tensor:
        """Fraction of pixels whose largest output is the target."""
        return self._mean((of_classes(output).argmax(dim=1) == targets_of(batch)).double(), batch)

    def confusion(self, output: Output, batch: Batch) -> Tensor:
        """Return how often pixels of each class were taken for each, (C, C), for the mean IoU.

        Raises UsageError naming a target that is none of the C classes.
        """
        scores = of_classes(output)
        targets = self._targets(scores[:, 0], batch)
        counted = targets != self.ignored
        refuse_wrong_label(targets[counted], scores.shape[1])
        return confusion_of(scores.argmax(dim=1)[counted], targets[counted], scores.shape[1])

    def probabilities(self, output: Output) -> Tensor:
        """Softmax over the classes."""
        return probabilities(output)

    def _mean(self, values: Tensor, batch: Batch) -> Tensor:
        counted = self._targets(values, batch) != self.ignored
        return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)

    @staticmethod
    def _targets(values: Tensor, batch: Batch) -> Tensor:
        """Return a batch's targets, whole numbers of any type, as int64, one for each of some values."""
        targets = targets_of(batch)
        if values.shape != targets.shape:
            raise UsageError(
                f"data's targets of shape {tuple(targets.shape)} do not fit the model's outputs, which need some of "
                f"shape {tuple(values.shape)}"
            )
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise UsageError(f"data's targets, {in_shape(targets)}, must be the whole numbers of pixels' classes")
        return targets.long()
