"""The contenders: the same network in several forms, of which deployment measures which is worth having."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from tombola.errors import TicketWarning, UsageError
from tombola.networks.models import tensors_as_bytes
from tombola.networks.runtime import Runtime, is_convolutional
from tombola.runs.deployment.network import Delivered
from tombola.ticket.formats import Packed
from tombola.ticket.formats.checks import agrees
from tombola.ticket.formats.onnx import Session, onnx_bytes

Run = Callable[[], object]


class Built(Protocol):
    """A network that can be run."""

    @property
    def bytes(self) -> int:
        """Bytes on disk."""

    @property
    def model(self) -> nn.Module:
        """What gives its outputs, for its accuracy."""

    def runs(self, samples: Tensor, threads: int) -> Mapping[str, Run]:
        """Return what runs the network on samples, (N, ...), by the memory layout in which it does so."""


class Contender(Protocol):
    """A form of the network. trained: whether it has the ticket's weights; the dense one is but as fast as any."""

    network: ClassVar[str]
    runtime: ClassVar[str]
    trained: ClassVar[bool]

    def build(self, delivered: Delivered) -> Built:
        """Make it; raises UsageError, with the reason, where that cannot be."""


@dataclass(frozen=True)
class InPyTorch:
    """A module, run in each memory layout that it could profit from."""

    model: nn.Module
    bytes: int
    layouts: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "InPyTorch":
        """Return a module, in eval mode, whose file is its state_dict."""
        layouts = ("contiguous", "channels-last") if is_convolutional(model) else ("contiguous",)
        return cls(model, len(tensors_as_bytes(model.state_dict())), layouts)

    def runs(self, samples: Tensor, threads: int) -> Mapping[str, Run]:
        """Return a call for each layout, in which the samples lie already; threads are PyTorch's."""
        return {layout: self._run(samples, layout) for layout in self.layouts}

    def _run(self, samples: Tensor, layout: str) -> Run:
        place = Runtime(torch.device("cpu"), memory_format=layout)
        model, given = place.place(copy.deepcopy(self.model)), place.move(samples)
        return lambda: model(given)


class _AsModule(nn.Module):
    """A session where modules are expected."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def forward(self, batch: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._session(batch)


class InOnnxruntime:
    """A network exported to ONNX."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._content = onnx_bytes(model, example)
        self.bytes = len(self._content)
        session = Session(self._content, torch.get_num_threads())
        if not agrees(model, example, session):
            raise UsageError("onnxruntime gives other outputs than PyTorch does")
        self.model = _AsModule(session)

    def runs(self, samples: Tensor, threads: int) -> Mapping[str, Run]:
        """Return a call in a session of its own."""
        session = Session(self._content, threads)
        return {"contiguous": lambda: session(samples)}


@dataclass(frozen=True)
class DenseInPyTorch:
    """The network before it was pruned."""

    network: ClassVar[str] = "dense"
    runtime: ClassVar[str] = "PyTorch"
    trained: ClassVar[bool] = False

    def build(self, delivered: Delivered) -> Built:
        """Take it as it is."""
        return InPyTorch.of(delivered.dense)


@dataclass(frozen=True)
class DenseInOnnxruntime:
    """The network before it was pruned, exported."""

    network: ClassVar[str] = "dense"
    runtime: ClassVar[str] = "onnxruntime"
    trained: ClassVar[bool] = False

    def build(self, delivered: Delivered) -> Built:
        """Export it."""
        return InOnnxruntime(delivered.dense, delivered.samples[:2])


@dataclass(frozen=True)
class Masked:
    """The trained ticket with zeros for its pruned weights."""

    network: ClassVar[str] = "masked"
    runtime: ClassVar[str] = "PyTorch"
    trained: ClassVar[bool] = True

    def build(self, delivered: Delivered) -> Built:
        """Take it as it is."""
        return InPyTorch.of(delivered.model)


@dataclass(frozen=True)
class CompactedInPyTorch:
    """The trained ticket without its dead units."""

    network: ClassVar[str] = "compacted"
    runtime: ClassVar[str] = "PyTorch"
    trained: ClassVar[bool] = True

    def build(self, delivered: Delivered) -> Built:
        """Compact it."""
        return InPyTorch.of(delivered.ticket.compact(delivered.model, delivered.samples[:2]))


@dataclass(frozen=True)
class CompactedInOnnxruntime:
    """The trained ticket without its dead units, exported."""

    network: ClassVar[str] = "compacted"
    runtime: ClassVar[str] = "onnxruntime"
    trained: ClassVar[bool] = True

    def build(self, delivered: Delivered) -> Built:
        """Compact and export it."""
        example = delivered.samples[:2]
        return InOnnxruntime(delivered.ticket.compact(delivered.model, example), example)


@dataclass(frozen=True)
class Accelerated:
    """The trained ticket run by its kept weights alone; its file is the ticket's with their values."""

    network: ClassVar[str] = "accelerated"
    runtime: ClassVar[str] = "tombola"
    trained: ClassVar[bool] = True

    def build(self, delivered: Delivered) -> Built:
        """Accelerate it."""
        model = delivered.ticket.accelerate(copy.deepcopy(delivered.model)).eval()
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("error", TicketWarning)
                model(delivered.samples[:2])
        except TicketWarning as why:  # it would run dense
            raise UsageError(str(why)) from None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.tombola"
            Packed().write(path, delivered.subject)
            return _Whole(model, path.stat().st_size)


@dataclass(frozen=True)
class _Whole:
    """A module that is run as it is."""

    model: nn.Module
    bytes: int

    def runs(self, samples: Tensor, threads: int) -> Mapping[str, Run]:
        """Return a call."""
        return {"contiguous": lambda: self.model(samples)}


CONTENDERS: tuple[Contender, ...] = (
    DenseInPyTorch(),
    DenseInOnnxruntime(),
    Masked(),
    CompactedInPyTorch(),
    CompactedInOnnxruntime(),
    Accelerated(),
)
