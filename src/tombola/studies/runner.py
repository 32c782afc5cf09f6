"""Runs a study by an engine, and says what became of its cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.core.progress import Progress
from tombola.data import shared
from tombola.errors import UsageError, in_words
from tombola.runs.cell import Cell, resolve
from tombola.runs.rundir import check_out
from tombola.storage.files import write_json
from tombola.studies.engines import Engine, Local
from tombola.studies.graph import RESULTS, Graph
from tombola.studies.ledger import BLOCKED, FAILED, READY, Ledger, reason, survey
from tombola.studies.plan import StudyCell
from tombola.studies.study import Study


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell: its result, or why there is none."""

    cell: StudyCell
    values: dict[str, Any] | None
    failure: str = ""


def nothing(outcomes: list[CellOutcome]) -> None:
    """Look at no outcomes."""


def run_all(
    cells: Sequence[StudyCell],
    out: Path,
    progress: Progress,
    seen: Callable[[list[CellOutcome]], None] = nothing,
    dynamics: bool = False,
) -> list[CellOutcome]:
    """Run cells in this process, and try those again that failed before; the rest as in `run_study`."""
    return run_study(Study("cells", tuple(cells), dynamics), out, Local(), progress, seen, retry_failed=True)


def run_study(
    study: Study,
    out: Path,
    engine: Engine,
    progress: Progress,
    seen: Callable[[list[CellOutcome]], None] = nothing,
    retry_failed: bool = False,
) -> list[CellOutcome]:
    """Run the tasks of a study that are not done, and return what became of its cells, as far as that is known.

    What cells share, through the store below `out`, is done once. Where a task fails, cells that need it have no
    result; they are named in `out`/failures.json. seen: is called after every cell with all outcomes so far.
    retry_failed: whether what failed before is tried again. Raises UsageError, before anything is written, where no
    cell can be run.
    """
    check_out(out)
    study = study.on_threads(engine.threads(study.resources))
    with shared():
        graph, ledger = study.graph(out), Ledger(out)
        if READY in survey(graph, ledger).values():
            _check_some(study.cells)
        study.begin(out)
        if retry_failed:
            ledger.forget_failures(graph.tasks.values())
        for finished in engine.run(graph, progress):
            if finished.failure:
                progress.say(f"failed: {finished.task.words}: {finished.failure}")
            if finished.task.kind in RESULTS or finished.failure:
                seen(outcomes_of(graph, ledger))
    outcomes = outcomes_of(graph, ledger)
    failed = failures(outcomes)
    if failed:
        write_json(out / "failures.json", failed)
    else:
        (out / "failures.json").unlink(missing_ok=True)
    return outcomes


def _check_some(cells: Sequence[StudyCell]) -> None:
    """Raise UsageError where none of the cells can be run; one that cannot, beside others, fails by itself."""
    first: Exception | None = None
    for config in (cell.config for cell in cells if cell.config.seed == cells[0].config.seed):
        try:
            Cell.prepare(resolve(config))
            return
        except Exception as error:  # noqa: BLE001 - the user's model and data may raise anything
            first = first or error
    assert first is not None
    raise UsageError(f"every cell failed; the first said: {in_words(first)}", option="finders") from first


def outcomes_of(graph: Graph, ledger: Ledger) -> list[CellOutcome]:
    """Return what became of the cells of which that is known."""
    states = survey(graph, ledger)
    found: list[CellOutcome] = []
    for cell, names in graph.cells:
        done = [ledger.done(graph.tasks[name]) for name in names]
        whys = [reason(graph, ledger, name) for name in names if states[name] in (FAILED, BLOCKED)]
        if all(each is not None for each in done):
            found.append(CellOutcome(cell, {key: value for each in done for key, value in (each or {}).items()}))
        elif whys:
            found.append(CellOutcome(cell, None, whys[0].why if whys[0] else "failed"))
    return found


def failures(outcomes: Sequence[CellOutcome]) -> list[dict[str, Any]]:
    """Return the cells without a result, and why, as plain values."""
    return [
        {"finder": o.cell.label, "density": o.cell.density, "seed": o.cell.config.seed, "why": o.failure}
        for o in outcomes
        if o.failure
    ]
