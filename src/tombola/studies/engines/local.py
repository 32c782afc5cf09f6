"""Processes of this machine."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from tombola.core.progress import Progress
from tombola.errors import TombolaError
from tombola.runs.config.run import default_threads
from tombola.studies.engines.base import check_jobs, watch
from tombola.studies.graph import Graph
from tombola.studies.study import Resources
from tombola.studies.worker import Finished, work, work_below

# So often in a row, with nothing done in between, a pool is made anew of which a worker was killed.
PATIENCE = 3


# Workers that have done everything end within so many seconds.
END_SECONDS = 20.0
# In the environment, the GPUs that CUDA lets a process see.
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Local:
    """So many processes of this machine; one alone is this process itself.

    Several have a GPU each, taken in turns, unless a device such as cuda:1 was asked for. Raises UsageError for fewer
    than one.
    """

    jobs: int = 1

    def __post_init__(self) -> None:
        check_jobs(self.jobs)

    @property
    def workers(self) -> int:
        """How many work at a time."""
        return self.jobs

    def threads(self, resources: Resources) -> int:
        """Return a process's share of the threads."""
        return max(1, default_threads() // self.jobs)

    def run(self, tasks: Graph, board: Progress) -> Iterator[Finished]:
        """Yield tasks as they come to their ends; raises what a worker raises itself, such as for a full disk."""
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
        named = any(":" in task.config.device for task in tasks.tasks.values())
        study = str(tasks.out), tasks.study, list(sys.path), os.getpid()
        self._futures = [
            self._executor.submit(_work_on_one_gpu, None if named else number, *study) for number in range(jobs)
        ]

    def is_whole(self) -> bool:
        """Whether no worker was killed; raises what one of them raised."""
        errors = [future.exception() for future in self._futures if future.done()]
        for error in errors:
            if error is not None and not isinstance(error, BrokenProcessPool):
                raise error
        return all(error is None for error in errors)

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # Workers see within seconds that nothing is left to do; those that are killed leave semaphores behind, of which
        # Python complains. What they may still do otherwise can be gone on from.
        left = wait(self._futures, 0 if kind else END_SECONDS).not_done
        self._executor.shutdown(wait=True, kill_workers=bool(left))


def _work_on_one_gpu(number: int | None, out: str, study: str, paths: list[str], parent: int) -> int:
    """Work on a study as one of several processes; number: of this one, None where tasks name their GPU."""
    if number is not None:
        see_one_gpu(number)
    return work_below(out, study, paths, parent)


def see_one_gpu(number: int) -> None:
    """Let a process that has not used CUDA yet see one GPU of several, by its number among the processes."""
    there = os.environ.get(VISIBLE, "").split(",")
    if there == [""]:
        there = [str(each) for each in range(torch.cuda.device_count())]
    if len(there) > 1:
        os.environ[VISIBLE] = there[number % len(there)]
