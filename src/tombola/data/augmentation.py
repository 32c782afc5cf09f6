"""Augmentation of whole batches at once, every sample with its own draw."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tombola.errors import UsageError


class Augmentation(Protocol):
    """Changes a batch of raw images, by a generator."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UsageError unless images of a shape (C, H, W) can be changed."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return new images (N, C, H, W) of the same type."""


@dataclass(frozen=True)
class FlipCrop:
    """Random horizontal flip, and a random crop of the image padded by reflection; without padding, the flip alone."""

    padding: int = 4

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UsageError for images (C, H, W) no larger than the padding, which cannot be reflected so far."""
        height, width = shape[1:]
        if min(height, width) <= self.padding:
            raise UsageError(
                f"augmentation flip-crop needs images of at least {self.padding + 1}x{self.padding + 1} pixels, "
                f"got {height}x{width}; flip and none take any",
                option="augmentation",
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return new images (N, C, H, W) of the same type."""
        count, _, height, width = images.shape
        span = 2 * self.padding + 1
        top = torch.randint(span, (count, 1), generator=generator)
        left = torch.randint(span, (count, 1), generator=generator)
        flip = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.arange(width).expand(count, width)
        columns = left + torch.where(flip, width - 1 - columns, columns)
        rows = top + torch.arange(height)
        padded = F.pad(images.float(), (self.padding,) * 4, mode="reflect").to(images.dtype)
        sample = torch.arange(count).view(-1, 1, 1, 1)
        channel = torch.arange(images.shape[1]).view(1, -1, 1, 1)
        return padded[sample, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "flip": FlipCrop(padding=0),
    "flip-crop": FlipCrop(),
}
