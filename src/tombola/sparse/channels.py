"""The channels of a network, followed through its layers: which of them can only go together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola.core.flat import Layout
from tombola.errors import UsageError
from tombola.networks.masking import named_parameters
from tombola.networks.network import private_copy
from tombola.sparse.compaction.reading import passages
from tombola.sparse.compaction.silence import companions, silence
from tombola.sparse.compaction.tracing import trace

# Raised when channels without input are held at zero in another way.
SILENCE_VERSION = 1
SEVERAL = "the model is called with something else than one tensor"


@torch.no_grad()
def follow(model: nn.Module, layout: Layout, example: Any) -> Layout:
    """Return a layout that says which channels each weight reads and writes.

    example: what the model is called with, on its device. Raises UsageError where torch.fx cannot trace the model, or
    for an operation that does something unknown to channels.
    """
    if not isinstance(example, Tensor):
        raise _refusal(SEVERAL)
    twin = private_copy(model).eval()
    names = {id(parameter): name for name, _, parameter in named_parameters(twin)}
    try:
        found = passages(trace(twin, example[:2]))
    except UsageError as error:
        raise _refusal(error.message.partition(": ")[2]) from None
    wirings = dict(layout.wirings)
    for passage in found:
        name = names[id(passage.weight)]
        if name in layout.names:
            wirings[name] = replace(
                layout.wiring(layout.names.index(name)),
                outputs=tuple(passage.outputs.tolist()),
                inputs=tuple(passage.inputs.tolist()),
                stays=passage.stays,
                fixed=passage.fixed,
            )
    return replace(layout, wirings=wirings)


def silenced(model: nn.Module, masks: Mapping[str, Tensor], example: Any) -> dict[str, Tensor]:
    """Return masks of the biases, scales and shifts of channels that masks of weights leave without input.

    By canonical name, bool (C,), False where a channel has none; see `tombola.sparse.compaction.silence`. example: what
    the model is called with. Raises UsageError, with the reason, where channels cannot be followed.
    """
    return _on_two(model, example, lambda inputs: silence(model, masks, inputs))


def gated_along(model: nn.Module, layout: Layout, example: Any, coupled: bool) -> dict[str, Tensor]:
    """Return with which weights biases, scales and shifts go, see `tombola.sparse.compaction.silence.companions`.

    What normalises by the batch undoes a gate on the weights before it, unless the gate is on its scale and shift too.
    example: what the model is called with. Raises UsageError, with the reason, where channels cannot be followed.
    """
    return _on_two(model, example, lambda inputs: companions(model, layout, inputs, coupled))


def _on_two(model: nn.Module, example: Any, call: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what is found by two samples on the model's device; raises UsageError with the reason alone."""
    if not isinstance(example, Tensor):
        raise UsageError(SEVERAL)
    try:
        return call(example[:2].to(next(model.parameters()).device))
    except UsageError as error:
        raise UsageError(error.message.partition(": ")[2]) from None


def _refusal(why: str) -> UsageError:
    return UsageError(
        f"the model's channels cannot be followed: {why}; channel:coupled=false takes each layer's by themselves, "
        "but such a ticket's network cannot be made smaller",
        option="granularity",
    )
