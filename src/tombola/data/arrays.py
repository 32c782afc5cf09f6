"""Small datasets in memory: bytes as they come, normalised batch by batch."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from tombola.core.seeds import generator
from tombola.data.augmentation import Augmentation, FlipCrop
from tombola.data.feeds import Feed, RowFeed
from tombola.data.rows import InMemory
from tombola.storage.identity import digest

# Images of more bytes stay in the machine's memory, and travel to another device batch by batch.
LARGEST_ON_DEVICE = 2**32


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
            augmentation.check(self.shape, self.scale)
        return ArrayFeed(self, batch_size, seed, purpose, shuffle, augmentation)

    def normalise(self, raw: Tensor) -> Tensor:
        """Return float32 inputs, standardised per channel."""
        mean = torch.tensor(self.mean, dtype=torch.float32).view(1, -1, 1, 1) * self.scale
        std = torch.tensor(self.std, dtype=torch.float32).view(1, -1, 1, 1) * self.scale
        return (raw.float() - mean.to(raw.device)) / std.to(raw.device)

    def on(self, device: torch.device) -> "Arrays":
        """Return the same images on a device, these where they lie there."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


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
        rows = rows.to(self.samples.inputs.device)
        raw = self.samples.inputs[rows]
        if self.augmentation is not None:
            raw = self.augmentation(raw, generator(self.seed, self.purpose, "augment", number, position))
        return self.samples.normalise(raw), self.samples.targets[rows]

    @property
    def repeatable(self) -> bool:
        """Unless augmented."""
        return self.augmentation is None

    def on(self, device: torch.device) -> "ArrayFeed":
        """Return a feed of the same batches, made on a device; this one where images are many or changed one by one."""
        small = self.samples.inputs.nbytes <= LARGEST_ON_DEVICE
        at_once = self.augmentation is None or isinstance(self.augmentation, FlipCrop)
        return replace(self, samples=self.samples.on(device)) if small and at_once else self


def on_device(feed: Feed, device: torch.device) -> Feed:
    """Return a feed that makes its batches on a device, if it is one that can."""
    return feed.on(device) if isinstance(feed, ArrayFeed) and device.type != "cpu" else feed
