"""Small datasets in memory: bytes as they come, normalised batch by batch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Arrays:
    """Samples in memory.

    inputs: (N, C, H, W), uint8. targets: (N,), int64. mean, std: per channel, of the inputs divided by `scale`.
    """

    inputs: Tensor
    targets: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __len__(self) -> int:
        return len(self.targets)

    def normalise(self, raw: Tensor) -> Tensor:
        """Return float32 inputs, standardised per channel."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1) * self.scale
        std = torch.tensor(self.std).view(1, -1, 1, 1) * self.scale
        return (raw.float() - mean) / std

    def take(self, rows: Tensor) -> "Arrays":
        """Return the samples of some rows."""
        return Arrays(self.inputs[rows], self.targets[rows], self.mean, self.std, self.scale)


def channel_statistics(inputs: Tensor, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return per-channel mean and standard deviation of uint8 inputs (N, C, H, W) divided by `scale`."""
    values = inputs.double() / scale
    mean, std = values.mean(dim=(0, 2, 3)), values.std(dim=(0, 2, 3))
    return tuple(mean.tolist()), tuple(std.tolist())
