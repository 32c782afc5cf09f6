"""The idx format of the MNIST family, plain or gzipped."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tombola.errors import UsageError


def read_idx(path: Path) -> Tensor:
    """Return the uint8 array of an idx file; raises UsageError naming the file when it is not one."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UsageError(f"{path} is not an idx file of bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UsageError(f"{path} is cut off in its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise UsageError(f"{path} should hold {' x '.join(map(str, shape))} bytes and holds {len(content) - start}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def find_idx(name: str, folders: list[Path]) -> Path:
    """Return the first of `name`, `name`.gz in the folders; raises UsageError naming them when there is none."""
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    places = " or ".join(str(folder) for folder in folders)
    raise UsageError(f"--data-dir: there is no {name} or {name}.gz in {places}")
