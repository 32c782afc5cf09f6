"""Files that are seen whole or not at all; what a killed process left of one is swept away."""

import errno
import hashlib
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import yaml

from tombola.errors import TombolaError, UsageError

# A partial file is nobody's when its process is gone; on another machine, of which nothing is known, when it is old.
_STALE_SECONDS = 3 * 24 * 3600.0
_PARTIAL = re.compile(r"\..*\.(?P<place>[^.]+)\.(?P<process>\d+)-\d+\.partial")
# No configuration is nested deeper or holds more values than this.
_DEEPEST, _MOST_VALUES = 8, 100_000
_counter = itertools.count()
# What a process has open already, whatever lies behind it.
_STREAM = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/.+/fd/\d+")


class Writable(Protocol):
    """Takes a file's content piece by piece."""

    def write(self, content: bytes, /) -> int:
        """Write some of the content."""

    def flush(self) -> None:
        """Pass on what waits."""


class Sink:
    """What a file's content is written into: passes it on and remembers its SHA-256."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Write some of the content."""
        self._digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        """Pass on what waits."""
        self._file.flush()

    def hexdigest(self, further: str = "") -> str:
        """Return the SHA-256 of everything so far, followed by some text."""
        total = self._digest.copy()
        total.update(further.encode())
        return total.hexdigest()


def place_name() -> str:
    """Return a name for where process numbers are this process's own: the machine, and the container on it."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
    try:
        return f"{host}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return host


def _partial(path: Path) -> Path:
    # Shortened, so that a name which a directory can just hold can be written too.
    return path.with_name(f".{path.name[:80]}.{place_name()}.{os.getpid()}-{next(_counter)}.partial")


def write_atomically(path: Path, write: Callable[[Sink], object]) -> str:
    """Write a file so that it is seen whole or not at all, and return the SHA-256 of its content.

    A link stays one, to the file that is written; pipes, devices and streams such as /dev/stdout are written to as they
    are. Raises OSError naming the file where the disk will not have it.
    """
    if _STREAM.fullmatch(os.path.abspath(path)) or (path.exists() and not path.is_file() and not path.is_dir()):
        with path.open("ab") as stream:
            sink = Sink(stream)
            write(sink)
        return sink.hexdigest()
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = _partial(path)
    try:
        digest = _write(partial, "wb", write)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
    return digest


def _write(path: Path, mode: Literal["wb", "xb"], write: Callable[[Sink], object]) -> str:
    """Write a file through to the disk; return the SHA-256 of its content."""
    try:
        with path.open(mode) as file:
            sink = Sink(file)
            write(sink)
            file.flush()
            os.fsync(file.fileno())
            return sink.hexdigest()
    except RuntimeError as error:
        # torch.save closes its archive on the way out and hides a full disk, or Ctrl-C, behind its own complaint.
        if not isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise
        raise error.__context__ from error


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file of known content atomically; return its SHA-256."""
    return write_atomically(path, lambda sink: sink.write(content))


def write_json(path: Path, value: object) -> str:
    """Write a JSON file atomically; return its SHA-256."""
    return write_bytes(path, _json(value))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def write_shared(path: Path, content: bytes, pool: Path) -> str:
    """Write a file as a hard link to one of equal content in `pool`, where there can be one; return its SHA-256.

    Files are never changed in place, so that what one name means does not change with another.
    """
    digest = hashlib.sha256(content).hexdigest()
    pooled = pool / f"{digest}{path.suffix}"
    if pooled.is_file() and digest_of(pooled) == digest and _link(pooled, path):
        return digest
    write_bytes(path, content)
    pool.mkdir(parents=True, exist_ok=True)
    _link(path, pooled)
    return digest


def _link(source: Path, target: Path) -> bool:
    """Put a hard link in a name's place; return whether the file system can."""
    partial = _partial(target)
    try:
        os.link(source, partial)
        partial.replace(target)
    except OSError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def write_new_json(path: Path, value: object) -> bool:
    """Write a JSON file unless there is one; return whether this call, of all that try at once, made it."""
    partial = _partial(path)
    try:
        _write(partial, "wb", lambda sink: sink.write(_json(value)))
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        return _write_exclusively(path, _json(value))
    finally:
        partial.unlink(missing_ok=True)
    return True


def _write_exclusively(path: Path, content: bytes) -> bool:
    """Do it where the file system has no hard links; there a reader may come too early and find it damaged."""
    try:
        _write(path, "xb", lambda sink: sink.write(content))
    except FileExistsError:
        return False
    return True


def sweep(directory: Path, dry: bool = False) -> list[tuple[Path, int]]:
    """Remove the partial files that no process is writing any more; return them with their sizes.

    dry: only say which.
    """
    found = []
    for path in directory.glob(".*.partial"):
        try:
            state = path.stat()
            if _is_abandoned(path.name, state.st_mtime):
                if not dry:
                    path.unlink()
                found.append((path, state.st_size))
        except FileNotFoundError:
            continue  # its process has just finished it
    return found


def _is_abandoned(name: str, written: float) -> bool:
    parts = _PARTIAL.fullmatch(name)
    if parts is None:
        return False
    if parts["place"] == place_name():
        return not is_running(int(parts["process"]))
    return time.time() - written > _STALE_SECONDS


def is_running(process: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(directory: Path) -> int:
    """Return the bytes of all files below a directory; one that goes away meanwhile counts nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def read_json(path: Path) -> Any:
    """Read a JSON file; raises TombolaError naming it when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TombolaError(f"{path} is damaged ({_words(error)}); delete it and start again") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; raises TombolaError naming it when it is damaged."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise TombolaError(f"{path} is damaged (it holds no JSON object); delete it and start again")
    return found


def read_yaml(path: Path, subject: str) -> dict[str, Any]:
    """Read keys and values from a YAML file; raises UsageError, its sentence about `subject`, for anything else."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        # PyYAML raises plain ValueErrors for dates that there are none of.
        raise UsageError(f"{subject} is not YAML: {_words(error)}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{subject} must hold keys and values")
    for count, depth in enumerate(_depths(found)):
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise UsageError(f"{subject} must hold plain keys and values; it refers to itself or is nested too deep")
    strange = [key for key in found if not isinstance(key, str)]
    if strange:
        raise UsageError(f"{subject} must have names as keys, got {strange[0]!r}")
    return found


def _depths(value: object, depth: int = 0) -> Iterator[int]:
    """Yield how deep each value lies in another; without end where one refers to itself."""
    yield depth
    if isinstance(value, dict | list) and depth <= _DEEPEST:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _depths(inner, depth + 1)


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return " ".join(str(error).split()) or type(error).__name__
