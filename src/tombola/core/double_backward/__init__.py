"""Networks that are differentiated twice: stand-ins for what PyTorch cannot do there, or does slowly."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from tombola.core.double_backward.batch_norm import batch_norm
from tombola.core.double_backward.convolution import Shape, convolution
from tombola.errors import UsageError

_active: ContextVar[bool] = ContextVar("active", default=False)


def is_active() -> bool:
    """Whether networks run twice_differentiable() here."""
    return _active.get()


@contextmanager
def explained_twice() -> Iterator[None]:
    """Turn torch's refusal to differentiate an operation a second time into a UsageError that says what to do."""
    try:
        yield
    except NotImplementedError as error:
        if "derivative" not in str(error):
            raise
        raise UsageError(
            f"model holds an operation that torch cannot differentiate twice ({' '.join(str(error).split())}), which "
            "this finder or objective needs; take the finder snip or the objective loss"
        ) from error


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run networks so that their gradients can be differentiated again, and soon.

    The fused attention kernels cannot be differentiated twice, nor recurrent layers on a GPU, and torch's convolutions
    and BatchNorms slowly.
    """
    token = _active.set(True)
    try:
        with sdpa_kernel(SDPBackend.MATH), _StandIns():
            yield
    finally:
        _active.reset(token)


class _StandIns(TorchFunctionMode):
    """Calls ours in place of torch's functions."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _STAND_INS.get(func, func)(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Stand in where batch statistics normalise, none are updated, and there is a scale and a shift."""
    if not training or running_mean is not None or weight is None or bias is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return batch_norm(input, weight, bias, eps)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Stand in for batches of images whose padding is given in numbers."""
    if isinstance(padding, str) or input.dim() != 4:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return convolution(input, weight, bias, Shape(_pair(stride), _pair(padding), _pair(dilation), groups))


def _pair(value: int | Sequence[int]) -> Sequence[int]:
    return (value, value) if isinstance(value, int) else value


def _without_cudnn(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stand in for a recurrent layer, which cuDNN cannot differentiate twice."""

    def run(input: Tensor, *arguments: Any, **named: Any) -> Any:
        # Not by cudnn.flags, which fails where convolutions and recurrent layers differ in TF32, as under `seeded`.
        cudnn: Any = torch.backends.cudnn
        before = cudnn.enabled
        try:
            cudnn.enabled = before and not input.is_cuda
            return function(input, *arguments, **named)
        finally:
            cudnn.enabled = before

    return run


_STAND_INS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.conv2d: _conv2d,
    **{each: _without_cudnn(each) for each in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
}

__all__ = ["batch_norm", "convolution", "explained_twice", "is_active", "twice_differentiable"]
