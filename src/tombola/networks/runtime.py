"""Where and in which precision a network runs.

The rule is fixed, so that the same configuration gives the same numbers: it looks at the kind of device, the kind of
model and the size of its images, never at a clock. docs/performance.md says what bf16 and channels_last gain where the
CPU has instructions for bf16; where it has none, bf16 is emulated and slower than float32.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tombola.core.ranks import ALONE, Ranks
from tombola.errors import UsageError

PRECISIONS = ("auto", "32-true", "bf16-mixed")
MEMORY_FORMATS = ("auto", "contiguous", "channels-last")


def has_bf16_instructions(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks about the current one
            found: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return found
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def is_convolutional(model: nn.Module) -> bool:
    """Whether the model has two-dimensional convolutions."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Run on some threads of the CPU inside the block; None: on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Compute inside the block in the types that tensors have, though the caller's own code stands in torch.autocast.

    A runtime's own autocast works inside, and one of a training function of the user's.
    """
    nested = torch.autocast_increment_nesting() > 1
    torch.autocast_decrement_nesting()
    if not nested:
        yield
        return
    # Within another context torch keeps the weights in bf16 for longer than a step, unless it keeps none.
    with (
        torch.autocast("cpu", enabled=False, cache_enabled=False),
        torch.autocast("cuda", enabled=False, cache_enabled=False),
    ):
        yield


@contextmanager
def ready_to_train() -> Iterator[None]:
    """Compute inside the block with gradients and without autocast, in whatever modes of torch the caller stands."""
    with torch.inference_mode(False), torch.enable_grad(), without_autocast():
        yield


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is unknown; allowed are auto, cpu, cuda and cuda:N", option="device") from None
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"{name!r} is not supported; allowed are auto, cpu, cuda and cuda:N", option="device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count() or "no"
        raise UsageError(f"{name!r} was asked for, but this machine has {count} CUDA device; use cpu", option="device")
    return device


def _is_tensor(part: Any) -> bool:
    return isinstance(part, Tensor)


def changed(data: Any, wanted: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    """Return nested data with its wanted parts changed: of lists, tuples, mappings and dataclasses, whose kind stays.

    Everything else is the same object as before.
    """
    if wanted(data):
        return change(data)
    if is_dataclass(data) and not isinstance(data, type):
        return _changed_fields(data, wanted, change)
    if isinstance(data, Mapping):
        found = {key: changed(value, wanted, change) for key, value in data.items()}
        kind: Any = type(data)
        return kind(data.default_factory, found) if isinstance(data, defaultdict) else kind(found)
    if isinstance(data, Sequence) and not isinstance(data, str | bytes | range):
        parts = [changed(part, wanted, change) for part in data]
        kind = type(data)
        return kind(*parts) if hasattr(data, "_fields") else kind(parts)
    return data


def _changed_fields(data: Any, wanted: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    found = copy.copy(data)
    for field in fields(data):
        value = changed(getattr(data, field.name), wanted, change)
        try:
            setattr(found, field.name, value)
        except FrozenInstanceError:
            object.__setattr__(found, field.name, value)
    for name, attribute in vars(type(data)).items():
        if isinstance(attribute, cached_property):
            vars(found).pop(name, None)  # it was made of the parts as they were
    return found


@dataclass(frozen=True)
class Runtime:
    """A device, a precision ("32-true" or "bf16-mixed") and the memory format of images; and the processes that share.

    by_share: whether the network computes something else of a batch where ranks divide it, beyond the last bits of
    sums: it normalises by the batch, draws random numbers, or keeps something of the batch in its buffers.
    """

    device: torch.device
    precision: str = "32-true"
    memory_format: str = "contiguous"
    ranks: Ranks = ALONE
    by_share: bool = False

    @classmethod
    def choose(
        cls,
        model: nn.Module,
        device: str | torch.device = "auto",
        precision: str = "auto",
        memory_format: str = "auto",
        ranks: Ranks = ALONE,
    ) -> "Runtime":
        """Apply the fixed rule: convolutional models run channels_last, in bf16 where the hardware has it.

        Raises UsageError for an unknown device, precision or memory format, which options call layout.
        """
        for option, value, known in (("precision", precision, PRECISIONS), ("layout", memory_format, MEMORY_FORMATS)):
            if value not in known:
                raise UsageError(f"{value!r} is unknown; allowed are {', '.join(known)}", option=option)
        where = resolve_device(device) if isinstance(device, str) else device
        convolutional = is_convolutional(model)
        if precision == "auto":
            precision = "bf16-mixed" if convolutional and has_bf16_instructions(where) else "32-true"
        if memory_format == "auto":
            memory_format = "channels-last" if convolutional else "contiguous"
        return cls(where, precision, memory_format, ranks)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Run networks forward inside the block."""
        if self.precision == "32-true":
            yield
            return
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=True):
                yield
        finally:
            # torch keeps the weights in bf16 until the outermost context ends, which may be the caller's, steps later.
            torch.clear_autocast_cache()

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model that is ours to change to the device and the memory format."""
        model = model.to(self.device)
        if self.memory_format == "channels-last":
            # Not model.to(memory_format=...), which fails on tensors of five dimensions.
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.dim() == 4:
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)
        return model

    def move(self, batch: Any) -> Any:
        """Return the batch on the device, images in the memory format of the runtime."""
        batch = changed(batch, lambda part: callable(getattr(type(part), "to", None)), self._moved)
        return changed(batch, _is_tensor, self._formatted) if self.memory_format == "channels-last" else batch

    def _moved(self, part: Any) -> Any:
        waits = self.device.type == "cpu" or not isinstance(part, Tensor)
        found = part.to(self.device) if waits else part.to(self.device, non_blocking=True)
        return part if found is None else found  # an object of one's own may move in place

    def _formatted(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    def with_safe_precision(self, wrong_in_half: bool, asked: str) -> "Runtime":
        """Return the runtime for a network that bf16 would spoil on a CPU or not: the same one, or in float32.

        asked: the precision that was asked for. Raises UsageError where that was bf16 by name.
        """
        if not wrong_in_half or self.device.type != "cpu" or self.precision != "bf16-mixed":
            return self
        if asked != "auto":
            raise UsageError(
                "'bf16-mixed' gives wrong gradients on a CPU for this network, which convolves images smaller than its "
                "stride, or in three dimensions; use 32-true",
                option="precision",
            )
        return self.in_full_precision()

    def in_full_precision(self) -> "Runtime":
        """Return the same place without mixed precision."""
        return replace(self, precision="32-true")

    def to_dict(self) -> dict[str, Any]:
        """Return what enters a result's identity: of the processes nothing where they change but last bits."""
        return {
            "device": self.device.type,
            "precision": self.precision,
            "layout": self.memory_format,
            **({"processes": self.ranks.size} if self.by_share else {}),
        }
