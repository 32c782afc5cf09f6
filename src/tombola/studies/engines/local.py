"""Processes of this machine."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tombola.core.progress import Progress
from tombola.errors import TombolaError
from tombola.runs.config.run import default_threads
from tombola.studies.engines.base import watch
from tombola.studies.graph import Graph
from tombola.studies.study import Resources
from tombola.studies.worker import Finished, work, work_below

# So often in a row, with nothing done in between, a pool is made anew of which a worker was killed.
PATIENCE = 3


@dataclass(frozen=True)
class Local:
    """So many processes of this machine; one alone is this process itself."""

    jobs: int = 1

    @property
    def workers(self) -> int:
        """How many work at a time."""
        return self.jobs

    def threads(self, resources: Resources) -> int:
        """Return a process's share of the threads."""
        return max(1, default_threads() // self.jobs)

    def run(self, tasks: Graph, board: Progress) -> Iterator[Finished]:
        """Yield tasks as they come to their ends."""
        if self.jobs == 1:
            yield from work(tasks, board)
            return
        losses = 0
        while losses < PATIENCE:
            with _Pool(tasks, self.jobs) as pool:
                for finished in watch(tasks, board, pool.is_whole):
                    losses = 0
                    yield finished
                if pool.is_whole():
                    return
            losses += 1
            board.say("a worker was killed; its task goes on from its last checkpoint")
        raise TombolaError("workers are killed again and again; fewer --jobs take less memory")


class _Pool:
    """Workers that end with this process; where one is killed, loky ends the others, too."""

    def __init__(self, tasks: Graph, jobs: int) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(max_workers=jobs)
        self._futures = [
            self._executor.submit(work_below, str(tasks.out), tasks.study, list(sys.path), os.getpid())
            for _ in range(jobs)
        ]

    def is_whole(self) -> bool:
        """Whether no worker was killed."""
        return not any(future.done() and future.exception() is not None for future in self._futures)

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *error: object) -> None:
        # What they may still do is nothing, or can be gone on from.
        self._executor.shutdown(wait=True, kill_workers=True)
