"""Artefacts by key, checkpoints in between, and a journal of metrics.

A stage is one piece of work with an identity. A stage whose artefact exists is not done again; one that was
interrupted goes on from its last checkpoint, and its journal is cut back to that point.
"""

import copy
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, Protocol

import torch
from filelock import FileLock

from tombola.errors import TombolaError, UsageError
from tombola.identity import differing_keys, digest

CHECKPOINT_SECONDS = 10.0


class Stage(Protocol):
    """What a piece of work may ask of the store."""

    def get(self, name: str) -> Any | None:
        """Return a finished artefact (tensors and plain values, nested), or None."""

    def put(self, name: str, artefact: Any) -> None:
        """Keep a finished artefact."""

    def resume(self) -> Any | None:
        """Return the state of the last checkpoint, or None, with the journal cut back to it."""

    def due(self) -> bool:
        """Whether the time has come for a checkpoint."""

    def checkpoint(self, state: Any) -> None:
        """Keep the state of an unfinished loop."""

    def record(self, row: Mapping[str, Any]) -> None:
        """Add a row to the journal."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the journal so far."""

    def clear_checkpoint(self) -> None:
        """Forget the checkpoint: the work is done."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this stage."""


class Store(Protocol):
    """A place for stages."""

    def stage(self, kind: str, identity: Mapping[str, Any]) -> Stage:
        """Return the stage with this identity."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that it is seen whole or not at all; raises OSError naming it where the disk will not have it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save closes its archive on the way out and hides a full disk behind its own complaint.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of known content atomically."""

    def write(file: IO[bytes]) -> None:
        file.write(content)

    write_atomically(path, write)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; raises TombolaError naming it when it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise TombolaError(f"{path} is damaged ({error}); delete it and start again") from error


def load_archive(path: Path) -> Any:
    """Read what torch.save wrote, tensors and plain values only; raises ValueError when it is something else."""
    # torch.save writes zip files; what else lies here would fail in torch.load in a dozen ways.
    if not zipfile.is_zipfile(path):
        raise ValueError("not an archive of torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, OSError) as error:
        raise ValueError(str(error).splitlines()[0]) from error


def claim(directory: Path, identity: Mapping[str, Any]) -> None:
    """Make the directory the home of `identity`, or check that it already is.

    Raises UsageError naming the differing keys when it belongs to something else.
    """
    path = directory / "identity.json"
    asked = json.loads(json.dumps(identity))
    if path.exists():
        keys = differing_keys(read_json(path), asked)
        if keys:
            raise UsageError(
                f"{directory} holds another configuration; it differs in {', '.join(keys)}: choose another --out"
            )
    else:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)


class DiskStore:
    """Stages in directories below `root`, named by kind and hash."""

    def __init__(self, root: Path, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
        self.root = root
        self.checkpoint_seconds = checkpoint_seconds

    def stage(self, kind: str, identity: Mapping[str, Any]) -> "DiskStage":
        """Return the stage with this identity, its directory made."""
        directory = self.root / f"{kind}-{digest(identity)[:16]}"
        claim(directory, identity)
        return DiskStage(directory, self.checkpoint_seconds)


class DiskStage:
    """One stage in one directory."""

    def __init__(self, directory: Path, checkpoint_seconds: float) -> None:
        self.directory = directory
        self._every = checkpoint_seconds
        self._last = time.monotonic()
        self._journal = directory / "metrics.jsonl"
        self._checkpoint = directory / "checkpoint.pt"

    def get(self, name: str) -> Any | None:
        """Return a finished artefact, or None."""
        return self._load(self.directory / f"{name}.pt")

    def put(self, name: str, artefact: Any) -> None:
        """Keep a finished artefact."""
        write_atomically(self.directory / f"{name}.pt", lambda file: torch.save(artefact, file))

    def resume(self) -> Any | None:
        """Return the last checkpoint's state, or None, with the journal cut back to it."""
        kept = self._load(self._checkpoint)
        if self._journal.exists():
            os.truncate(self._journal, kept["journal"] if kept else 0)
        return kept["state"] if kept else None

    def due(self) -> bool:
        """Whether the checkpoint interval has passed."""
        return time.monotonic() - self._last >= self._every

    def checkpoint(self, state: Any) -> None:
        """Keep the state and the length of the journal that belongs to it."""
        length = self._journal.stat().st_size if self._journal.exists() else 0
        write_atomically(self._checkpoint, lambda file: torch.save({"state": state, "journal": length}, file))
        self._last = time.monotonic()

    def record(self, row: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with self._journal.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl."""
        if not self._journal.exists():
            return []
        return [json.loads(line) for line in self._journal.read_text().splitlines()]

    def clear_checkpoint(self) -> None:
        """Remove the checkpoint."""
        self._checkpoint.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for other processes that work on the same stage; the lock falls with its process."""
        with FileLock(self.directory / ".lock"):
            yield

    @staticmethod
    def _load(path: Path) -> Any | None:
        if not path.exists():
            return None
        try:
            return load_archive(path)
        except ValueError as error:
            raise TombolaError(f"{path} is damaged ({error}); delete it and start again") from error


class MemoryStore:
    """Stages that live as long as the object; for calls from Python that keep nothing on disk."""

    def __init__(self) -> None:
        self._stages: dict[str, MemoryStage] = {}

    def stage(self, kind: str, identity: Mapping[str, Any]) -> "MemoryStage":
        """Return the stage with this identity."""
        return self._stages.setdefault(f"{kind}-{digest(identity)}", MemoryStage())


class MemoryStage:
    """One stage in memory; it never asks for a checkpoint but keeps the ones it is given."""

    def __init__(self) -> None:
        self._artefacts: dict[str, Any] = {}
        self._state: Any | None = None
        self._rows: list[dict[str, Any]] = []

    def get(self, name: str) -> Any | None:
        """Return a finished artefact, or None."""
        return self._artefacts.get(name)

    def put(self, name: str, artefact: Any) -> None:
        """Keep a finished artefact."""
        self._artefacts[name] = artefact

    def resume(self) -> Any | None:
        """Return the last state given."""
        return self._state

    def due(self) -> bool:
        """Never: memory does not outlive an interruption."""
        return False

    def checkpoint(self, state: Any) -> None:
        """Keep a copy of the state."""
        self._state = copy.deepcopy(state)

    def record(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._rows.append(dict(row))

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows."""
        return list(self._rows)

    def clear_checkpoint(self) -> None:
        """Forget the state."""
        self._state = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process can be here."""
        yield
