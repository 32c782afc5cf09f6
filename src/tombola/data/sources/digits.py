"""scikit-learn's digits."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tombola.data.sources.base import Source
from tombola.data.splits import Raw, stratified


@dataclass(frozen=True)
class Digits(Source):
    """scikit-learn's bundled digits: 1,797 images of 8x8, values 0 to 16, a fifth of them for testing."""

    name: ClassVar[str] = "digits"

    def read(self, image_size: int | None) -> Raw:
        """Return the images, with 16 for white."""
        from sklearn.datasets import load_digits

        source = load_digits()
        inputs = torch.from_numpy(source.images).to(torch.uint8).unsqueeze(1)
        targets = torch.from_numpy(source.target).long()
        train, test = stratified(targets, 0.2)
        raw = Raw((inputs[train], targets[train]), (inputs[test], targets[test]), scale=16.0)
        return raw.resized(image_size)
