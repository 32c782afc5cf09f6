"""Artefacts by key, checkpoints in between, and a journal of metrics.

An entry is one piece of work with an identity. An entry whose artefact exists is not done again; one that was
interrupted goes on from its last checkpoint, and its journal is cut back to that point. Whatever is read is checked
against a digest that was written with it.
"""

import copy
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tombola.errors import TombolaError, UsageError
from tombola.storage import stopping
from tombola.storage.archives import read_archive, write_archive
from tombola.storage.files import (
    read_json_object,
    sweep,
    write_json,
    write_new_json,
)
from tombola.storage.identity import differing_keys, digest
from tombola.storage.leases import Lease

CHECKPOINT_SECONDS = 10.0
LOCKS = ".leases"
CHECKPOINT = "checkpoint.pt"


class StoreEntry(Protocol):
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
        """Wait for other processes that work on this entry, and keep them out."""


class Store(Protocol):
    """A place for entries."""

    def entry(self, kind: str, identity: Mapping[str, Any]) -> StoreEntry:
        """Return the entry with this identity."""


def claim(directory: Path, identity: Mapping[str, Any]) -> None:
    """Make the directory the home of `identity`, or check that it already is; of several at once, one makes it.

    Raises UsageError naming the differing keys when it belongs to something else.
    """
    path = directory / "identity.json"
    asked = json.loads(json.dumps(identity))
    directory.mkdir(parents=True, exist_ok=True)
    sweep(directory)
    if path.exists() or not write_new_json(path, asked):
        keys = differing_keys(read_json_object(path), asked)
        if keys:
            raise UsageError(
                f"{directory} holds another configuration; it differs in {', '.join(keys)}: choose another --out"
            )


def _say_by_warning(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def _look_away(kind: str, row: Mapping[str, Any]) -> None:
    pass


def check_out(out: Path) -> None:
    """Raise UsageError where a directory that is written to cannot lie."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", "".join(out.parts[:1])):
        # Locks and journals take what such storage has not: files made exclusively, touched, and appended to.
        raise UsageError(f"out must be a directory of a file system, and no address such as {out}", option="out")
    try:
        is_file = out.exists() and not out.is_dir()
    except OSError as error:  # a name that is too long, say
        raise UsageError(f"out {out} cannot be a directory: {error.strerror}", option="out") from None
    if is_file:
        raise UsageError(f"out {out} is a file; it must be a directory", option="out")


class DiskStore:
    """Entries in directories below `root`, named by kind and hash; nothing is made before something is written.

    say: is told, in a line, what was found damaged and is done again. seen: an attribute to be set; is told the kind
    of an entry, and the row that its journal has just got.
    """

    def __init__(
        self,
        root: Path,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        say: Callable[[str], None] = _say_by_warning,
    ) -> None:
        self.root = root
        self.checkpoint_seconds = checkpoint_seconds
        self.say = say
        self.seen: Callable[[str, Mapping[str, Any]], None] = _look_away

    def entry(self, kind: str, identity: Mapping[str, Any]) -> "DiskEntry":
        """Return the entry with this identity; its directory is made by the first write."""
        return DiskEntry(self, kind, identity)

    def lock(self, name: str) -> Lease:
        """Return the lock of an entry, or of whatever else has a name here; it falls with its process."""
        return Lease(self.root / LOCKS / name)


class DiskEntry:
    """One entry in one directory."""

    def __init__(self, store: DiskStore, kind: str, identity: Mapping[str, Any]) -> None:
        self.directory = store.root / f"{kind}-{digest(identity)[:16]}"
        self._store, self._kind, self._identity = store, kind, identity
        self._claimed = False
        self._lease: Lease | None = None
        self._last = time.monotonic()
        self._journal = self.directory / "metrics.jsonl"
        self._sealed = self.directory / "journal.json"
        self._checkpoint = self.directory / CHECKPOINT

    def get(self, name: str) -> Any | None:
        """Return a finished artefact, or None; raises TombolaError naming the file when it is damaged."""
        self._check()
        path = self.directory / f"{name}.pt"
        try:
            return read_archive(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise TombolaError(f"{path} is damaged ({error}); delete it and start again") from error

    def put(self, name: str, artefact: Any) -> None:
        """Keep a finished artefact; the journal is final as it now stands."""
        self._claim()
        length, total = self._sync()
        # Before the artefact: one that exists has a journal that is vouched for.
        write_json(self._sealed, {"length": length, "sha256": total})
        write_archive(self.directory / f"{name}.pt", artefact)

    def resume(self) -> Any | None:
        """Return the last checkpoint's state, or None, with the journal cut back to it.

        What is damaged, or does not fit the other, is not believed: the work begins anew, and the store says so.
        """
        self._check()
        self._check_lease()
        found = self._read_checkpoint()
        self._sealed.unlink(missing_ok=True)  # the next artefact seals it anew
        if found is None:
            self._journal.unlink(missing_ok=True)
            return None
        if self._journal.exists():
            os.truncate(self._journal, found["journal"])
        return found["state"]

    def _read_checkpoint(self) -> dict[str, Any] | None:
        try:
            found = read_archive(self._checkpoint)
            if not isinstance(found, dict) or not {"state", "journal", "sha256"} <= set(found):
                raise ValueError("it holds something else")
            if not _begins_as(self._content(), found["journal"], found["sha256"]):
                raise ValueError(f"{self._journal.name} beside it is not the one that it belongs to")
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._store.say(f"{self._checkpoint} cannot be gone on from ({error}); its work begins anew")
            self.clear_checkpoint()
            return None
        return found

    def due(self) -> bool:
        """Whether the checkpoint interval has passed, or the process is to stop."""
        return stopping.requested() or time.monotonic() - self._last >= self._store.checkpoint_seconds

    def checkpoint(self, state: Any) -> None:
        """Keep the state, and length and digest of the journal that belongs to it.

        Raises Stopped where the process was asked to stop.
        """
        self._claim()
        length, total = self._sync()
        write_archive(self._checkpoint, {"state": state, "journal": length, "sha256": total})
        self._last = time.monotonic()
        if stopping.requested():
            raise stopping.Stopped

    def record(self, row: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self._claim()
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._store.seen(self._kind, row)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; raises TombolaError where it is not what was written."""
        self._check()
        content = self._content()
        try:
            if self._is_sound(content):
                return [json.loads(line) for line in content.splitlines()]
        except ValueError:
            pass  # a line that is none
        raise TombolaError(f"{self._journal} is damaged; delete the directory {self.directory} and start again")

    def _is_sound(self, content: bytes) -> bool:
        """Whether the journal is what was sealed with the last artefact, and then what is being added now."""
        under_way = self._checkpoint.exists()
        if not self._sealed.exists():
            return under_way or not any(self.directory.glob("*.pt"))
        sealed = read_json_object(self._sealed)
        length = sealed.get("length")
        return (len(content) == length or under_way) and _begins_as(content, length, sealed.get("sha256"))

    def _sync(self) -> tuple[int, str]:
        """Bring the journal to the disk, which must not have it later than what vouches for it; length and digest."""
        if not self._journal.exists():
            return 0, hashlib.sha256().hexdigest()
        with self._journal.open("rb+") as file:
            os.fsync(file.fileno())
            content = file.read()
        return len(content), hashlib.sha256(content).hexdigest()

    def _content(self) -> bytes:
        return self._journal.read_bytes() if self._journal.exists() else b""

    def clear_checkpoint(self) -> None:
        """Remove the checkpoint."""
        self._check_lease()
        self._checkpoint.unlink(missing_ok=True)

    @contextmanager
    def locked(self, wait: bool = True) -> Iterator[None]:
        """Wait for other processes that work on the same entry; the lock falls with its process.

        Raises LeaseTaken where there is one and it is not to wait. Whoever stood still for so long that another took it
        over writes nothing more: LeaseLost is raised.
        """
        lease = self._store.lock(self.directory.name)
        lease.acquire(wait)
        self._lease = lease
        try:
            yield
        finally:
            self._lease = None
            lease.release()

    def _check(self) -> None:
        """Raise UsageError where the directory is another entry's."""
        if not self._claimed and (self.directory / "identity.json").exists():
            self._claim()

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _claim(self) -> None:
        self._check_lease()
        if not self._claimed:
            claim(self.directory, self._identity)
            self._claimed = True


def _begins_as(content: bytes, length: object, sha256: object) -> bool:
    """Whether there are so many bytes and the first of them have this digest."""
    if not isinstance(length, int) or not 0 <= length <= len(content):
        return False
    return hashlib.sha256(content[:length]).hexdigest() == sha256


class MemoryStore:
    """Entries that live as long as the object; for calls from Python that keep nothing on disk."""

    def __init__(self) -> None:
        self._entries: dict[str, MemoryEntry] = {}

    def entry(self, kind: str, identity: Mapping[str, Any]) -> "MemoryEntry":
        """Return the entry with this identity."""
        return self._entries.setdefault(f"{kind}-{digest(identity)}", MemoryEntry())


class MemoryEntry:
    """One entry in memory; it never asks for a checkpoint but keeps the ones it is given."""

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
