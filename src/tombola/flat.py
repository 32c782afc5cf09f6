"""One flat vector underneath, named views on top."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

# Numbers that a processor's cache holds a few vectors of.
PIECE = 2**16


def pieces(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same parts of vectors of one length, as views small enough to stay in a processor's cache.

    A chain of element by element operations then reads memory once; elsewhere than on a CPU there is one part.
    """
    size = PIECE if vectors[0].device.type == "cpu" else vectors[0].numel()
    return zip(*(vector.split(size) for vector in vectors), strict=True)


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies in one flat vector.

    names: the tensors' names, in the order in which they follow each other.
    shapes: their shapes, in the same order.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Elements of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def total(self) -> int:
        """Elements of all tensors together."""
        return sum(self.counts)

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
