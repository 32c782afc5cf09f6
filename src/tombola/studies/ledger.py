"""What is known of a study's tasks: done, failed, under way; files that any number of machines may write.

A run's record lies in `.study` beside the runs; that of what runs share lies in the store and goes with it.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.core.plugins import told
from tombola.core.progress import Bar, Progress
from tombola.errors import TombolaError, UsageError
from tombola.runs.rundir import FILES, STORE, is_whole, read_result
from tombola.storage.files import read_json_object, write_json
from tombola.storage.leases import Holder, Lease, holder_of
from tombola.storage.store import LOCKS
from tombola.studies.graph import RESULTS, Graph, Kind, Task
from tombola.studies.manifest import DONE_RECORDS, FAILED_RECORDS, STUDY

PLAN = "plan.json"
# Each study's own plan, by its name.
PLANS = "plans"
# In the store, of what runs share.
RECORDS = ".tasks"
# How a task stands.
DONE, FAILED, BLOCKED, READY, WAITING = "done", "failed", "blocked", "ready", "waiting"
# Seconds between two notes of how far a task is.
NOTE_SECONDS = 1.0


@dataclass(frozen=True)
class Failure:
    """Why a task has no result: in words, and where it was raised."""

    why: str
    traceback: str


@dataclass(frozen=True)
class Underway:
    """A task that somebody works on: who, and what that was last, `done` of `total` in so many seconds."""

    holder: Holder
    title: str = ""
    done: int = 0
    total: int = 0
    note: str = ""


class Ledger:
    """The records of a study's tasks below `out`. What is done stays so; the rest is looked at anew each time."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._done: dict[str, dict[str, Any]] = {}

    def plan_file(self, name: str = "") -> Path:
        """Where a study below `out` is written down, without a name the last."""
        return self.out / STUDY / PLANS / f"{name}.json" if name else self.out / STUDY / PLAN

    def plans(self) -> list[str]:
        """Return the names of the studies that are written down below `out`."""
        return sorted(_names(self.out / STUDY / PLANS))

    def naming(self) -> Lease:
        """Return what whoever gives a study below `out` its name holds."""
        return Lease(self.out / STORE / LOCKS / "studies")

    def lease(self, task: Task) -> Lease:
        """Return what whoever works on a task holds."""
        return Lease(self._lease_path(task))

    def _lease_path(self, task: Task) -> Path:
        return self.out / STORE / LOCKS / f"task-{task.name}"

    @property
    def records(self) -> tuple[Path, Path]:
        """Where it is written what is done: of runs, and of what they share."""
        return self.out / DONE_RECORDS, self.out / STORE / RECORDS

    @property
    def failures(self) -> Path:
        """Where it is written what failed."""
        return self.out / FAILED_RECORDS

    def _record(self, task: Task) -> Path:
        return self.records[task.kind not in RESULTS] / f"{task.name}.json"

    def _failure(self, task: Task) -> Path:
        return self.failures / f"{task.name}.json"

    def _note(self, task: Task) -> Path:
        return self.out / STUDY / "under-way" / f"{task.name}.json"

    def done(self, task: Task) -> Mapping[str, Any] | None:
        """Return what is remembered of a task that is done, of a cell its result; None where it is not."""
        if task.name not in self._done:
            found = self._look(task)
            if found is None:
                return None
            self._done[task.name] = found
        return self._done[task.name]

    def _look(self, task: Task) -> dict[str, Any] | None:
        try:
            found = read_json_object(self._record(task))
            return found | read_result(self.out / found["directory"]) if task.kind is Kind.CELL else found
        except (FileNotFoundError, TombolaError, KeyError):
            return None  # never done, or since deleted or damaged: to be done again

    def finish(self, task: Task, found: Mapping[str, Any], seconds: float) -> None:
        """Write down that a task is done, what is to be remembered of it, and how long it took."""
        _write(self._record(task), {**found, "seconds_of_task": seconds})
        self._note(task).unlink(missing_ok=True)

    def fail(self, task: Task, error: BaseException) -> None:
        """Keep an error and its traceback."""
        whole = "".join(traceback.format_exception(error))
        _write(self._failure(task), {"why": told(error), "traceback": whole})
        self._note(task).unlink(missing_ok=True)

    def failure(self, task: Task) -> Failure | None:
        """Return why a task failed, or None where it did not."""
        try:
            found = read_json_object(self._failure(task))
            return Failure(str(found["why"]), str(found["traceback"]))
        except (FileNotFoundError, TombolaError, KeyError):
            return None

    def forget_failures(self, tasks: Iterable[Task]) -> None:
        """Let tasks that failed be tried again."""
        for task in tasks:
            self._failure(task).unlink(missing_ok=True)

    def forget_damaged(self, tasks: Iterable[Task]) -> None:
        """Let cells be done again whose files are missing or are not as they were written."""
        for task in tasks:
            found = self.done(task) if task.kind is Kind.CELL else None
            if found is not None and not is_whole(self.out / found["directory"], FILES):
                self._record(task).unlink(missing_ok=True)
                del self._done[task.name]

    def underway(self, task: Task) -> Underway | None:
        """Return who works on a task and how far that is, or None where nobody does."""
        holder = holder_of(self._lease_path(task))
        if holder is None:
            return None
        try:
            return Underway(holder, **read_json_object(self._note(task)))
        except (FileNotFoundError, TombolaError, TypeError):
            return Underway(holder)

    def noting(self, task: Task, beside: Progress) -> "Noting":
        """Return a display that notes how far a task is for other processes to see; beside: shows it here."""
        return Noting(self._note(task), beside)


class Noting:
    """Progress that is written to a file now and then, beside another display."""

    def __init__(self, path: Path, beside: Progress) -> None:
        self._path, self._beside = path, beside

    def say(self, text: str) -> None:
        """Show one line."""
        self._beside.say(text)

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Note how far the work is until it ends."""
        with self._beside.track(title, total, done) as tracker:
            yield _NotingBar(self._path, title, total, tracker)


class _NotingBar:
    def __init__(self, path: Path, title: str, total: int, beside: Bar) -> None:
        self._path, self._title, self._total, self._beside = path, title, total, beside
        self._noted = -NOTE_SECONDS

    def update(self, done: int, note: str = "") -> None:
        self._beside.update(done, note)
        now = time.monotonic()
        if now - self._noted < NOTE_SECONDS:
            return
        self._noted = now
        with suppress(OSError):  # a full disk must end the work where that writes, and not here
            _write(self._path, {"title": self._title, "done": done, "total": self._total, "note": note})


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)


def begin(ledger: Ledger, named: Callable[[], Mapping[str, Any]]) -> str:
    """Write down what a study is, and return its name; raises UsageError where nothing can be written.

    named: gives the study under a name that it may have, which nobody else takes until it is written.
    """
    try:
        with ledger.naming():
            plan = named()
            _write(ledger.plan_file(plan["name"]), plan)
            _write(ledger.plan_file(), plan)
    except OSError as error:
        raise UsageError(f"out {ledger.out} cannot be written to: {error.strerror}", option="out") from error
    return str(plan["name"])


def survey(graph: Graph, ledger: Ledger) -> dict[str, str]:
    """Return how each task stands, by name.

    done, or not needed by any cell that is not; failed; blocked, where it needs one that has failed; waiting, where it
    needs one that is not done; or ready, whether or not somebody works on it already.
    """
    recorded = {name for directory in ledger.records for name in _names(directory)}
    failed = _names(ledger.failures)
    done = {name for name, task in graph.tasks.items() if name in recorded and ledger.done(task) is not None}
    needed = set(graph.with_needs((name for _, names in graph.cells for name in names), done))
    found: dict[str, str] = {}
    for name, task in graph.tasks.items():  # each comes after those that it needs
        before = {found[other] for other in task.needs}
        if name not in needed:
            found[name] = DONE
        elif name in failed:
            found[name] = FAILED
        elif before & {FAILED, BLOCKED}:
            found[name] = BLOCKED
        else:
            found[name] = READY if before <= {DONE} else WAITING
    return found


def _names(directory: Path) -> set[str]:
    """Return the names of the records in a directory, by one look: file systems of many machines are slow to ask."""
    try:
        return {name.removesuffix(".json") for name in os.listdir(directory) if not name.startswith(".")}
    except FileNotFoundError:
        return set()


def reason(graph: Graph, ledger: Ledger, name: str) -> Failure | None:
    """Return the failure of a task, or of the first that it needs, through which it has no result."""
    own = ledger.failure(graph.tasks[name])
    if own is not None:
        return own
    found = (reason(graph, ledger, other) for other in graph.tasks[name].needs)
    return next((failure for failure in found if failure is not None), None)
