"""Segmentation: classes on axis 1, a target for each pixel, some of them ignored."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.numeric import at_least_float32, softmax_kl
from tombola.task.batches import Batch, Output
from tombola.task.classification import forward_inputs


def forward_pixels(model: nn.Module, batch: Batch) -> Output:
    """Run the model; of a dictionary of outputs, as torchvision's segmentation models give it, take "out"."""
    output = forward_inputs(model, batch)
    return output["out"] if isinstance(output, dict) else output


@dataclass(frozen=True)
class Pixels:
    """Means over the pixels whose target is not `ignored`, 0 where there is none.

    Outputs are (N, C, H, W), targets (N, H, W).
    """

    ignored: int

    def counted(self, batch: Batch) -> int:
        """Return the number of such pixels."""
        return int((batch[1] != self.ignored).sum())

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return self._mean(
            F.cross_entropy(at_least_float32(output), batch[1], ignore_index=self.ignored, reduction="none"), batch
        )

    def divergence(self, output: Output, reference: Output, batch: Batch) -> Tensor:
        """KL( softmax output || softmax reference )."""
        return self._mean(softmax_kl(output, reference, dim=1), batch)

    def accuracy(self, output: Output, batch: Batch) -> Tensor:
        """Fraction of pixels whose largest output is the target."""
        return self._mean((output.argmax(dim=1) == batch[1]).double(), batch)

    def _mean(self, values: Tensor, batch: Batch) -> Tensor:
        counted = batch[1] != self.ignored
        return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)
