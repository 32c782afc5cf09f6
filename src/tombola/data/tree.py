"""What lies below a folder."""

import os
from collections.abc import Callable
from pathlib import Path

from tombola.errors import UsageError, shown


def tree(root: Path, wanted: Callable[[str], bool]) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files below a folder, both sorted; links are followed.

    wanted: of a name, whether it must be a file or folder. Raises UsageError naming a folder that cannot be listed, a
    link that leads to where one has been already, or a wanted name that is no file.
    """
    folders: list[Path] = []
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            _enter(folder, seen)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"cannot list {shown(folder)}: {error.strerror}") from error
        for entry in entries:
            path = folder / entry.name
            if os.path.isdir(path):
                folders.append(path)
                pending.append(path)
            elif os.path.isfile(path):
                files.append(path)
            elif wanted(entry.name):
                raise UsageError(f"{shown(path)} is no file, and no link to one")
    return sorted(folders), sorted(files)


def _enter(folder: Path, seen: set[tuple[int, int]]) -> None:
    """Note a folder. Each is entered once: links that lead in circles, or side by side, would be followed for ever."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        raise UsageError(f"{shown(folder)} leads to a folder that is there already; each may be there once")
    seen.add((status.st_dev, status.st_ino))
