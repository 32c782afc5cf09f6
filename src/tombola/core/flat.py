"""One flat vector underneath, named views on top."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Numbers of which the processor's caches hold a few vectors, and enough for each of PyTorch's threads to have a share.
PIECE = 2**18


def over_pieces(work: Callable[..., T], *vectors: Tensor) -> list[T]:
    """Apply `work` to the same pieces of vectors of one length, without gradients, and return what it gives, in order.

    On a CPU a chain of element by element operations, each in all of PyTorch's threads, then reads memory once.
    Elsewhere there is one piece.
    """
    size = PIECE if vectors[0].device.type == "cpu" else vectors[0].numel()
    with torch.no_grad():
        return [work(*parts) for parts in zip(*(vector.split(size) for vector in vectors), strict=True)]


@dataclass(frozen=True)
class Wiring:
    """What a weight's dimensions mean, where that is not outputs, inputs, and then the kernel.

    inputs_first: whether its inputs come first. groups: into how many its channels fall, each reading its own inputs.
    outputs, inputs: for each of its channels the number of what it is in the whole network, where that has been
    followed: channels that are added, or pass through a depthwise convolution, are one. stays: whether its outputs
    have to stay, such as the network's own. fixed: why neither its inputs nor its outputs can go, if so. heads: for
    each output channel, or input channel where it reads them, the number of the head of attention that it belongs
    to. unknown_heads: the module of attention of which that is not known.
    """

    inputs_first: bool = False
    groups: int = 1
    outputs: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None
    stays: bool = False
    fixed: str = ""
    heads: tuple[int, ...] = ()
    reads_heads: bool = False
    unknown_heads: str = ""


PLAIN = Wiring()


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in one flat vector.

    names: the tensors' names, in the order in which they follow each other. shapes: their shapes, in the same order.
    wirings: what their dimensions mean, by name, of those of which that is known and not as usual.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    wirings: Mapping[str, Wiring] = field(default_factory=dict, compare=False)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Elements of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def total(self) -> int:
        """Elements of all tensors together."""
        return sum(self.counts)

    def wiring(self, place: int) -> Wiring:
        """Return what the dimensions of a tensor mean."""
        return self.wirings.get(self.names[place], PLAIN)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Split a vector of `total` elements into views by name (differentiable)."""
        parts = flat.split(list(self.counts))
        return {name: part.view(shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Copy the named tensors into one new vector, in the layout's order."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.names])

    def name_at(self, index: int) -> str:
        """Return the name of the tensor that holds element `index` of the flat vector."""
        for name, count in zip(self.names, self.counts, strict=True):
            if index < count:
                return name
            index -= count
        raise IndexError(index)

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> "Layout":
        """Return the layout of tensors laid end to end."""
        pairs = [(name, tuple(tensor.shape)) for name, tensor in tensors]
        return cls(tuple(name for name, _ in pairs), tuple(shape for _, shape in pairs))
