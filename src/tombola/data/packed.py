"""Files, plain or compressed, read no further than is asked for: a small one can unpack to gigabytes."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# By what a file begins with.
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\0": lzma.open,
    b"]\0\0": lzma.open,
    b"BZh": bz2.open,
}
_AT_ONCE = 1 << 20
# What files raise that cannot be read, are damaged or ask for absurd amounts of memory.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError)


def is_packed(path: Path) -> bool:
    """Whether a file is compressed."""
    return _opener(path) is not None


def unpacked(path: Path) -> IO[bytes]:
    """Open a file for reading, through a decompressor where it is compressed (gzip, xz, bzip2)."""
    opener = _opener(path)
    found: IO[bytes] = path.open("rb") if opener is None else opener(path, "rb")
    return found


def _opener(path: Path) -> Callable[..., Any] | None:
    with path.open("rb") as file:
        start = file.read(max(map(len, _OPENERS)))
    return next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)


def read_up_to(file: IO[bytes], most: int) -> bytearray:
    """Return what is left of a file, at most so many bytes, in no more memory than there are bytes in it."""
    content = bytearray()
    while len(content) < most and (piece := file.read(min(_AT_ONCE, most - len(content)))):
        content += piece
    return content
