"""Tar files, plain or compressed, read front to back; what their headers say is not believed."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tombola.data.packed import unpacked
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
    try:
        with unpacked(path) as file:
            stream = _Forward(file)
            with tarfile.TarFile(fileobj=stream) as archive:  # type: ignore[arg-type]
                for member in archive:
                    yield from _member(path, stream, member, wanted)
            _check_end(stream)
    except UsageError:
        raise
    except Exception as error:  # of a damaged archive tarfile may raise anything
        raise UsageError(f"{shown(path)} is not a tar file, or a damaged one ({in_words(error)})") from error


def _member(
    path: Path, stream: _Forward, member: tarfile.TarInfo, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes | None]]:
    name = str(PurePosixPath(member.name))
    if not 0 <= member.size <= MOST_BYTES:
        raise UsageError(
            f"{shown(path)}: {shown(name)} says it has {member.size:,} bytes; at most {MOST_BYTES:,} are read"
        )
    if member.isdir():
        yield name, None
    elif wanted(name):
        if not member.isfile() or member.issparse():
            raise UsageError(f"{shown(path)}: {shown(name)} is a link or has holes; archives must hold whole files")
        stream.seek(member.offset_data)
        yield name, _content(stream, member.size)


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
