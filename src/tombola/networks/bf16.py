"""What PyTorch gets wrong in bf16 on a CPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BF16Watch(TorchFunctionMode):
    """Notes, while a network runs, whether it has convolutions that bf16 would spoil on a CPU: `wrong`.

    There PyTorch's weight gradients (2.15, CPUs with bf16 instructions) are garbage, infinities among it, where images
    are smaller than the stride, as at the end of a ResNet on 8x8 images; in three dimensions in other cases too, so
    that all of those count.
    """

    wrong = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _AXES and _is_wrong(_AXES[func], *args, **kwargs):
            self.wrong = True
        return func(*args, **kwargs)


_AXES: dict[Callable[..., Any], int] = {
    F.conv1d: 1, F.conv2d: 2, F.conv3d: 3, F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3,
}  # fmt: skip


def _is_wrong(
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    *_rest: Any,
    **_named: Any,
) -> bool:
    """Whether bf16 spoils a convolution over so many axes; called with the convolution's own arguments."""
    strides = [stride] * axes if isinstance(stride, int) else [*stride] * (axes // len(stride))
    return axes == 3 or any(size < step for size, step in zip(input.shape[-axes:], strides, strict=True))
