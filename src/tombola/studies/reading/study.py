"""Study: the cells of a comparison as they lie in its directory, whole or not; read without PyTorch."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.core.measure import Measure, measure_in
from tombola.errors import TombolaError, UsageError, did_you_mean
from tombola.storage import digests
from tombola.storage.files import read_json, read_json_object, read_yaml
from tombola.studies import manifest
from tombola.studies.dense import DenseNetwork, dense_networks, recipe_of
from tombola.studies.manifest import CellEntry
from tombola.studies.outcome import CellOutcome
from tombola.studies.reading.found import discovered
from tombola.studies.reading.questions import base_name
from tombola.studies.table import Row, measure_of, tabulate

if TYPE_CHECKING:
    from pandas import DataFrame

# What a result must say before it can stand in a table.
_NEEDED = ("kept", "prunable", "cost", "dense_equivalents")


@dataclass(frozen=True)
class ReadCell:
    """A cell as it was read. directory: of its run, where there is one with a result. recipe: of its dense network."""

    label: str
    density: float
    seed: int
    directory: Path | None = None
    recipe: str = ""


@dataclass(frozen=True, repr=False)
class Study:
    """A comparison.

    outcomes: of all cells that were planned, as far as that is known; those not run yet have neither values nor a
    failure. command: that made it, where known. problems: files that could not be used, and why, a sentence each.
    name: its own; others: names of further comparisons in the same directory.
    """

    directory: Path
    outcomes: tuple[CellOutcome, ...]
    command: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    name: str = ""
    others: tuple[str, ...] = ()

    def __repr__(self) -> str:
        densities = ", ".join(f"{100 * density:.4g} %" for density in self.densities)
        done = f"{len(self.done)} of {len(self.outcomes)} cells finished"
        return (
            f"<Study {self.directory}: {', '.join(self.finders)} at {densities} of the weights, {done}; "
            "see .summary(), .differences(), .cells>"
        )

    @property
    def finders(self) -> list[str]:
        """The finders as they were asked for, in that order."""
        return list(dict.fromkeys(outcome.cell.label for outcome in self.outcomes))

    @property
    def densities(self) -> list[float]:
        """The densities, falling."""
        return sorted({outcome.cell.density for outcome in self.outcomes}, reverse=True)

    @property
    def seeds(self) -> list[int]:
        """The seeds, rising."""
        return sorted({outcome.cell.seed for outcome in self.outcomes})

    @property
    def done(self) -> list[tuple[ReadCell, Mapping[str, Any]]]:
        """The cells with a result, and what it says."""
        return [(_as_read(o), o.values) for o in self.outcomes if o.values is not None]

    @property
    def missing(self) -> list[CellOutcome]:
        """The cells that were planned and have neither a result nor a failure."""
        return [o for o in self.outcomes if o.values is None and not o.failure]

    @cached_property
    def rows(self) -> list[Row]:
        """One row for each finder and density with a result, as `tombola compare` gives them."""
        return tabulate(self.outcomes)

    @cached_property
    def dense(self) -> list[DenseNetwork]:
        """The dense networks, of which each configuration of model, data and training has one; none while none is."""
        return dense_networks(self.outcomes)

    @cached_property
    def measure(self) -> Measure:
        """How the results are measured."""
        return measure_of(self.outcomes)

    @cached_property
    def configurations(self) -> dict[str, dict[str, Any]]:
        """Return config.yaml of one run of each finder, by finder; empty where it cannot be read."""
        found: dict[str, dict[str, Any]] = {}
        for cell, _ in self.done:
            if cell.label not in found and cell.directory:
                found[cell.label] = _tolerant_yaml(cell.directory / "config.yaml")
        return found

    @cached_property
    def environments(self) -> list[dict[str, Any]]:
        """Return the different environments in which cells ran."""
        found: list[dict[str, Any]] = []
        for cell, _ in self.done:
            values = _tolerant_json(cell.directory / "environment.json") if cell.directory else {}
            if values and values not in found:
                found.append(values)
        return found

    @cached_property
    def audits(self) -> list[dict[str, Any]]:
        """Return what audits beside the runs found, each with the name of its directory."""
        paths = sorted(self.directory.glob("audit-*/audit.json"))
        return [{"directory": path.parent.name, **values} for path in paths if (values := _tolerant_json(path))]

    def metrics_of(self, cell: ReadCell) -> list[dict[str, Any]]:
        """Return the rows of a cell's metrics.jsonl, without lines that cannot be read."""
        return list(_lines(cell.directory / "metrics.jsonl")) if cell.directory else []

    @property
    def cells(self) -> "DataFrame":
        """One line a cell: state, score, loss, cost; see `tombola.studies.reading.frames`."""
        from tombola.studies.reading.frames import cells

        return cells(self)

    @property
    def metrics(self) -> "DataFrame":
        """One line for each figure that was noted over time, of all cells."""
        from tombola.studies.reading.frames import metrics

        return metrics(self)

    @property
    def layers(self) -> "DataFrame":
        """One line for each cell and layer: weights kept, density, dead units."""
        from tombola.studies.reading.frames import layers

        return layers(self)

    def summary(self, against: str = "") -> "DataFrame":
        """One line for each finder and density: mean, deviation, interval, n, cost, and what `against` is beside it."""
        from tombola.studies.reading.frames import summary

        return summary(self, self.chosen(against))

    def differences(self, against: str = "") -> "DataFrame":
        """One line for each other finder and density: what `against` gains on it, paired by seed, and the verdict."""
        from tombola.studies.reading.frames import differences

        return differences(self, self.chosen(against))

    def equal_cost(self, against: str = "") -> "DataFrame":
        """What other finders reach at each density for what `against` costs there, or up to 5 % more."""
        from tombola.studies.reading.frames import equal_cost_frame

        return equal_cost_frame(self, self.chosen(against))

    def falls(self) -> "DataFrame":
        """The density at which each finder falls more than a point below the dense network."""
        from tombola.studies.reading.frames import falls_frame

        return falls_frame(self)

    def chosen(self, against: str = "") -> str:
        """Return the finder that others are held against, the first by default.

        A name without its options will do where one finder alone has it. Raises UsageError for one not here.
        """
        if not against or against in self.finders:
            return against or self.finders[0]
        meant = [label for label in self.finders if base_name(label) == against]
        if len(meant) > 1:
            raise UsageError(f"must say which one: {', '.join(meant)}, got {against}", option="against")
        if not meant:
            near = did_you_mean(against, {*self.finders, *map(base_name, self.finders)})
            raise UsageError(f"must be one of {', '.join(self.finders)}, got {against}{near}", option="against")
        return meant[0]


def _as_read(outcome: CellOutcome) -> ReadCell:
    assert isinstance(outcome.cell, ReadCell)
    return outcome.cell


def read(directory: str | Path, study: str = "") -> Study:
    """Read a comparison that lies in a directory (its --out), also while cells of it are missing.

    study: its name, where there are several; without one, the comparison that was run last. Where no study.json says
    which cells it has, all finished runs below the directory count. Raises UsageError where there is no comparison.
    """
    out = Path(directory)
    if not out.is_dir():
        raise UsageError(f"there is no directory {out}")
    known = manifest.read(out, study)
    entries = known.cells if known else discovered(out)
    if not entries:
        raise UsageError(f"{out} holds no comparison: there is no {manifest.NAME}, and no finished run")
    problems: list[str] = []
    outcomes = _of_one_measure(_with_recipes([_outcome(out, entry, problems) for entry in entries]), problems)
    if not known:
        return Study(out, outcomes, problems=tuple(problems))
    others = tuple(name for name in manifest.names(out) if name != known.name)
    return Study(out, outcomes, known.command, tuple(problems), known.name, others)


def _outcome(out: Path, entry: CellEntry, problems: list[str]) -> CellOutcome:
    """Return what became of a cell; one whose result cannot be used counts as missing, and is a problem."""
    bare = ReadCell(entry.label, entry.density, entry.seed)
    if not entry.run:
        return CellOutcome(bare, None, entry.failure)
    directory = out / entry.run
    try:
        values = _result(directory)
    except (TombolaError, OSError) as error:
        problems.append(" ".join(str(error).split()))
        return CellOutcome(bare, None)
    cell = ReadCell(entry.label, entry.density, entry.seed, directory)
    return CellOutcome(cell, {**values, **entry.measured})


def _with_recipes(outcomes: Sequence[CellOutcome]) -> list[CellOutcome]:
    """Return the outcomes with what their dense networks depend on; cells of a finder have that in common."""
    recipes: dict[str, str] = {}
    found = []
    for outcome in outcomes:
        cell = outcome.cell
        if isinstance(cell, ReadCell) and cell.directory:
            if cell.label not in recipes:
                recipes[cell.label] = recipe_of(_tolerant_yaml(cell.directory / "config.yaml"))
            outcome = replace(outcome, cell=replace(cell, recipe=recipes[cell.label]))
        found.append(outcome)
    return found


def _of_one_measure(outcomes: Sequence[CellOutcome], problems: list[str]) -> tuple[CellOutcome, ...]:
    """Return the outcomes without results of another measure than the first one's, which nothing compares."""
    first, kept = measure_of(outcomes), []
    for outcome in outcomes:
        if outcome.values is not None and measure_in(outcome.values) != first:
            other, where = measure_in(outcome.values), _as_read(outcome).directory
            problems.append(f"{where} is measured by {other.name}, and the others by {first.name}")
            outcome = CellOutcome(outcome.cell, None)
        kept.append(outcome)
    return tuple(kept)


def _result(directory: Path) -> dict[str, Any]:
    path = directory / "result.json"
    if not path.is_file():
        raise UsageError(f"{path} is missing; the same comparison makes it again")
    values = read_json_object(path)
    digests.check_digest(path)
    measure = measure_in(values)
    lacking = [name for name in (measure.test, measure.dense_test, *_NEEDED) if name not in values]
    if lacking:
        raise UsageError(f"{path} is no result of a run: it lacks {', '.join(lacking)}")
    for name in (measure.test, measure.dense_test):
        if not isinstance(values[name], int | float) or not math.isfinite(values[name]):
            raise UsageError(f"{path}: {name} is no number but {values[name]}")
    return values


def _tolerant_yaml(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path, str(path))
    except (TombolaError, OSError):
        return {}


def _tolerant_json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (TombolaError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line cut short: the rest can be shown
        if isinstance(row, dict) and isinstance(row.get("stage"), str):
            yield row
