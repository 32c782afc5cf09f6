"""Mixup: samples of a batch added to each other, and their labels with them (Zhang et al. 2018, arXiv 1710.09412)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tombola.core.seeds import seeded
from tombola.data.feeds import Compute, Feed, Item
from tombola.errors import UsageError


@dataclass(frozen=True)
class MixedFeed:
    """The batches of another feed, mixed: inputs (N, ...), and labels (N,) as probabilities (N, classes).

    alpha: of the Beta distribution that a batch's share is drawn from.
    """

    feed: Feed
    alpha: float
    classes: int
    seed: int

    @property
    def length(self) -> int | None:
        """Batches in an epoch, if known."""
        return self.feed.length

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give the batches of one epoch from position `skip` on; raises UsageError for inputs that cannot be added."""
        from torchvision.transforms.v2 import MixUp

        mix = MixUp(alpha=self.alpha, num_classes=self.classes)
        for position, item in enumerate(self.feed.epoch(number, skip), start=skip):
            inputs, targets = item.batch
            if not isinstance(inputs, torch.Tensor) or inputs.dim() != 4:
                raise UsageError("is for images; these data are none", option="mixup")
            with seeded(self.seed, "mixup", number, position):
                yield Item(mix(inputs, targets))

    def remember(self, compute: Compute) -> None:
        """Impossible: every epoch mixes anew."""
