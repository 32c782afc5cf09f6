"""study.json: which cells a comparison has and where each lies, so that it is read again without its data.

Below one --out may lie several; study.json is the one that was run last, and `.study/studies` has each by its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError, UsageError
from tombola.storage.files import read_json_object, write_json

NAME = "study.json"
# The folder below --out for all that is known of its studies.
STUDY = ".study"
EACH = Path(STUDY) / "studies"
FORMAT = 1
# Records of tasks that are done, and of those that failed, which workers write.
DONE_RECORDS = Path(STUDY) / "done"
FAILED_RECORDS = Path(STUDY) / "failed"
# What is measured of a cell beside its result.
MEASURED = ("dynamics",)


@dataclass(frozen=True)
class CellEntry:
    """A cell of a comparison.

    label: the finder as it was asked for. run: name of its run directory, empty while there is none. stamp: of
    everything that its result depends on, where that is known without reading data (`tombola.runs.cell.stamp`).
    measured: what was measured beside the result, such as the dynamics. failure: why there is no result. tasks: names
    of those that make all that, whose records say where it lies once workers that nobody waits for have done them.
    needs: names of those that come before, whose records say why there is no result where one of them failed.
    """

    label: str
    density: float
    seed: int
    run: str = ""
    stamp: str | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    tasks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A comparison. command: that made it, without the program's name; empty where it was made from Python."""

    cells: tuple[CellEntry, ...]
    command: tuple[str, ...] = ()
    name: str = ""

    def stamped(self) -> dict[str, CellEntry]:
        """Return the cells with a result that can be found again, by their stamps."""
        return {cell.stamp: cell for cell in self.cells if cell.stamp and cell.run}


def write(out: Path, cells: Sequence[CellEntry], command: Sequence[str], name: str = "comparison") -> None:
    """Write the manifest of a comparison below `out`, which becomes the last one there."""
    values = {"format": FORMAT, "name": name, "command": list(command), "cells": [asdict(cell) for cell in cells]}
    (out / EACH).mkdir(parents=True, exist_ok=True)
    write_json(out / EACH / f"{name}.json", values)
    write_json(out / NAME, values)


def names(out: Path) -> list[str]:
    """Return the names of the comparisons below `out`."""
    return sorted(path.stem for path in (out / EACH).glob("[!.]*.json"))


def is_unfinished(out: Path) -> bool:
    """Whether some comparison below `out` has cells still to be done, or cannot be read."""
    try:
        found = [read(out, name) for name in [*names(out), ""]]
    except UsageError:
        return True
    return any(not (cell.run or cell.failure) for each in found if each for cell in each.cells)


def read(out: Path, name: str = "") -> Manifest | None:
    """Return the manifest of a comparison below `out`, without a name the last; None where there is none at all.

    Raises UsageError where it cannot be read, and for a name that is none of those there.
    """
    path = out / EACH / f"{name}.json" if name else out / NAME
    if name and name not in names(out):
        raise UsageError(
            f"must be one of {', '.join(names(out)) or 'none, for there is none'}, got {name}", option="study"
        )
    if not path.is_file():
        return None
    try:
        values = read_json_object(path)
    except TombolaError as error:
        raise UsageError(str(error)) from None
    if values.get("format") != FORMAT:
        raise UsageError(f"{path} has format {values.get('format')!r}, and this tombola reads {FORMAT}")
    try:
        cells = tuple(_cell(out, cell) for cell in values["cells"])
        command = tuple(str(word) for word in values["command"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}); the same comparison writes it again") from None
    return Manifest(cells, command, str(values.get("name", "")))


def _cell(out: Path, values: Mapping[str, Any]) -> CellEntry:
    names = {key: tuple(values.get(key, ())) for key in ("tasks", "needs")}
    cell = CellEntry(**{**values, **names})
    if not cell.run and cell.tasks:
        cell = _recorded(out, cell)
    texts = (cell.label, cell.run, cell.failure)
    if not all(isinstance(text, str) for text in texts) or Path(cell.run).name != cell.run:
        raise ValueError(f"{cell.label!r} is no cell")
    if not isinstance(cell.seed, int) or not 0 < cell.density <= 1:
        raise ValueError(f"density {cell.density!r}, seed {cell.seed!r}")
    return cell


def _recorded(out: Path, cell: CellEntry) -> CellEntry:
    """Return a cell as the records of its tasks have it, the same where they say nothing of it."""
    found: dict[str, Any] = {}
    try:
        for name in cell.tasks:
            found |= read_json_object(out / DONE_RECORDS / f"{name}.json")
    except (FileNotFoundError, TombolaError):
        whys = (_why(out, name) for name in (*cell.tasks, *cell.needs))
        return replace(cell, failure=next(filter(None, whys), cell.failure))
    measured = {key: found[key] for key in MEASURED if key in found}
    return replace(cell, run=found.get("directory", ""), measured=measured, failure="")


def _why(out: Path, task: str) -> str:
    """Return why a task failed; nothing where it did not."""
    try:
        return str(read_json_object(out / FAILED_RECORDS / f"{task}.json")["why"])
    except (FileNotFoundError, TombolaError, KeyError):
        return ""
