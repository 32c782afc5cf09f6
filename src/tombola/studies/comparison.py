"""A comparison from start to end: cells run, rows made, tables written."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tombola.core.progress import Progress, Silent, progress_on
from tombola.core.selection import Density
from tombola.errors import UsageError
from tombola.runs.config import STANDARD, load_preset, parse_density
from tombola.studies.outcome import CellOutcome
from tombola.studies.plan import StudyCell, plan
from tombola.studies.reading import Study, read
from tombola.studies.runner import measure_dynamics, run_all
from tombola.studies.table import Row, summary, tabulate, write_tables


def carry_out(
    cells: Sequence[StudyCell],
    out: Path,
    progress: Progress,
    *,
    dynamics: bool = False,
    seen: Callable[[list[CellOutcome]], None] = lambda _: None,
    command: Sequence[str] = (),
) -> tuple[list[Row], dict[str, Any]]:
    """Run cells and write table.json and table.csv below `out`; return the rows, and them as plain values.

    seen, command: see `run_all`. Raises UsageError where every cell failed.
    """
    outcomes = run_all(cells, out, progress, seen, [measure_dynamics] if dynamics else [], command)
    rows = tabulate(outcomes)
    if not rows:
        raise UsageError(f"every cell failed; the first said: {outcomes[0].failure}", option="finders")
    found = summary(rows, outcomes)
    write_tables(rows, found, cells[0].label, out)
    return rows, found


def compare(
    finders: Sequence[str],
    *,
    densities: Sequence[Density | str],
    seeds: int = 3,
    preset: str = "digits",
    recipe: str = STANDARD,
    out: str | Path = "runs",
    dynamics: bool = False,
    progress: bool = True,
    **options: Any,
) -> Study:
    """Compare finders at several densities over several seeds, as `tombola compare` does, and return what was found.

    finders: as they are written, such as "cts:steps=500"; others are held against the first. densities: fractions of
    the weights, or texts such as "2%". seeds: how many, from `seed` on. out: the directory below which everything lies;
    what lies there is not done again. dynamics: measure also how tickets' training follows the dense network's.
    options: of runs, by their names on the command line with underscores: epochs=20, data_dir="images". Raises
    UsageError for what cannot be run, and where every cell failed.

    The study has rows, and cells, metrics, layers, summary() and others as pandas DataFrames.
    """
    if isinstance(finders, str):
        raise UsageError(f"must be a list of finders, got {finders!r}", option="finders")
    layers = [load_preset(preset, recipe), options]
    cells = plan(layers, finders, [parse_density(density) for density in densities], seeds)
    carry_out(cells, Path(out), progress_on(sys.stderr) if progress else Silent(), dynamics=dynamics)
    return read(out)
