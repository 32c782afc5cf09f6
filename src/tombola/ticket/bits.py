"""One boolean mask as packed bits in memory, and as bits or indices, whichever is smaller, in a file."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from tombola.errors import UsageError

# Masks of fewer weights have indices of 32 bits in files.
INT32_BELOW = 2**31


@dataclass(frozen=True, eq=False)
class Bits:
    """A mask of some shape: its bits in row-major order, eight to a byte, read-only."""

    shape: tuple[int, ...]
    packed: np.ndarray

    def __post_init__(self) -> None:
        self.packed.flags.writeable = False

    @classmethod
    def of(cls, mask: Tensor) -> "Bits":
        """Pack a bool tensor."""
        return cls(tuple(mask.shape), np.packbits(mask.detach().cpu().contiguous().reshape(-1).numpy()))

    @property
    def total(self) -> int:
        """Number of bits."""
        return prod(self.shape)

    @cached_property
    def kept(self) -> int:
        """Number of bits that are set."""
        return int(np.bitwise_count(self.packed).sum(dtype=np.int64))

    @property
    def density(self) -> float:
        """Share of bits that are set, 1 where there are none at all."""
        return self.kept / self.total if self.total else 1.0

    def flags(self) -> np.ndarray:
        """Return a fresh bool array of all bits."""
        return np.unpackbits(self.packed, count=self.total).astype(bool)

    def unpack(self) -> Tensor:
        """Return a fresh bool tensor."""
        return torch.from_numpy(self.flags()).view(self.shape)

    def encode(self) -> tuple[str, Tensor]:
        """Return the smaller encoding and its name: "bits" (uint8) or "indices" (int32 or int64)."""
        index = np.dtype(np.int32 if self.total < INT32_BELOW else np.int64)
        if self.kept * index.itemsize >= self.packed.nbytes:
            return "bits", torch.from_numpy(self.packed.copy())
        return "indices", torch.from_numpy(np.flatnonzero(self.flags()).astype(index))

    @classmethod
    def decode(cls, name: str, encoding: str, data: Tensor, shape: tuple[int, ...]) -> "Bits":
        """Read either encoding; raises UsageError, naming the mask, if the data cannot be such a mask."""
        total = prod(shape)
        if encoding not in {"bits", "indices"}:
            raise UsageError(f"the mask of {name} is encoded as {encoding!r}; known are bits and indices")
        if encoding == "bits":
            fits = data.dtype == torch.uint8 and data.shape == ((total + 7) // 8,)
            values = data.numpy() if fits else None
            if values is None or np.unpackbits(values[-1:])[(total - 1) % 8 + 1 :].any():
                raise UsageError(f"the mask of {name} does not consist of {total} bits")
            return cls(shape, values.copy())
        wanted = torch.int32 if total < INT32_BELOW else torch.int64
        if data.dtype != wanted:
            raise UsageError(f"the mask of {name} must have indices of type {wanted}, got {data.dtype}")
        return cls(shape, _packed(name, data.numpy(), total))


def _packed(name: str, indices: np.ndarray, total: int) -> np.ndarray:
    """Return the bits (total,), packed, of increasing indices; no more than these eighths of a byte are allocated."""
    ordered = indices.ndim == 1 and bool((indices[1:] > indices[:-1]).all())
    if not ordered or (indices.size and (indices[0] < 0 or indices[-1] >= total)):
        raise UsageError(f"the mask of {name} has indices that do not increase or are not below {total}")
    packed = np.zeros((total + 7) // 8, dtype=np.uint8)
    places = indices >> 3
    first = np.flatnonzero(np.diff(places, prepend=-1))
    if first.size:
        packed[places[first]] = np.bitwise_or.reduceat((128 >> (indices & 7)).astype(np.uint8), first)
    return packed
