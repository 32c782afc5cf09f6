"""Where in memory parameters lie."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.networks.masking.names import named_parameters


def refuse_shared_memory(model: nn.Module) -> None:
    """Raise UsageError naming two distinct parameters that lie in the same memory: each would get a mask of its own.

    Parameters side by side in one buffer are fine, and so are those that leave gaps, which others may fill.
    """
    spans = sorted(
        (str(parameter.device), parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes, name)
        for name, _, parameter in named_parameters(model)
        if _lies_dense(parameter)
    )
    # Among spans in the order of their starts, if any two overlap, some neighbours do.
    for (device, _, end, first), (other, start, _, second) in pairwise(spans):
        if device == other and start < end:
            raise UsageError(
                f"{first} and {second} are two parameters that share their memory; tie them as one Parameter, assigned "
                "to both modules"
            )


def _lies_dense(parameter: nn.Parameter) -> bool:
    """Whether a parameter's elements lie in memory that can be looked at, without gaps."""
    if type(parameter.data) is not Tensor or parameter.is_meta or parameter.layout != torch.strided:
        return False
    extent = 1 + sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    return parameter.numel() == extent
