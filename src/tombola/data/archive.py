"""Tar files, plain or compressed, read front to back; what their headers say is not believed."""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tombola.data.packed import is_packed, unpacked
from tombola.errors import UsageError, in_words, shown

# The largest member that is read, or skipped in a compressed archive: an uncompressed image of 8,192 x 8,192 pixels
# has 201 million bytes.
MOST_BYTES = 1 << 28
# Read at once. tarfile itself reads headers of any length that they say; those of a long name have a few hundred bytes.
_AT_ONCE = 1 << 16
# Zeros behind the last member: archives are filled up to whole records.
_MOST_ZEROS = 1 << 24


class _Forward:
    """A file that is read in small pieces and only forwards; `last` is the last piece."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _AT_ONCE:
            raise tarfile.ReadError(f"a header says that it has {size:,} bytes")
        self.last = self._file.read(size)
        self._position += len(self.last)
        return self.last

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("its members overlap")
        self._file.seek(position)
        self._position = position


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
    """Give the names of an archive's folders (content None) and of its wanted files, with their contents.

    Raises UsageError naming the archive where it is damaged, and what of it is too large, or wanted and no file.
    """
    with _told(path), unpacked(path) as file:
        stream = _Forward(file)
        for name, member in _listed(path, stream, wanted):
            if member.isfile():
                stream.seek(member.offset_data)
            yield name, _content(stream, member.size) if member.isfile() else None
        _check_end(stream)


@dataclass(frozen=True)
class Place:
    """Where a member of an archive lies. offset, size: in bytes. content: of one that was to be read."""

    name: str
    offset: int
    size: int
    content: bytes


def places(path: Path, wanted: Callable[[str], bool], is_read: Callable[[str], bool]) -> Iterator[Place]:
    """Give where the wanted files of an archive lie, with the contents of those that are to be read now.

    Raises UsageError like `members`, and for a compressed archive, in which nothing has a place.
    """
    if is_packed(path):
        raise UsageError(f"{shown(path)} is compressed; unpack it to a plain .tar, in which images are read at once")
    with _told(path), path.open("rb") as file:
        stream = _Forward(file)
        for name, member in _listed(path, stream, wanted):
            content = b""
            if member.isfile() and is_read(name):
                stream.seek(member.offset_data)
                content = _content(stream, member.size)
            if member.isfile():
                yield Place(name, member.offset_data, member.size, content)
        _check_end(stream)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn whatever is raised inside the block into a UsageError that names the archive."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # of a damaged archive tarfile may raise anything
        raise UsageError(f"{shown(path)} is not a tar file, or a damaged one ({in_words(error)})") from error


def _listed(path: Path, stream: _Forward, wanted: Callable[[str], bool]) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Give the folders of an archive and its wanted files."""
    with tarfile.TarFile(fileobj=stream) as archive:  # type: ignore[arg-type]
        for member in archive:
            name = str(PurePosixPath(member.name))
            if not 0 <= member.size <= MOST_BYTES:
                raise UsageError(
                    f"{shown(path)}: {shown(name)} says it has {member.size:,} bytes; at most {MOST_BYTES:,} are read"
                )
            if not member.isdir() and not wanted(name):
                continue
            if not member.isdir() and (not member.isfile() or member.issparse()):
                raise UsageError(f"{shown(path)}: {shown(name)} is a link or has holes; archives must hold whole files")
            yield name, member


def _content(stream: _Forward, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        piece = stream.read(min(_AT_ONCE, size - len(content)))
        if not piece:
            raise tarfile.ReadError("unexpected end of data")
        content += piece
    return bytes(content)


def _check_end(stream: _Forward) -> None:
    """Read on behind the last member found, which compares a compressed file's checksum.

    Raises ReadError unless only zeros follow, with which a tar file ends: tarfile takes a damaged header for the end.
    """
    end = stream.tell() - len(stream.last)  # of the last member: tarfile has read one block more, looking for a header
    piece, found = stream.last, 0
    while piece:
        found += len(piece)
        if piece.count(0) < len(piece) or found > _MOST_ZEROS:
            raise tarfile.ReadError(f"after {end:,} bytes there is neither a file nor the end")
        piece = stream.read(_AT_ONCE)
    if found < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off")
