"""What a model holds: its state_dict, and buffers that this leaves out (persistent=False)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tombola.core.numeric import same_values


def unsaved_buffers(model: nn.Module) -> dict[str, Tensor | None]:
    """Return a model's buffers that its state_dict lacks, by name."""
    return {
        f"{path}.{key}" if path else key: module._buffers.get(key)
        for path, module in model.named_modules()
        for key in sorted(module._non_persistent_buffers_set)
    }


def changed_buffers(model: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """Return those that are not as in another model that the model was copied from, on the CPU."""
    before = unsaved_buffers(base)
    found = {name: buffer.detach().cpu() for name, buffer in unsaved_buffers(model).items() if buffer is not None}
    return {n: b for n, b in found.items() if (old := before.get(n)) is None or not same_values(b, old.detach().cpu())}


def put_buffers(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put copies of tensors in the place of a model's buffers, on their device, by name."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    for name, tensor in tensors.items():
        path, _, key = name.rpartition(".")
        model.get_submodule(path)._buffers[key] = tensor.to(device, copy=True)


def put_values(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Put a state_dict into a model, and what of buffers beyond that lies with it."""
    beyond = {name: tensors[name] for name in unsaved_buffers(model) if name in tensors}
    model.load_state_dict({n: v for n, v in tensors.items() if n not in beyond} if beyond else tensors)
    put_buffers(model, beyond)
