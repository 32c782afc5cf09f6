"""What torch.save wrote: read without running its code; and with a digest behind it, for what must not change."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from tombola.storage.files import Sink, Writable, write_atomically

_MARK = b"\nsha256 "
_TRAILER = len(_MARK) + 64 + 1
_CHUNK = 2**20


def save_archive(value: Any, sink: Writable) -> None:
    """Write a value by torch.save, which asks for no more of a file than this."""
    torch.save(value, cast(IO[bytes], sink))


def load_archive(path: Path | IO[bytes]) -> Any:
    """Read what torch.save wrote, tensors and plain values only; raises ValueError when it is something else."""
    # torch.save writes zip files; what else lies here would fail in torch.load in a dozen ways.
    if not zipfile.is_zipfile(path):
        raise ValueError("not an archive of torch.save")
    if not isinstance(path, Path):
        path.seek(0)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error


def write_archive(path: Path, value: Any) -> None:
    """Write tensors and plain values with torch.save, and behind them the SHA-256 of all that, in one file.

    The digest covers also where the file lies, so that another entry's does not pass for it. What is mostly zeros, as
    trained tickets are, is written compressed.
    """

    def write(sink: Sink) -> None:
        if _is_mostly_zero(value):
            deflating = _Deflating(sink)
            save_archive(value, deflating)
            deflating.close()
        else:
            save_archive(value, sink)
        sink.write(_MARK + sink.hexdigest(_where(path)).encode() + b"\n")

    write_atomically(path, write)


def read_archive(path: Path) -> Any:
    """Read what `write_archive` wrote; raises FileNotFoundError, and ValueError when a single bit is another."""
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size - _TRAILER
        total = hashlib.sha256()
        left = max(length, 0)
        start = file.peek(1)[:1]
        while left and (chunk := file.read(min(_CHUNK, left))):
            total.update(chunk)
            left -= len(chunk)
        trailer = file.read()
    total.update(_where(path).encode())
    if length < 0 or trailer != _MARK + total.hexdigest().encode() + b"\n":
        raise ValueError("its content is not what its digest says")
    return load_archive(path if start == b"P" else BytesIO(zlib.decompress(path.read_bytes()[:length])))


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


class _Deflating:
    """Compresses on the way into a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._deflate = zlib.compressobj(1)

    def write(self, content: bytes) -> int:
        """Compress some of the content."""
        self._sink.write(self._deflate.compress(content))
        return len(content)

    def flush(self) -> None:
        """Do nothing: what waits is written by `close`."""

    def close(self) -> None:
        """Write what waits."""
        self._sink.write(self._deflate.flush())


def _is_mostly_zero(value: Any) -> bool:
    sizes = [(t.nbytes, int(t.count_nonzero()) / max(t.numel(), 1)) for t in _tensors(value) if t.is_cpu]
    total = sum(size for size, _ in sizes)
    return sum(size * share for size, share in sizes) < total / 2


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the dense tensors in nested values."""
    if isinstance(value, Tensor):
        if value.layout == torch.strided and not value.is_quantized:
            yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner)
