"""Runs the cells of a study; the only place that loops over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tombola.core.progress import Progress
from tombola.data import shared
from tombola.errors import UsageError, in_words
from tombola.runs.cell import stamp
from tombola.runs.config import RunConfig
from tombola.runs.pipeline import Result, finished, run
from tombola.runs.rundir import check_out
from tombola.storage.files import write_json
from tombola.studies import manifest
from tombola.studies.dynamics import follow
from tombola.studies.manifest import CellEntry
from tombola.studies.outcome import CellOutcome, failures
from tombola.studies.plan import StudyCell

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
    command: Sequence[str] = (),
) -> list[CellOutcome]:
    """Run the cells one after another and return what became of each; what was run before is not run again.

    Cells share whatever they have in common through the store below `out`. A cell that fails is named in
    `out`/failures.json with its reason, and tried again next time. `out`/study.json says where each cell lies: those
    that it knows are shown again without their data. seen: is called after every cell with all outcomes so far.
    measurements: what else is measured of each run, beside its result. command: what study.json says made it.
    """
    check_out(out)
    with shared():
        outcomes = _Bench(out, progress, measurements, command, _known(out)).run(cells, seen)
    failed = failures(outcomes)
    if failed and out.is_dir():  # which it is not where no cell came as far as writing something
        write_json(out / "failures.json", failed)
    elif not failed:
        (out / "failures.json").unlink(missing_ok=True)
    return outcomes


def _known(out: Path) -> dict[str, CellEntry]:
    """Return the finished cells of the comparison before, by stamp; a manifest that cannot be read is made anew."""
    try:
        found = manifest.read(out)
    except UsageError:
        found = None
    return found.stamped() if found else {}


class _Bench:
    """What runs cells: where they lie, what is measured, and what is known of them from before."""

    def __init__(
        self,
        out: Path,
        progress: Progress,
        measurements: Sequence[Measurement],
        command: Sequence[str],
        known: Mapping[str, CellEntry],
    ) -> None:
        self.out, self.progress, self.command = out, progress, command
        self.measurements, self.known = measurements, known

    def run(self, cells: Sequence[StudyCell], seen: Callable[[list[CellOutcome]], None]) -> list[CellOutcome]:
        """Run every cell, and keep the manifest up to date."""
        outcomes: list[CellOutcome] = []
        entries = [CellEntry(cell.label, cell.density, cell.seed) for cell in cells]
        fresh = True
        for number, cell in enumerate(cells):
            outcome, entries[number], remembered = self._one(cell, f"cell {number + 1} of {len(cells)}")
            outcomes.append(outcome)
            # Cells that were there already change nothing that would have to be kept at once.
            if (not remembered or fresh or number + 1 == len(cells)) and self.out.is_dir():
                manifest.write(self.out, entries, self.command)
                fresh = False
            seen(list(outcomes))
        return outcomes

    def _one(self, cell: StudyCell, place: str) -> tuple[CellOutcome, CellEntry, bool]:
        """Return what becomes of a cell, its entry in the manifest, and whether it was there already."""
        entry = CellEntry(cell.label, cell.density, cell.seed)
        try:
            entry = replace(entry, stamp=stamp(cell.config))
            before = self._before(entry)
            if before is not None:
                return CellOutcome(cell, {**before[0].values, **before[1].measured}), before[1], True
            self.progress.say(f"{place}: {cell.label}, density {cell.density:.4g}, seed {cell.seed}")
            result = run(cell.config, self.out, self.progress)
            more = [measure(cell.config, result.directory, self.out, self.progress) for measure in self.measurements]
            measured = {key: value for each in more for key, value in each.items()}
            entry = replace(entry, run=result.directory.name, measured=measured)
            return CellOutcome(cell, {**result.values, **measured}), entry, False
        except Exception as error:  # noqa: BLE001 - the user's model and data may raise anything, in this cell alone
            failure = in_words(error)
            self.progress.say(f"failed: {failure}")
            return CellOutcome(cell, None, failure), replace(entry, failure=failure), False

    def _before(self, entry: CellEntry) -> tuple[Result, CellEntry] | None:
        """Return a cell as an earlier comparison left it, None where something of it is missing."""
        known = self.known.get(entry.stamp or "")
        if known is None or (self.measurements and not known.measured):
            return None
        result = finished(self.out / known.run)
        return None if result is None else (result, replace(entry, run=known.run, measured=known.measured))
