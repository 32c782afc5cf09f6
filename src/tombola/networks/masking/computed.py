"""Layers that compute the weights which they use from those that they hold."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.overrides import TorchFunctionMode

from tombola.core.seeds import seeded

# What these do with their weights is known: they use them as they are.
PLAIN = frozenset(
    {
        nn.Linear, NonDynamicallyQuantizableLinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
        nn.ConvTranspose2d, nn.ConvTranspose3d, nn.MultiheadAttention, nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell,
        nn.RNNCell,
    }
)  # fmt: skip
# Functions that take weights and inputs.
KERNELS = frozenset(
    {
        F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
        F.multi_head_attention_forward, torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu, torch.lstm_cell,
        torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell,
    }
)  # fmt: skip
# What a layer of somebody's own may raise on the probe's input; then it is not known what it computes.
UNKNOWN = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError, AssertionError)


@torch.no_grad()
def computes_its_weight(module: nn.Module, attribute: str) -> bool:
    """Whether zeros in a layer's weight are no zeros, or change other weights, in what the layer computes.

    Subclasses of torch's layers are run on a small random input, whole and with half of a random weight at zero, as
    copies: neither the layer nor any generator of random numbers changes.
    """
    weight = getattr(module, attribute)
    if type(module) in PLAIN or weight.is_meta or not weight.is_floating_point():
        return False
    with seeded(0, "probe", device=weight.device):
        try:
            layer, given = _private(module), _input(module, weight)
            value = torch.randn(weight.shape).to(weight)
            part = (torch.rand(weight.shape) < 0.5).to(weight.device)
            return not _is_plain(layer, attribute, given, value, part)
        except UNKNOWN:
            return False


def _private(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode that shares the parameters and has buffers of its own."""
    shared = {id(parameter): parameter for parameter in module.parameters()}
    return copy.deepcopy(module, shared).eval()


def _input(module: nn.Module, weight: Tensor) -> tuple[Tensor, ...]:
    """Return arguments for a layer's forward."""
    if isinstance(module, _ConvNd):
        reach = (
            size + 1 + span * (kernel - 1)
            for size, span, kernel in zip(module.stride, module.dilation, module.kernel_size, strict=True)
        )
        return (torch.randn(2, module.in_channels, *reach).to(weight),)
    if isinstance(module, nn.MultiheadAttention):
        query, key, value = (
            torch.randn(3, 2, size).to(weight) for size in (module.embed_dim, module.kdim, module.vdim)
        )
        if module.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        return query, key, value
    if isinstance(module, nn.RNNBase):
        return (torch.randn(3, 2, module.input_size).to(weight),)
    features = module.input_size if isinstance(module, nn.RNNCellBase) else weight.shape[-1]
    return (torch.randn(2, features).to(weight),)


def _is_plain(layer: nn.Module, attribute: str, given: tuple[Tensor, ...], value: Tensor, part: Tensor) -> bool:
    """Whether what a layer uses of `value` times the mask `part` is what it uses of `value`, times the mask."""
    whole, used = _run(layer, attribute, given, value)
    masked, used_masked = _run(layer, attribute, given, value * part)
    if used and len(used) == len(used_masked):
        return all(torch.equal(few, all_ * part) for all_, few in zip(used, used_masked, strict=True))
    # It uses no function that is known to take weights. If outputs are linear in them, two halves make a whole.
    if not isinstance(whole, Tensor):
        return True
    rest, _ = _run(layer, attribute, given, value * ~part)
    none, _ = _run(layer, attribute, given, torch.zeros_like(value))
    return torch.allclose(masked + rest, whole + none, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def _run(layer: nn.Module, attribute: str, given: tuple[Tensor, ...], value: Tensor) -> tuple[Any, list[Tensor]]:
    """Return a layer's output with a value for its weight, and the weights of the same shape that it used."""
    layer._parameters[attribute] = value  # type: ignore[assignment]
    with _Used(value.shape) as used:
        output = layer.forward(*given)
    return output, used.weights


class _Used(TorchFunctionMode):
    """Keeps the weights of one shape that layers are computed with."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self._shape = shape
        self.weights: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in KERNELS:
            # The first argument is the input.
            for argument in (*args[1:], *kwargs.values()):
                for each in argument if isinstance(argument, list | tuple) else (argument,):
                    if isinstance(each, Tensor) and each.shape == self._shape:
                        self.weights.append(each.clone())
        return func(*args, **kwargs)
