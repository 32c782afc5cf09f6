"""What every engine has, and how the work of others is watched."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from numbers import Integral
from typing import Any, Protocol

from tombola.core.progress import Bar, Progress
from tombola.errors import UsageError
from tombola.studies.graph import Graph
from tombola.studies.ledger import DONE, FAILED, READY, WAITING, Ledger, reason, survey
from tombola.studies.study import Resources
from tombola.studies.worker import Finished

POLL_SECONDS = 0.5


def check_jobs(jobs: Any) -> None:
    """Raise UsageError for a number of workers that there cannot be."""
    if not isinstance(jobs, Integral) or jobs < 1:
        raise UsageError(f"must be a whole number of at least 1, got {jobs!r}", option="jobs")


class Engine(Protocol):
    """Runs the tasks of a study that has been begun, whose results lie in the store."""

    @property
    def workers(self) -> int | None:
        """How many work at a time, None where that shows only when it runs."""

    def threads(self, resources: Resources) -> int:
        """Return the threads of a task that does not say."""

    def run(self, tasks: Graph, board: Progress) -> Iterator[Finished]:
        """Yield tasks as they come to their ends, whoever did them; those that were done before are not yielded."""


def watch(graph: Graph, board: Progress, alive: Callable[[], bool]) -> Iterator[Finished]:
    """Yield tasks as workers elsewhere bring them to an end, showing how far they are, until all have ended.

    alive: whether there are any workers; without them the watch ends early.
    """
    ledger = Ledger(graph.out)
    over = {name for name, state in survey(graph, ledger).items() if state in (DONE, FAILED)}
    with _Shown(board) as shown:
        while True:
            living = alive()  # before the survey, which then sees what the last of them did
            states = survey(graph, ledger)
            for name, state in states.items():
                if name not in over and state in (DONE, FAILED):
                    over.add(name)
                    shown.remove(name)
                    failure = reason(graph, ledger, name) if state == FAILED else None
                    board.say(f"{state}: {graph.tasks[name].words}")
                    yield Finished(graph.tasks[name], failure.why if failure else "")
            if not living or not {READY, WAITING} & set(states.values()):
                return
            shown.update(graph, ledger, [name for name, state in states.items() if state == READY])
            time.sleep(POLL_SECONDS)


class _Shown:
    """One bar for each task under way."""

    def __init__(self, board: Progress) -> None:
        self._board = board
        self._bars: dict[str, tuple[ExitStack, str, Bar]] = {}

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._bars):
            self.remove(name)

    def update(self, graph: Graph, ledger: Ledger, names: list[str]) -> None:
        """Show how far those tasks are on which somebody works."""
        for name in names:
            now = ledger.underway(graph.tasks[name])
            if now is None or not now.total:
                self.remove(name)
                continue
            if name in self._bars and self._bars[name][1] != now.title:
                self.remove(name)
            if name not in self._bars:
                stack = ExitStack()
                tracker = stack.enter_context(self._board.track(graph.tasks[name].words, now.total, now.done))
                self._bars[name] = stack, now.title, tracker
            self._bars[name][2].update(now.done, f"{now.title} {now.note}".strip())

    def remove(self, name: str) -> None:
        """Take a bar away."""
        if name in self._bars:
            self._bars.pop(name)[0].close()
