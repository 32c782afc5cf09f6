"""One flat vector underneath, named views on top."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Numbers of which a processor's cache holds a few vectors; PyTorch works on so few in one thread.
PIECE = 2**15


def over_pieces(work: Callable[..., T], *vectors: Tensor) -> list[T]:
    """Apply `work` to the same pieces of vectors of one length, without gradients, and return what it gives, in order.

    On a CPU a chain of element by element operations then reads memory once, and as many threads as PyTorch uses take
    a share of the pieces each. Elsewhere there is one piece.
    """
    if vectors[0].device.type != "cpu" or vectors[0].numel() <= PIECE:
        with torch.no_grad():
            return [work(*vectors)]
    parts = list(zip(*(vector.split(PIECE) for vector in vectors), strict=True))
    # For few pieces, waiting for threads costs more than they save.
    threads = torch.get_num_threads() if len(parts) > 4 else 1
    if threads == 1:
        return _work(work, parts)
    each = -(-len(parts) // threads)
    shares = [parts[first : first + each] for first in range(0, len(parts), each)]
    return [found for share in _pool(threads).map(lambda share: _work(work, share), shares) for found in share]


@torch.no_grad()
def _work(work: Callable[..., T], share: list[tuple[Tensor, ...]]) -> list[T]:
    return [work(*parts) for parts in share]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="pieces")


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
