"""A comparison from start to end: cells run, rows made, tables written."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tombola.core.progress import Progress, Silent, progress_on
from tombola.core.selection import Density
from tombola.errors import TombolaError, UsageError
from tombola.networks.runtime import without_autocast
from tombola.runs.config import STANDARD, load_preset, parse_density
from tombola.studies.engines import Engine, Local
from tombola.studies.outcome import CellOutcome
from tombola.studies.planning import plan
from tombola.studies.reading import Study, read
from tombola.studies.runner import nothing, run_study
from tombola.studies.study import StudyPlan, read_study
from tombola.studies.table import Row, summary, tabulate, write_tables


def carry_out(
    plan: StudyPlan,
    out: Path,
    progress: Progress,
    engine: Engine | None = None,
    *,
    seen: Callable[[list[CellOutcome]], None] = nothing,
    retry_failed: bool = False,
    command: Sequence[str] = (),
) -> tuple[list[Row], dict[str, Any], int]:
    """Run a study and write table.json and table.csv below `out`, as far as it is finished.

    Returns the rows, them as plain values, and how many cells nothing is known of yet. engine: this process unless
    given; the rest as in `run_study`. Raises TombolaError where every cell failed.
    """
    outcomes = run_study(plan, out, engine or Local(), progress, seen, retry_failed, command)
    rows, left = tabulate(outcomes), len(plan.cells) - len(outcomes)
    if not rows and not left:
        raise TombolaError(f"every cell failed; the first said: {outcomes[0].failure}")
    if not rows:
        return [], {}, left
    found = summary(rows, outcomes)
    write_tables(rows, found, plan.cells[0].label, out)
    return rows, found, left


@without_autocast()
def compare(
    finders: Sequence[str],
    *,
    densities: Sequence[Density | str],
    seeds: int = 3,
    preset: str = "digits",
    recipe: str = STANDARD,
    out: str | Path = "runs",
    dynamics: bool = False,
    jobs: int = 1,
    progress: bool = True,
    **options: Any,
) -> Study:
    """Compare finders at several densities over several seeds, as `tombola compare` does, and return what was found.

    finders: as they are written, such as "cts:steps=500"; others are held against the first. densities: fractions of
    the weights, or texts such as "2%". seeds: how many, from `seed` on. out: the directory below which everything lies;
    what lies there is not done again. dynamics: measure also how tickets' training follows the dense network's.
    jobs: processes that work at a time. options: of runs, by their names on the command line with underscores:
    epochs=20, data_dir="images". Raises UsageError for what cannot be run, TombolaError
    where every cell failed.

    The study has rows, and cells, metrics, layers, summary() and others as pandas DataFrames.
    """
    asked = _finders(finders)
    engine, layers = Local(jobs), [load_preset(preset, recipe), options]
    cells = plan(layers, asked, _densities(densities), seeds)
    return _found(StudyPlan("comparison", tuple(cells), dynamics), Path(out), engine, progress)


def _finders(given: Any) -> list[str]:
    listed = not isinstance(given, str | Mapping) and isinstance(given, Iterable)
    found = list(given) if listed else []
    if not listed or not all(isinstance(finder, str) for finder in found):
        what = "must be a list of finders as they are written, such as 'cts:steps=500'"
        raise UsageError(f"{what}, got {found if listed else given!r}", option="finders")
    return found


def _densities(given: Any) -> list[Density]:
    listed = not isinstance(given, str | Mapping) and isinstance(given, Iterable)
    found = [parse_density(density) for density in given] if listed else []
    if not found:
        raise UsageError(f"must be a list of densities such as [0.1, '2%'], got {given!r}", option="densities")
    return found


@without_autocast()
def study(
    file: str | Path,
    *,
    out: str | Path | None = None,
    engine: Engine | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> Study:
    """Run the study of a YAML file, or one that comes with the package by its name, and return what was found so far.

    As `tombola study` does. out: the directory of the results, studies/NAME unless given. engine: one of
    `tombola.studies.engines`, this process unless given. Raises UsageError for what cannot be run, and where every cell
    failed.
    """
    plan = read_study(str(file))
    place = Path(out) if out else Path("studies") / plan.name
    return _found(plan, place, engine or Local(), progress, retry_failed)


def _found(plan: StudyPlan, out: Path, engine: Engine, progress: bool, retry_failed: bool = True) -> Study:
    shown = progress_on(sys.stderr) if progress else Silent()
    carry_out(plan, out, shown, engine, retry_failed=retry_failed)
    return read(out)
