"""Leases: locks that a dead process loses, on this machine at once and on another after a minute without a heartbeat.

A lease's name is a directory that holds one file a tenure, numbered. The highest number counts. A file is made
exclusively, which every network file system does atomically, and never deleted before a higher one exists, so that of
several who find a lease free, or its holder dead, one gets it. The holder touches its file; how old that is, is told by
the file system's own clock, so that those of machines may differ. Nothing relies on flock.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tombola.errors import TombolaError
from tombola.storage.files import is_running, place_name, read_json_object

# A lease is lost after so many seconds without a heartbeat; one is due every so many.
EXPIRY_SECONDS = 60.0
BEAT_SECONDS = 5.0
_FASTEST_POLL, _SLOWEST_POLL = 0.05, 1.0


class LeaseLost(TombolaError):
    """Another process has taken a lease over, since this one was silent for too long."""


class LeaseTaken(TombolaError):
    """Somebody else holds a lease."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: the machine's name, the process there, and since when (seconds since 1970, by its clock)."""

    host: str
    process: int
    since: float


class Lease:
    """One name that one process at a time may hold; a context manager that waits for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Path | None = None
        self._lost = False
        self._beaten = 0.0  # by the wall clock, which goes on while a machine is suspended
        self._guard = threading.Lock()  # between the heartbeat's thread and the holder's

    def acquire(self, wait: bool = True) -> None:
        """Take the lease; raises LeaseTaken where somebody holds it and nobody waits."""
        self.path.mkdir(parents=True, exist_ok=True)
        poll = _FASTEST_POLL
        try:
            while not self._try():
                if not wait:
                    raise LeaseTaken(f"{self.path.name} is held by another process")
                time.sleep(poll)
                poll = min(2 * poll, _SLOWEST_POLL)
            _HEART.add(self)
        except BaseException:  # interrupted when it was taken already: nobody is to wait for it
            self.release()
            raise

    def release(self) -> None:
        """Give the lease back; one that was taken over is left alone."""
        _HEART.remove(self)
        with self._guard:
            if self._file is not None and not self._lost:
                # All of it may have been cleaned away.
                with suppress(FileNotFoundError), self._file.open("r+b") as file:
                    file.truncate()
                    file.write(b'{"free": true}')
            self._file = None

    def check(self) -> None:
        """Raise LeaseLost where another process has taken the lease over.

        Looks where the last heartbeat is overdue: who stood still has not had the next one yet.
        """
        if time.time() - self._beaten > 2 * BEAT_SECONDS:
            with suppress(OSError):  # as the heartbeat does
                self.beat()
        if self._lost:
            raise LeaseLost(
                f"{self.path.name} was taken over by another process, since this one stood still for too long"
            )

    def beat(self) -> None:
        """Say that the holder is alive, and notice where the lease is lost."""
        with self._guard:
            if self._file is None or self._lost:
                return
            now = time.time()
            try:
                os.utime(self._file)
                self._lost = _highest(self.path) != int(self._file.name)
            except FileNotFoundError:
                self._lost = True
            self._beaten = now

    def _try(self) -> bool:
        """Take the lease where it is free or its holder is dead; return whether that succeeded."""
        now, before = time.time(), _highest(self.path)
        if before and not _is_over(self.path / f"{before}"):
            return False
        mine = self.path / f"{before + 1}"
        try:
            with mine.open("xb") as file:
                file.write(json.dumps(_description()).encode())
        except FileExistsError:
            return False
        if _highest(self.path) != before + 1:  # meanwhile others have had it, and one may have it
            mine.unlink(missing_ok=True)
            return False
        self._file, self._lost, self._beaten = mine, False, now
        for number in _numbers(self.path):
            if number < before + 1:
                (self.path / f"{number}").unlink(missing_ok=True)
        return True

    def __enter__(self) -> "Lease":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lease at a path, or None where nobody alive does."""
    number = _highest(path)
    if not number or _is_over(path / f"{number}"):
        return None
    found = _read(path / f"{number}")
    if found is None or not {"host", "process", "since"} <= set(found):
        return Holder("?", 0, 0.0)  # it is being written
    return Holder(str(found["host"]), int(found["process"]), float(found["since"]))


def _description() -> dict[str, Any]:
    process = os.getpid()
    return {
        "host": socket.gethostname(),
        "place": place_name(),
        "boot": _boot(),
        "process": process,
        "started": _started(process),
        "since": time.time(),
    }


def _numbers(path: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(path) if name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _highest(path: Path) -> int:
    return max(_numbers(path), default=0)


def _read(file: Path) -> dict[str, Any] | None:
    """Return what a tenure's file says, None while that is not whole."""
    try:
        return read_json_object(file)
    except (FileNotFoundError, TombolaError):
        return None


def _is_over(file: Path) -> bool:
    """Whether a tenure was given back, or its holder is dead."""
    found = _read(file)
    if found is not None:
        if found.get("free"):
            return True
        if (found.get("place"), found.get("boot")) == (place_name(), _boot()):
            process = int(found["process"])
            return not is_running(process) or _started(process) != found["started"]
    return _age(file) > EXPIRY_SECONDS


def _age(file: Path) -> float:
    """Return the seconds since a file was touched, by the clock of the file system that it lies on."""
    probe = file.with_name(f"now.{place_name()}.{os.getpid()}-{threading.get_ident()}")
    try:
        touched = file.stat().st_mtime
        with probe.open("wb") as opened:
            return os.fstat(opened.fileno()).st_mtime - touched
    except FileNotFoundError:
        return 0.0  # somebody has just taken it over
    except OSError:
        return time.time() - touched  # a directory that may only be read
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _started(process: int) -> str:
    """Return when a process of this machine began, in the kernel's ticks: numbers of processes are used again."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _boot() -> str:
    """Return what tells this boot of this machine from every other, where that is known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class _Heart:
    """One thread a process, which beats for all of its leases."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="heartbeat of leases", daemon=True)
                self._thread.start()

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with self._lock:
                leases = list(self._leases)
            for lease in leases:
                with suppress(OSError):  # a file system that is gone for a moment; the expiry leaves it time
                    lease.beat()


_HEART = _Heart()


@contextmanager
def held_alone(leases: list[Lease]) -> Iterator[list[str]]:
    """Take all of some leases that nobody holds; give the names of the others."""
    taken: list[Lease] = []
    busy: list[str] = []
    try:
        for lease in leases:
            try:
                lease.acquire(wait=False)
                taken.append(lease)
            except LeaseTaken:
                busy.append(lease.path.name)
        yield busy
    finally:
        for lease in taken:
            lease.release()
