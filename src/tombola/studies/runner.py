"""Runs the cells of a study; the only place that loops over seeds."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tombola.core.plugins import told
from tombola.core.progress import Progress
from tombola.data import shared
from tombola.runs.config import RunConfig
from tombola.runs.pipeline import run
from tombola.runs.rundir import check_out
from tombola.storage.files import write_json
from tombola.studies.dynamics import follow
from tombola.studies.plan import StudyCell


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell: its result, or why there is none, with the traceback."""

    cell: StudyCell
    values: Mapping[str, Any] | None
    failure: str = ""
    traceback: str = ""


Measurement = Callable[[RunConfig, Path, Path, Progress], Mapping[str, Any]]


def measure_dynamics(config: RunConfig, directory: Path, out: Path, progress: Progress) -> Mapping[str, Any]:
    """Return how a run's ticket follows the dense network in training (`tombola.studies.dynamics`)."""
    return {"dynamics": [asdict(moment) for moment in follow(config, directory, out, progress)]}


def run_all(
    cells: Sequence[StudyCell],
    out: Path,
    progress: Progress,
    seen: Callable[[list[CellOutcome]], None] = lambda _: None,
    measurements: Sequence[Measurement] = (),
) -> list[CellOutcome]:
    """Run the cells one after another and return what became of each; what was run before is not run again.

    Cells share whatever they have in common through the store below `out`. A cell that fails is named in
    `out`/failures.json with its reason, and tried again next time. seen: is called after every cell with all outcomes
    so far. measurements: what else is measured of each run, beside its result.
    """
    check_out(out)
    with shared():
        outcomes = _run_each(cells, out, progress, seen, measurements)
    failed = failures(outcomes)
    if failed and out.is_dir():  # which it is not where no cell came as far as writing something
        write_json(out / "failures.json", failed)
    elif not failed:
        (out / "failures.json").unlink(missing_ok=True)
    return outcomes


def _run_each(
    cells: Sequence[StudyCell],
    out: Path,
    progress: Progress,
    seen: Callable[[list[CellOutcome]], None],
    measurements: Sequence[Measurement],
) -> list[CellOutcome]:
    outcomes: list[CellOutcome] = []
    for number, cell in enumerate(cells, start=1):
        config = cell.config
        progress.say(f"cell {number} of {len(cells)}: {cell.label}, density {cell.density:.4g}, seed {config.seed}")
        try:
            result = run(config, out, progress)
            more = [measure(config, result.directory, out, progress) for measure in measurements]
            outcomes.append(CellOutcome(cell, {**result.values, **{k: v for each in more for k, v in each.items()}}))
        except Exception as error:  # noqa: BLE001 - the user's model and data may raise anything, in this cell alone
            failure = told(error)
            progress.say(f"failed: {failure}")
            outcomes.append(CellOutcome(cell, None, failure, "".join(traceback.format_exception(error))))
        seen(list(outcomes))
    return outcomes


def failures(outcomes: Sequence[CellOutcome]) -> list[dict[str, Any]]:
    """Return the cells without a result, and why, as plain values."""
    return [
        {
            "finder": o.cell.label,
            "density": o.cell.density,
            "seed": o.cell.config.seed,
            "why": o.failure,
            "traceback": o.traceback,
        }
        for o in outcomes
        if o.failure
    ]
