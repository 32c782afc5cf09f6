"""Samples in memory, and those of them that need nothing done to them, such as the rows of a table."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from tombola.data.augmentation import Augmentation
from tombola.data.feeds import RowFeed
from tombola.errors import UsageError
from tombola.storage.identity import digest_tensors


@dataclass(frozen=True)
class InMemory:
    """Samples in memory. inputs: (N, ...). targets: (N, ...)."""

    inputs: Tensor
    targets: Tensor

    at_once: ClassVar[int] = 1000

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of inputs and targets."""
        return digest_tensors({"inputs": self.inputs, "targets": self.targets})

    def take(self, rows: Tensor) -> Self:
        """Return the samples of some rows."""
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows])


@dataclass(frozen=True)
class Rows(InMemory):
    """Samples that are given as they are."""

    def feed(
        self, batch_size: int, seed: int, purpose: str, shuffle: bool = True, augmentation: Augmentation | None = None
    ) -> "InMemoryFeed":
        """Return batches of these samples; raises UsageError for an augmentation, which is for images."""
        if augmentation is not None:
            raise UsageError("is for images; these data have none", option="augmentation")
        return InMemoryFeed(self, batch_size, seed, purpose, shuffle)


@dataclass(frozen=True)
class InMemoryFeed(RowFeed):
    """Batches cut from such samples."""

    samples: Rows

    def batch(self, rows: Tensor, number: int, position: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of some rows."""
        return self.samples.inputs[rows], self.samples.targets[rows]

    @property
    def repeatable(self) -> bool:
        """Always."""
        return True
