"""Runs a study by an engine, and says what became of its cells."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tombola.core.progress import Progress
from tombola.data import shared
from tombola.errors import UsageError, in_words
from tombola.runs.cell import Cell, prepared_once, resolve, stamp
from tombola.runs.pipeline import finished
from tombola.storage.files import write_json
from tombola.storage.store import check_out
from tombola.studies import manifest
from tombola.studies.engines import Engine, Local
from tombola.studies.graph import RESULTS, Graph
from tombola.studies.ledger import BLOCKED, FAILED, READY, Ledger, reason, survey
from tombola.studies.manifest import CellEntry
from tombola.studies.outcome import CellOutcome, failures
from tombola.studies.planning import StudyCell
from tombola.studies.study import StudyPlan


def nothing(outcomes: list[CellOutcome]) -> None:
    """Look at no outcomes."""


def run_all(
    cells: Sequence[StudyCell],
    out: Path,
    progress: Progress,
    seen: Callable[[list[CellOutcome]], None] = nothing,
    dynamics: bool = False,
    command: Sequence[str] = (),
) -> list[CellOutcome]:
    """Run cells in this process, and try those again that failed before; the rest as in `run_study`."""
    plan = StudyPlan("cells", tuple(cells), dynamics)
    return run_study(plan, out, Local(), progress, seen, retry_failed=True, command=command)


def run_study(
    study: StudyPlan,
    out: Path,
    engine: Engine,
    progress: Progress,
    seen: Callable[[list[CellOutcome]], None] = nothing,
    retry_failed: bool = False,
    command: Sequence[str] = (),
) -> list[CellOutcome]:
    """Run the tasks of a study that are not done, and return what became of its cells, as far as that is known.

    What cells share, through the store below `out`, is done once. Where a task fails, cells that need it have no
    result; they are named in `out`/failures.json. `out`/study.json says where each cell lies: where all are finished,
    they are shown again without their data. seen: is called after every cell with all outcomes so far. retry_failed:
    whether what failed before is tried again. command: what study.json says made it. Raises UsageError, before anything
    is written, where no cell can be run.
    """
    check_out(out)
    study = study.on_threads(engine.threads(study.resources))
    before = _before(study, out)
    if before:
        outcomes = [outcome for _, outcome in before]
        seen(outcomes)
        manifest.write(out, [entry for entry, _ in before], command, study.recall(out))
    else:

        def note(graph: Graph, known: list[CellOutcome]) -> None:
            manifest.write(out, _entries(graph, known), command, graph.study)

        outcomes = _carry_out(study, out, engine, progress, seen, retry_failed, note)
    failed = failures(outcomes)
    if failed:
        write_json(out / "failures.json", failed)
    else:
        (out / "failures.json").unlink(missing_ok=True)
    return outcomes


def _carry_out(
    study: StudyPlan,
    out: Path,
    engine: Engine,
    progress: Progress,
    seen: Callable[[list[CellOutcome]], None],
    retry_failed: bool,
    note: Callable[[Graph, list[CellOutcome]], None],
) -> list[CellOutcome]:
    """Run the tasks that are not done.

    note: writes down what is known of the cells, also before there is anything, for those who read it meanwhile.
    """
    with shared(), prepared_once():
        graph, ledger = study.graph(out), Ledger(out)
        ledger.forget_damaged(graph.tasks.values())
        if READY in survey(graph, ledger).values():
            _check_some(study.cells)
        graph = study.begin(out)
        if retry_failed:
            ledger.forget_failures(graph.tasks.values())
        note(graph, outcomes_of(graph, ledger))
        for done in engine.run(graph, progress):
            if done.failure:
                progress.say(f"failed: {done.task.words}: {done.failure}")
            if done.task.kind in RESULTS or done.failure:
                seen(outcomes_of(graph, ledger))
    outcomes = outcomes_of(graph, ledger)
    note(graph, outcomes)
    return outcomes


def _before(study: StudyPlan, out: Path) -> list[tuple[CellEntry, CellOutcome]]:
    """Return all cells as earlier studies left them, known by their stamps; nothing where something is missing.

    A manifest that cannot be read is made anew.
    """
    known: dict[str, CellEntry] = {}
    for name in [*manifest.names(out), ""]:
        with suppress(UsageError):
            found = manifest.read(out, name)
            stamped = found.stamped() if found else {}
            known |= {key: entry for key, entry in stamped.items() if key not in known or entry.measured}
    cells: list[tuple[CellEntry, CellOutcome]] = []
    for cell in study.cells if known else ():
        entry = known.get(_stamp(cell) or "")
        result = None if entry is None or (study.dynamics and not entry.measured) else finished(out / entry.run)
        if entry is None or result is None:
            return []
        entry = replace(entry, label=cell.label, density=cell.density, seed=cell.seed)
        cells.append((entry, CellOutcome(cell, {**result.values, **entry.measured})))
    return cells


def _entries(graph: Graph, outcomes: Sequence[CellOutcome]) -> list[CellEntry]:
    """Return where each cell lies, as far as that is known."""
    found = {(each.cell.label, each.cell.density, each.cell.seed): each for each in outcomes}
    entries = []
    for cell, names in graph.cells:
        before = tuple(name for name in graph.with_needs(names) if name not in names)
        entry = CellEntry(cell.label, cell.density, cell.seed, stamp=_stamp(cell), tasks=names, needs=before)
        outcome = found.get((cell.label, cell.density, cell.seed))
        values = outcome.values if outcome and outcome.values else {}
        measured = {key: values[key] for key in manifest.MEASURED if key in values}
        failure = outcome.failure if outcome else ""
        entries.append(replace(entry, run=values.get("directory", ""), measured=measured, failure=failure))
    return entries


def _stamp(cell: StudyCell) -> str | None:
    try:
        return stamp(cell.config)
    except UsageError:  # of a cell that cannot be run
        return None


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
            why = whys[0]
            found.append(CellOutcome(cell, None, why.why, why.traceback) if why else CellOutcome(cell, None, "failed"))
    return found
