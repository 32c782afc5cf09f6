"""Small datasets in memory: bytes as they come, normalised batch by batch."""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tombola.core.seeds import generator
from tombola.data.augmentation import Augmentation
from tombola.data.feeds import RowFeed
from tombola.data.rows import InMemory
from tombola.storage.identity import digest


@dataclass(frozen=True)
class Arrays(InMemory):
    """Images in memory.

    inputs: (N, C, H, W), uint8. targets: (N,), int64. mean, std: per channel, of the inputs divided by `scale`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything in here."""
        return digest([super().fingerprint, self.mean, self.std, self.scale])

    def feed(
        self, batch_size: int, seed: int, purpose: str, shuffle: bool = True, augmentation: Augmentation | None = None
    ) -> "ArrayFeed":
        """Return batches of these samples; raises UsageError for an augmentation that cannot change such images."""
        if augmentation is not None:
            augmentation.check(self.shape)
        return ArrayFeed(self, batch_size, seed, purpose, shuffle, augmentation)

    def normalise(self, raw: Tensor) -> Tensor:
        """Return float32 inputs, standardised per channel."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1) * self.scale
        std = torch.tensor(self.std).view(1, -1, 1, 1) * self.scale
        return (raw.float() - mean) / std


def channel_statistics(inputs: Tensor, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return per-channel mean and standard deviation of uint8 inputs (N, C, H, W) divided by `scale`.

    From counts, exactly: sums would depend in their last bits on the threads that share them, and data have one name on
    all machines. The deviation of a constant channel is given as 1: inputs are divided by it.
    """
    found = [_moments(inputs[:, channel]) for channel in range(inputs.shape[1])]
    return tuple(mean / scale for mean, _ in found), tuple(std / scale if std else 1.0 for _, std in found)


def _moments(values: Tensor) -> tuple[float, float]:
    """Return mean and (unbiased) standard deviation of whole numbers."""
    counts = torch.bincount(values.reshape(-1)).tolist()
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value**2 * count for value, count in enumerate(counts))
    return first / total, math.sqrt(Fraction(total * second - first**2, total * max(total - 1, 1)))


@dataclass(frozen=True)
class ArrayFeed(RowFeed):
    """Batches cut from arrays in memory."""

    samples: Arrays
    augmentation: Augmentation | None = None

    def batch(self, rows: Tensor, number: int, position: int) -> tuple[Tensor, Tensor]:
        """Return inputs, augmented and normalised, and targets of some rows."""
        raw = self.samples.inputs[rows]
        if self.augmentation is not None:
            raw = self.augmentation(raw, generator(self.seed, self.purpose, "augment", number, position))
        return self.samples.normalise(raw), self.samples.targets[rows]

    @property
    def repeatable(self) -> bool:
        """Unless augmented."""
        return self.augmentation is None
