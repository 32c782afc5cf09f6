"""Images made smaller or larger."""

import torch
from torch import Tensor

# Images resized at once: the arithmetic is in float32, four times as large as the images.
_AT_ONCE = 1_000


def resize(images: Tensor, size: int) -> Tensor:
    """Return images (N, C, H, W) uint8 as (N, C, size, size), bilinear with antialiasing.

    Images that have that size are given back as they are.
    """
    from torchvision.transforms.v2.functional import resize as resized

    if images.shape[-2:] == (size, size):
        return images
    return torch.cat([resized(part, [size, size], antialias=True) for part in images.split(_AT_ONCE)])
