"""Images of any size that stay in their files: decoded, cropped and augmented batch by batch, by worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tombola.core.seeds import generator
from tombola.data.arrays import channel_statistics
from tombola.data.augmentation import Augmentation, fitted
from tombola.data.feeds import Item, RowFeed
from tombola.data.folder import decoded
from tombola.data.samples import FINGERPRINTED
from tombola.data.splits import Normalisation
from tombola.data.stored import Stored
from tombola.errors import UsageError
from tombola.storage.identity import digest, digest_tensors

# The usual search sees 125,000 samples: of more images than this, outputs are computed as they are asked for.
MOST_REMEMBERED = 100_000


@dataclass(frozen=True)
class Photographs:
    """Images that are read one by one.

    images: where they lie. targets: (N,) int64. size: of the square that is shown of each. mean, std: per channel, of
    values in [0, 1]. workers: processes that decode; none of what they give depends on how many there are.
    """

    images: Stored
    targets: Tensor
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    workers: int

    at_once: ClassVar[int] = 64

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (3, self.size, self.size)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all names and sizes, of a thousand images' contents, evenly spaced, and of what is shown.

        Reading them all would take as long as an epoch.
        """
        contents = [self.images.digest(row) for row in _spaced(len(self))]
        tensors = digest_tensors({"sizes": self.images.sizes(), "targets": self.targets})
        return digest([list(self.images.names), tensors, contents, self.size, self.mean, self.std])

    def feed(
        self, batch_size: int, seed: int, purpose: str, shuffle: bool = True, augmentation: Augmentation | None = None
    ) -> "FileFeed":
        """Return batches of these images; raises UsageError for an augmentation that cannot change such images."""
        if augmentation is not None:
            augmentation.check(self.shape, 255.0)
        return FileFeed(self, batch_size, seed, purpose, shuffle, augmentation)

    def take(self, rows: Tensor) -> "Photographs":
        """Return the images of some rows."""
        return replace(self, images=self.images.take(rows), targets=self.targets[rows])

    def image(self, row: int) -> Tensor:
        """Return an image (3, H, W) uint8, upright; raises UsageError naming what holds none."""
        image = decoded(self.images.called(row), self.images.content(row)).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def normalised(self, normalisation: Normalisation) -> "Photographs":
        """Return the same, normalised as is wanted: by mean and deviation of a thousand images, evenly spaced."""
        if normalisation.mean and normalisation.std:
            return replace(self, mean=normalisation.mean, std=normalisation.std)
        seen = torch.stack([fitted(self.image(row), self.size) for row in _spaced(len(self))])
        mean, std = channel_statistics(seen, 255.0)
        return replace(self, mean=normalisation.mean or mean, std=normalisation.std or std)


def _spaced(count: int) -> range:
    return range(0, count, -(-count // FINGERPRINTED) or 1)


@dataclass(frozen=True)
class FileFeed(RowFeed):
    """Batches of images in files."""

    samples: Photographs
    augmentation: Augmentation | None = None

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give the batches of one epoch from position `skip` on, decoded ahead by the workers."""
        wanted = self.rows(number)[skip:]
        loader: DataLoader[Any] = DataLoader(
            _Epoch(self, number),
            batch_sampler=map(Tensor.tolist, wanted),  # one by one: an epoch may have a million
            num_workers=self.samples.workers if wanted else 0,
            collate_fn=list,
            generator=torch.Generator(),  # else it would draw from the global one
        )
        for rows, images in zip(wanted, loader, strict=True):
            yield Item(self._batch(rows, images), rows)

    def batch(self, rows: Tensor, number: int, position: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of some rows."""
        decode = _Epoch(self, number)
        return self._batch(rows, [decode[row] for row in rows.tolist()])

    def _batch(self, rows: Tensor, images: Sequence[Tensor | UsageError]) -> tuple[Tensor, Tensor]:
        found = []
        for image in images:
            if isinstance(image, UsageError):
                raise image
            found.append(image)
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) * 255.0
            for values in (self.samples.mean, self.samples.std)
        )
        return (torch.stack(found).float() - mean) / std, self.samples.targets[rows]

    @property
    def repeatable(self) -> bool:
        """Unless augmented, or so many that a pass over them would take longer than what asks for it."""
        return self.augmentation is None and len(self.samples) <= MOST_REMEMBERED


class _Epoch(Dataset[Any]):
    """The images of an epoch by row, as workers make them: what is drawn for one depends on epoch and row alone."""

    def __init__(self, feed: FileFeed, number: int) -> None:
        self._feed, self._number = feed, number

    def __getitem__(self, row: int) -> Tensor | UsageError:
        feed = self._feed
        try:
            image = feed.samples.image(row)
        except UsageError as error:  # which a worker could not raise as it is
            return UsageError(str(error))
        if feed.augmentation is None:
            return fitted(image, feed.samples.size)
        drawn = generator(feed.seed, feed.purpose, "augment", self._number, row)
        return feed.augmentation.whole(image, feed.samples.size, drawn)
