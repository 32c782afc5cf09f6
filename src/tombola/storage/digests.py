"""digests.json: what the files of a directory must contain, so that damage never passes for a result."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from tombola.errors import TombolaError, UsageError
from tombola.storage.files import digest_of, read_json_object, write_json

NAME = "digests.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def begin(directory: Path, names: Collection[str]) -> None:
    """Say which files a directory is going to have; those that it vouches for already stay as they are."""
    try:
        known = vouched(directory) or {}
    except TombolaError:
        known = {}  # all of its files are made again
    write_json(directory / NAME, {name: known.get(name) for name in sorted(names)})


def seal(directory: Path, digests: Mapping[str, str]) -> None:
    """Vouch for files that have just been written; digests: SHA-256 by name. Between the two, nothing is believed."""
    write_json(directory / NAME, {**(vouched(directory) or {}), **digests})


def vouched(directory: Path) -> dict[str, str | None] | None:
    """Return the SHA-256 of each file that a directory is to have, None until it is written; None without the list.

    Raises TombolaError where the list is damaged.
    """
    path = directory / NAME
    if not path.is_file():
        return None
    found = read_json_object(path)
    for name, digest in found.items():
        if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise TombolaError(f"{path} is damaged (of {name} it says {digest!r}); delete it and start again")
    return found


def unsound(directory: Path, names: Collection[str]) -> list[str]:
    """Return those of some files that are missing, not finished or damaged."""
    try:
        known = vouched(directory) or {}
    except TombolaError:
        return list(names)
    return [name for name in names if not _holds(directory / name, known.get(name))]


def damaged(directory: Path) -> list[str]:
    """Return those files that were written and are not any more as they were, or gone; the list itself where it is."""
    try:
        known = vouched(directory) or {}
    except TombolaError:
        return [NAME]
    return unsound(directory, [name for name, digest in known.items() if digest is not None])


def check_digest(path: Path) -> None:
    """Raise UsageError where the digests.json beside a file has another digest for it, or waits for it still.

    A file that no digests.json names, such as one of the user's own, is taken as it is.
    """
    try:
        known = vouched(path.parent) or {}
    except TombolaError as error:
        raise UsageError(str(error)) from None
    if path.name not in known:
        return
    if known[path.name] is None:
        raise UsageError(f"{path} is not finished: run the command that was writing it again")
    if not _holds(path, known[path.name]):
        raise UsageError(
            f"{path} is damaged: its content is not what {NAME} beside it says; run the command that made it again"
        )


def _holds(path: Path, digest: str | None) -> bool:
    return digest is not None and path.is_file() and digest_of(path) == digest
