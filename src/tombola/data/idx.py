"""The idx format of the MNIST family, plain or compressed."""

import math
import os
import struct
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from tombola.data.packed import UNREADABLE, read_up_to, unpacked
from tombola.errors import UsageError, shown

_MOST_DIMENSIONS = 4
# The largest dataset of the family, 814,255 characters of 28x28 pixels, has 0.64 billion bytes.
_MOST_BYTES = 1 << 31


def read_idx(path: Path) -> Tensor:
    """Return the uint8 array of an idx file; raises UsageError naming the file when it is not one.

    No more is read than the header says, and one byte: a compressed file can unpack to any size.
    """
    try:
        with unpacked(path) as file:
            shape = _shape(file, path)
            size = math.prod(shape)
            content = read_up_to(file, size + 1)
    except UNREADABLE as error:
        raise UsageError(f"cannot read {shown(path)}: {error}") from error
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise UsageError(f"{shown(path)} should hold {' x '.join(map(str, shape))} bytes and holds {found}")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape))


def _shape(file: IO[bytes], path: Path) -> tuple[int, ...]:
    start = read_up_to(file, 4)
    if len(start) < 4 or start[:3] != b"\0\0\x08":
        raise UsageError(f"{shown(path)} is not an idx file of bytes")
    dimensions = start[3]
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise UsageError(f"{shown(path)} says it has {dimensions} dimensions; allowed are 1 to {_MOST_DIMENSIONS}")
    lengths = read_up_to(file, 4 * dimensions)
    if len(lengths) < 4 * dimensions:
        raise UsageError(f"{shown(path)} is cut off in its header")
    shape = struct.unpack(f">{dimensions}I", lengths)
    if not 0 < math.prod(shape) <= _MOST_BYTES:
        raise UsageError(
            f"{shown(path)} says it holds {' x '.join(map(str, shape))} bytes; allowed are 1 to {_MOST_BYTES:,} in all"
        )
    return shape


def find_idx(name: str, folders: list[Path]) -> Path:
    """Return the first of `name`, `name`.gz in the folders; raises UsageError naming them when there is none."""
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if os.path.isfile(candidate):  # False, too, where the folder cannot be looked into
                return candidate
    places = " or ".join(shown(folder) for folder in folders)
    raise UsageError(f"there is no {name} or {name}.gz in {places}; --download fetches it", option="data_dir")
