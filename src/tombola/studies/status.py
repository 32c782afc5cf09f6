"""How a study stands: from the files that its workers write, wherever they are."""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tombola.studies.graph import Graph, Task
from tombola.studies.ledger import BLOCKED, DONE, FAILED, READY, WAITING, Failure, Ledger, Underway, survey
from tombola.studies.outcome import CellOutcome
from tombola.studies.runner import outcomes_of
from tombola.studies.study import study_below


@dataclass(frozen=True)
class Status:
    """A study below a directory.

    counts: tasks by how they stand; those that are ready and under way are "running". running, failed: by task's words.
    seconds_left: until the end with as many workers as now, None where nothing tells. outcomes: of cells so far.
    studies: names of all that lie there.
    """

    name: str
    counts: Mapping[str, int]
    running: Mapping[str, Underway]
    failed: Mapping[str, Failure]
    seconds_left: float | None
    outcomes: tuple[CellOutcome, ...]
    studies: tuple[str, ...]


def status_of(out: Path, name: str = "") -> Status:
    """Return how a study below a directory stands, without a name the one last begun.

    Raises UsageError where there is none.
    """
    study, graph = study_below(out, name)
    ledger = Ledger(out)
    states = survey(graph, ledger)
    tasks = graph.tasks
    busy = {name: ledger.underway(tasks[name]) for name, state in states.items() if state == READY}
    running = {tasks[name].words: found for name, found in busy.items() if found is not None}
    failures = {name: ledger.failure(tasks[name]) for name, state in states.items() if state == FAILED}
    counted = list(states.values())
    counts = {
        DONE: counted.count(DONE),
        "running": len(running),
        WAITING: counted.count(WAITING) + counted.count(READY) - len(running),
        FAILED: counted.count(FAILED),
        BLOCKED: counted.count(BLOCKED),
    }
    return Status(
        study.name,
        counts,
        running,
        {tasks[name].words: found for name, found in failures.items() if found is not None},
        _seconds_left(graph, ledger, states, [(name, found) for name, found in busy.items() if found is not None]),
        tuple(outcomes_of(graph, ledger)),
        tuple(ledger.plans()),
    )


def _seconds_left(
    graph: Graph, ledger: Ledger, states: Mapping[str, str], running: list[tuple[str, Underway]]
) -> float | None:
    """Return what the tasks left take those that work now, by what others of their kind and finder took."""
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, state in states.items():
        found = ledger.done(graph.tasks[name]) if state == DONE else None
        if found and "seconds_of_task" in found:
            for key in _kinds(graph.tasks[name]):
                taken[key].append(float(found["seconds_of_task"]))
    left = 0.0
    for name in (name for name, state in states.items() if state in (READY, WAITING)):
        known = next((taken[key] for key in _kinds(graph.tasks[name]) if key in taken), None)
        if known is None:
            return None
        left += fmean(known)
    begun = sum(min(now.done / now.total, 1.0) * _mean(taken, graph.tasks[name]) for name, now in running if now.total)
    return max(0.0, left - begun) / max(1, len(running))


def _kinds(task: Task) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return under what a task's time is known: its kind with its finder, else its kind alone."""
    return (task.kind, task.finder), (task.kind, "")


def _mean(taken: Mapping[tuple[str, str], list[float]], task: Task) -> float:
    return next((fmean(taken[key]) for key in _kinds(task) if taken.get(key)), 0.0)


def since_words(now: Underway) -> str:
    """Return since when somebody works on a task, in words."""
    return duration_words(max(0.0, time.time() - now.holder.since))


def duration_words(seconds: float) -> str:
    """Return a time in words, such as 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
