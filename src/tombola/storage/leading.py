"""A store on disk for ranks: the leading one reads, writes and locks, and the others get what it read."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from tombola.core.ranks import Ranks
from tombola.storage.leases import LeaseTaken
from tombola.storage.store import DiskEntry, DiskStore

# So often the leading rank looks whether a lock is free, so that the others hear from it.
_POLL_SECONDS = 0.5


class LedStore:
    """A store whose entries all ranks ask for the same things at the same time."""

    def __init__(self, store: DiskStore, ranks: Ranks) -> None:
        self._store, self._ranks = store, ranks

    def entry(self, kind: str, identity: Mapping[str, Any]) -> "LedEntry":
        """Return the entry with this identity."""
        return LedEntry(self._store.entry(kind, identity), self._ranks)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of an entry, or of whatever else has a name here."""
        lease = self._store.lock(name)

        def take(stack: ExitStack) -> None:
            lease.acquire(wait=False)
            stack.callback(lease.release)

        with _waited(take, self._ranks):
            yield


class LedEntry:
    """One entry of such a store."""

    def __init__(self, entry: DiskEntry, ranks: Ranks) -> None:
        self._entry, self._ranks = entry, ranks

    def get(self, name: str) -> Any | None:
        """Return a finished artefact, or None."""
        return self._ranks.given(lambda: self._entry.get(name))

    def put(self, name: str, artefact: Any) -> None:
        """Keep a finished artefact."""
        self._ranks.given(lambda: self._entry.put(name, artefact))

    def resume(self) -> Any | None:
        """Return the state of the last checkpoint, or None, with the journal cut back to it."""
        return self._ranks.given(self._entry.resume)

    def due(self) -> bool:
        """Whether the time has come for a checkpoint, which the leading rank alone writes."""
        return self._ranks.leads and self._entry.due()

    def checkpoint(self, state: Any) -> None:
        """Keep the state of an unfinished loop, which is the same on all ranks."""
        if self._ranks.leads:
            self._entry.checkpoint(state)

    def record(self, row: Mapping[str, Any]) -> None:
        """Add a row to the journal."""
        if self._ranks.leads:
            self._entry.record(row)

    def rows(self) -> list[dict[str, Any]]:
        """Return the journal so far."""
        return self._ranks.given(self._entry.rows)

    def clear_checkpoint(self) -> None:
        """Forget the checkpoint: the work is done."""
        if self._ranks.leads:
            self._entry.clear_checkpoint()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other work out of this entry."""
        with _waited(lambda stack: stack.enter_context(self._entry.locked(wait=False)), self._ranks):
            yield


@contextmanager
def _waited(take: Any, ranks: Ranks) -> Iterator[None]:
    """Hold inside the block what the leading rank takes, where it can; LeaseTaken says that it cannot yet."""
    with ExitStack() as stack:

        def taken() -> bool:
            try:
                take(stack)
            except LeaseTaken:
                time.sleep(_POLL_SECONDS)
                return False
            return True

        while not ranks.given(taken):
            pass
        yield


def led(store: DiskStore, ranks: Ranks) -> DiskStore | LedStore:
    """Return a store for some ranks; one alone has it as it is."""
    return store if ranks.size == 1 else LedStore(store, ranks)
