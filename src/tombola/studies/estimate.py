"""What a study will take, from a few measured steps of one of its cells."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

from tombola.finders import Finder, needs_of
from tombola.networks.forecast import seconds_of_steps
from tombola.networks.runtime import on_threads
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig
from tombola.studies.graph import CELL, DENSE, DYNAMICS, ROUND, TEACHER, TICKET, Graph, Task
from tombola.studies.ledger import DONE, Ledger, survey


@dataclass(frozen=True)
class Estimate:
    """What the tasks that are not done will take.

    seconds: of each, by name. longest: of a chain of tasks, each of which needs the one before. on_gpu: whether they
    run on one. disk: bytes that runs and store take in the end.
    """

    seconds: dict[str, float]
    longest: float
    on_gpu: bool
    disk: int

    @property
    def work(self) -> float:
        """Seconds of one worker."""
        return sum(self.seconds.values())

    def wall(self, workers: int) -> float:
        """Return the seconds that several workers take."""
        return max(self.work / workers, self.longest)


def estimate(graph: Graph) -> Estimate:
    """Return what is left of a study, measured on one cell for each way of training; nothing is written.

    Passes through the network alone are counted, which tiny ones need several times over for all the rest.
    """
    states = survey(graph, Ledger(graph.out))
    measured: dict[tuple[object, ...], _Measured] = {}
    seconds: dict[str, float] = {}
    ends: dict[str, float] = {}
    disk, on_gpu = 0, False
    for name, task in graph.tasks.items():
        before = max((ends[other] for other in task.needs), default=0.0)
        if states[name] == DONE:
            ends[name] = 0.0
            continue
        way = _way(task.config)
        if way not in measured:
            measured[way] = _Measured(task.config)
        found = measured[way]
        seconds[name] = found.seconds(task)
        ends[name] = before + seconds[name]
        disk += found.bytes(task)
        on_gpu |= found.cell.runtime.device.type == "cuda"
    return Estimate(seconds, max(ends.values(), default=0.0), on_gpu, disk)


def _way(config: RunConfig) -> tuple[object, ...]:
    """Return on what the time of a step depends."""
    return config.model, config.data, config.batch_size, needs_of(config.finder).samples, config.precision


class _Measured:
    """One cell, of which a few steps are measured when somebody asks."""

    def __init__(self, config: RunConfig) -> None:
        self._config = resolve(config)
        with on_threads(self._config.threads):
            since = time.perf_counter()
            # A density that keeps no weight must not stand in the way.
            self.cell = Cell.prepare(replace(self._config, density=0.5))
            self._preparation = time.perf_counter() - since

    @cached_property
    def _step(self) -> float:
        return self._seconds_of(self._config.batch_size)

    @cached_property
    def _search_step(self) -> float:
        return self._seconds_of(needs_of(self._config.finder).samples)

    def _seconds_of(self, samples: int) -> float:
        cell = self.cell
        feed = cell.splits.train.feed(samples, 0, "forecast")
        with on_threads(self._config.threads):
            return median(seconds_of_steps(cell.model, cell.task, feed, cell.runtime))

    def _epochs(self, number: int) -> float:
        """Return the seconds of some epochs of training."""
        length = self.cell.splits.train.feed(self._config.batch_size, 0, "forecast").length or 0
        return number * length * self._step

    def seconds(self, task: Task) -> float:
        """Return about how long a task takes, each of which prepares its cell anew."""
        return self._preparation + self._work(task)

    def _work(self, task: Task) -> float:
        config, needs = task.config, needs_of(task.config.finder)
        end, start = config.training.epochs, config.rewind_to if config.draw_at != "init" else 0
        if task.kind == DENSE:
            return self._epochs(task.number - task.start)
        if task.kind == TEACHER:
            return self._epochs(1) / 3  # forward alone
        if task.kind == ROUND:
            return self._epochs(end - start)
        if task.kind == DYNAMICS:
            return 2 * self._epochs(end - start)
        if task.kind == CELL:
            return 0.0
        shared = isinstance(config.finder, Finder) and config.finder.stages(0.5**30) > 0
        search = 0.0 if shared else self._epochs(end) if needs.trains else needs.batches * self._search_step
        return search + (0.0 if task.fitted else self._epochs(end - start))

    def bytes(self, task: Task) -> int:
        """Return about what a task leaves on the disk: float32 weights, scores as large, zeros compressed."""
        whole = sum(parameter.numel() for parameter in self.cell.model.parameters()) * 4
        prunable = self.cell.survey.layout.total * 4
        kept = task.config.density if isinstance(task.config.density, float) else 1.0
        sparse = int(whole - prunable + prunable * kept)
        sizes = {
            DENSE: whole,
            ROUND: sparse,
            TEACHER: 4 * len(self.cell.splits.train) * self.cell.splits.classes,
            TICKET: (0 if task.fitted else sparse) + prunable + prunable // 4,
            CELL: whole + prunable,
        }
        return sizes.get(task.kind, 0)
