"""What every engine runs, any number of times, on any machines: a loop that takes tasks until there are none."""

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tombola.core.progress import Progress, Silent
from tombola.data import shared
from tombola.process import end_with, tune
from tombola.runs.cell import prepared_once
from tombola.storage import stopping
from tombola.storage.leases import Lease, LeaseLost, LeaseTaken
from tombola.studies.graph import Graph, Task
from tombola.studies.ledger import READY, WAITING, Ledger, survey
from tombola.studies.study import study_below

_FASTEST_POLL, _SLOWEST_POLL = 0.2, 5.0


@dataclass(frozen=True)
class Finished:
    """A task that came to its end: done, or failed with a reason."""

    task: Task
    failure: str = ""


def work(graph: Graph, progress: Progress) -> Iterator[Finished]:
    """Do tasks one after another, yielding each, until all are done, have failed, or can have no result.

    Where only tasks are left that others work on, or wait for those, this waits too: their workers may die.
    """
    ledger, poll = Ledger(graph.out), _FASTEST_POLL
    while True:
        if stopping.requested():
            raise stopping.Stopped
        states = survey(graph, ledger)
        for name in (name for name, state in states.items() if state == READY):
            finished = _attempt(graph.tasks[name], ledger, progress)
            if finished is not None:
                yield finished
                poll = _FASTEST_POLL
                break  # what was finished may have made an earlier one ready
        else:
            if not {READY, WAITING} & set(states.values()):
                return
            time.sleep(poll)
            poll = min(poll * 1.5, _SLOWEST_POLL)


def _attempt(task: Task, ledger: Ledger, progress: Progress) -> Finished | None:
    """Do a task unless somebody else is about it; return how it ended."""
    lease = ledger.lease(task)
    try:
        lease.acquire(wait=False)
    except LeaseTaken:
        return None
    try:
        if ledger.done(task) is not None or ledger.failure(task) is not None:
            return None  # by somebody who was faster
        return _do(task, ledger, lease, progress)
    except LeaseLost:
        return None  # whoever took it over goes on
    finally:
        lease.release()


def _do(task: Task, ledger: Ledger, lease: Lease, progress: Progress) -> Finished:
    since = time.monotonic()
    progress.say(f"task: {task.words}")
    try:
        found = task.call(ledger.out, ledger.noting(task, progress))
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 - the user's model and data may raise anything, in this task alone
        lease.check()  # what another has taken over is that one's to write down
        ledger.fail(task, error)
        return Finished(task, failure=_why(ledger, task))
    lease.check()
    ledger.finish(task, found, time.monotonic() - since)
    return Finished(task)


def _why(ledger: Ledger, task: Task) -> str:
    failure = ledger.failure(task)
    return failure.why if failure else "failed"


def work_below(out: str, study: str, paths: list[str], parent: int | None = None) -> int:
    """Do the same for a study that is written down below `out`, in a process of its own; return how many were done.

    study: its name. paths: where the user's own modules lie. parent: the process with which this one is to end.
    """
    tune()
    sys.path += [path for path in paths if path not in sys.path]
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
        end_with(parent)
    with shared(), prepared_once():
        _, graph = study_below(Path(out), study)
        return sum(1 for _ in work(graph, Silent()))
