"""Where images lie that are read one by one: in files of their own, in tar files, in Arrow files."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from tombola.data import saved
from tombola.data.folder import content_of
from tombola.data.packed import UNREADABLE
from tombola.errors import UsageError, in_words, shown
from tombola.storage.files import digest_of


class Stored(Protocol):
    """Images by number, encoded as they are stored."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> Sequence[str]:
        """What each image is called within the data."""

    def called(self, row: int) -> str:
        """Return how an error names an image."""

    def content(self, row: int) -> bytes:
        """Return an image's bytes; raises UsageError naming what cannot be read."""

    def digest(self, row: int) -> str:
        """Return the SHA-256 of an image's bytes."""

    def sizes(self) -> Tensor:
        """Return how many bytes each image has, (N,)."""

    def take(self, rows: Tensor) -> Self:
        """Return the images of some rows."""


@dataclass(frozen=True)
class InFiles:
    """Images in files of their own. root: the folder that the names lie in."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def called(self, row: int) -> str:
        """Return the file."""
        return shown(self.root / self.names[row])

    def content(self, row: int) -> bytes:
        """Return what is in the file."""
        return content_of(self.root / self.names[row])

    def digest(self, row: int) -> str:
        """Return the SHA-256 of the file."""
        return digest_of(self.root / self.names[row])

    def sizes(self) -> Tensor:
        """Return the sizes of the files."""
        return torch.tensor([(self.root / name).stat().st_size for name in self.names])

    def take(self, rows: Tensor) -> Self:
        """Return the images of some rows."""
        return replace(self, names=tuple(self.names[row] for row in rows.tolist()))


@dataclass(frozen=True)
class InShards:
    """Images in plain tar files, `shards`. places: (N, 3) int64, of each the shard, where it begins, and its bytes."""

    shards: tuple[Path, ...]
    names: tuple[str, ...]
    places: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def called(self, row: int) -> str:
        """Return the shard and the name within it."""
        return f"{shown(self.shards[int(self.places[row, 0])])}: {shown(self.names[row])}"

    def content(self, row: int) -> bytes:
        """Return the bytes of the member."""
        shard, offset, size = self.places[row].tolist()
        try:
            with self.shards[shard].open("rb") as file:
                file.seek(offset)
                found: bytes = file.read(size)
        except UNREADABLE as error:
            raise UsageError(f"{self.called(row)} cannot be read ({in_words(error)})") from error
        if len(found) < size:
            raise UsageError(f"{self.called(row)} cannot be read (the file has become shorter)")
        return found

    def digest(self, row: int) -> str:
        """Return the SHA-256 of the member."""
        return hashlib.sha256(self.content(row)).hexdigest()

    def sizes(self) -> Tensor:
        """Return the sizes of the members."""
        return self.places[:, 2].contiguous()

    def take(self, rows: Tensor) -> Self:
        """Return the images of some rows."""
        return replace(self, names=tuple(self.names[row] for row in rows.tolist()), places=self.places[rows])


@dataclass(frozen=True)
class InTable:
    """Images in a column of a data set that Hugging Face's datasets saved. rows: (N,) int64, their rows there."""

    folder: Path
    column: str
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> Sequence[str]:
        """The numbers of their rows."""
        return [str(row) for row in self.rows.tolist()]

    def called(self, row: int) -> str:
        """Return the folder and the number of the row there, from 1 on."""
        return f"{shown(self.folder)}: row {int(self.rows[row]) + 1}"

    def content(self, row: int) -> bytes:
        """Return the bytes in the column, or of the file that it names."""
        found: dict[str, Any] = saved.opened(self.folder)[self.column][int(self.rows[row])].as_py() or {}
        if found.get("bytes"):
            return bytes(found["bytes"])
        if not found.get("path"):
            raise UsageError(f"{self.called(row)} has no image in column {self.column}")
        return content_of(Path(found["path"]))

    def digest(self, row: int) -> str:
        """Return the SHA-256 of the image."""
        return hashlib.sha256(self.content(row)).hexdigest()

    def sizes(self) -> Tensor:
        """Return the sizes of the images in the column; 0 of those that lie in files beside it."""
        return saved.sizes(self.folder, self.column)[self.rows]

    def take(self, rows: Tensor) -> Self:
        """Return the images of some rows."""
        return replace(self, rows=self.rows[rows])
