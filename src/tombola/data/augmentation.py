"""Augmentation of raw images, every one with its own draw."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tombola.core.seeds import preserved
from tombola.errors import UsageError

# The share of an image's shorter side that is shown where nothing is drawn: 224 of 256 pixels, as is usual of ImageNet.
SHOWN = 0.875


def fitted(image: Tensor, size: int) -> Tensor:
    """Return the middle of an image (C, H, W) as (C, size, size), its shorter side 1/0.875 as long."""
    from torchvision.transforms.v2 import functional

    shorter = functional.resize(image, [round(size / SHOWN)], antialias=True)
    middle: Tensor = functional.center_crop(shorter, [size, size])
    return middle


class Augmentation(Protocol):
    """Changes raw images, by a generator."""

    def check(self, shape: tuple[int, ...], white: float) -> None:
        """Raise UsageError unless images of a shape (C, H, W), whose values go from 0 to `white`, can be changed."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return new images (N, C, H, W) of the same type."""

    def whole(self, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Return (C, size, size) of an image (C, H, W) of any size."""


@dataclass(frozen=True)
class FlipCrop:
    """Random horizontal flip, and a random crop of the image padded by reflection; without padding, the flip alone."""

    padding: int = 4

    def check(self, shape: tuple[int, ...], white: float) -> None:
        """Raise UsageError for images (C, H, W) no larger than the padding, which cannot be reflected so far."""
        height, width = shape[1:]
        if min(height, width) <= self.padding:
            raise UsageError(
                f"augmentation flip-crop needs images of at least {self.padding + 1}x{self.padding + 1} pixels, "
                f"got {height}x{width}; flip and none take any",
                option="augmentation",
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return new images (N, C, H, W) of the same type, where the old ones lie; the generator is of the CPU."""
        count, _, height, width = images.shape
        span = 2 * self.padding + 1
        top = torch.randint(span, (count, 1), generator=generator, device="cpu")
        left = torch.randint(span, (count, 1), generator=generator, device="cpu")
        flip = torch.rand(count, 1, generator=generator, dtype=torch.float32, device="cpu") < 0.5
        columns = torch.arange(width, device="cpu").expand(count, width)
        columns = (left + torch.where(flip, width - 1 - columns, columns)).to(images.device)
        rows = (top + torch.arange(height, device="cpu")).to(images.device)
        padded = F.pad(images.float(), (self.padding,) * 4, mode="reflect").to(images.dtype)
        sample = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
        channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
        return padded[sample, channel, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]

    def whole(self, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Return the middle of an image, changed."""
        return self(fitted(image, size).unsqueeze(0), generator)[0]


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of the image, 8 to 100 % of its area, resized, and a random flip (Szegedy et al. 2015).

    policy: whether two operations of RandAugment, of magnitude 9, follow (Cubuk et al. 2020).
    """

    policy: bool = False

    def check(self, shape: tuple[int, ...], white: float) -> None:
        """Raise UsageError for images of other than one or three channels, and by a policy for a white other than 255.

        torchvision's operations take the values of bytes to go from 0 to 255.
        """
        if shape[0] not in (1, 3):
            raise UsageError(
                f"must be none, flip or flip-crop for images of {shape[0]} channels", option="augmentation"
            )
        if self.policy and white != 255.0:
            raise UsageError(
                f"must be another than randaugment for images whose values go from 0 to {white:g}, not 255",
                option="augmentation",
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return new images (N, C, H, W) of the same type, one by one."""
        with _drawing_from(generator):
            return torch.stack([self._change(image, image.shape[-2:]) for image in images])

    def whole(self, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Return a part of the whole image."""
        with _drawing_from(generator):
            return self._change(image, (size, size))

    def _change(self, image: Tensor, size: tuple[int, ...]) -> Tensor:
        from torchvision.transforms import v2

        steps: list[Any] = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        if self.policy:
            steps.append(v2.RandAugment())
        changed: Tensor = v2.Compose(steps)(image)
        return changed


@contextmanager
def _drawing_from(source: torch.Generator) -> Iterator[None]:
    """Let torchvision, which draws from the global generators, draw what follows from a generator's next number."""
    seed = int(torch.randint(2**62, (), generator=source, device="cpu"))
    with preserved():
        torch.default_generator.manual_seed(seed)
        yield


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "flip": FlipCrop(padding=0),
    "flip-crop": FlipCrop(),
    "resized-crop": ResizedCrop(),
    "randaugment": ResizedCrop(policy=True),
}
