"""What a study will take, from a few measured steps of its cells."""

import time
from dataclasses import dataclass
from typing import Any

from tombola.finders import Finder, needs_of
from tombola.runs.cell import prepared_once
from tombola.runs.config import RunConfig
from tombola.studies.graph import Graph, Kind, Task
from tombola.studies.ledger import DONE, Ledger, survey
from tombola.studies.measured import TOO_LONG, Measured

# Files that a task of each kind writes through to the disk, each as long as the network's weights: a guess.
FILES = {Kind.DENSE: 3, Kind.TEACHER: 2, Kind.ROUND: 3, Kind.TICKET: 8, Kind.CELL: 5, Kind.DYNAMICS: 6}


@dataclass(frozen=True)
class Estimate:
    """What the tasks that are not done will take.

    seconds: of each, by name. longest: of a chain of tasks, each of which needs the one before. start: seconds that a
    worker takes to load packages and data. on_gpu: whether they run on one. disk: bytes that runs and store take in the
    end. guesses: what was not measured, a sentence each.
    """

    seconds: dict[str, float]
    longest: float
    start: float
    on_gpu: bool
    disk: int
    guesses: tuple[str, ...] = ()

    @property
    def work(self) -> float:
        """Seconds of one worker, without its start."""
        return sum(self.seconds.values())

    def wall(self, workers: int) -> float:
        """Return the seconds that several workers take."""
        return self.start + max(self.work / workers, self.longest) if self.seconds else 0.0


def estimate(graph: Graph) -> Estimate:
    """Return what is left of a study, measured on one cell for each way of training and on each finder.

    Some steps of each are done in memory, from loading the batch to the optimiser; below `graph.out` nothing is
    written.
    """
    start = time.process_time()  # of this process, which has loaded what a worker loads
    states = survey(graph, Ledger(graph.out))
    measured: dict[tuple[object, ...], Measured] = {}
    seconds: dict[str, float] = {}
    ends: dict[str, float] = {}
    disk, on_gpu = 0, False
    with prepared_once():
        for name, task in graph.tasks.items():
            before = max((ends[other] for other in task.needs), default=0.0)
            if states[name] == DONE:
                ends[name] = 0.0
                continue
            way = _way(task.config)
            if way not in measured:
                measured[way] = Measured(task.config)
            found = measured[way]
            seconds[name] = found.preparation + _work(task, found) + FILES[task.kind] * found.writing
            ends[name] = before + seconds[name]
            disk += _bytes(task, found)
            on_gpu |= found.cell.runtime.device.type == "cuda"
    guesses = tuple(_guesses(graph, seconds, list(measured.values())))
    return Estimate(seconds, max(ends.values(), default=0.0), start, on_gpu, disk, guesses)


def _way(config: RunConfig) -> tuple[object, ...]:
    """Return on what the time of a training's step depends."""
    return config.model, config.data, config.batch_size, config.precision, config.training, config.draw_at


def _guesses(graph: Graph, seconds: dict[str, float], measured: list[Measured]) -> list[str]:
    kinds = {graph.tasks[name].kind for name in seconds}
    found = ["that later steps take as long as the first", "how many files a task writes"]
    if Kind.DYNAMICS in kinds:
        found.append("dynamics, taken for two trainings")
    if any(each.config.fit for each in measured):
        found.append("a training function of one's own, taken for the recipe")
    if any(each.step > TOO_LONG for each in measured):
        found.append("steps of finders, taken in proportion to their samples, since one of training takes so long")
    return found


def _epochs(number: int, step: float, found: Measured) -> float:
    """Return the seconds of some epochs of training with steps of a length, each with a look at held-out data."""
    held_out = len(found.cell.splits.held_out or ())
    return number * (found.batches * step + held_out * found.evaluation)


def _work(task: Task, found: Measured) -> float:
    """Return what a task takes beside preparing its cell and writing."""
    config = task.config
    end, start = config.training.epochs, config.rewind_to if config.draw_at != "init" else 0
    match task.kind:
        case Kind.DENSE:
            return _epochs(task.number - task.start, found.step, found)
        case Kind.TEACHER:
            finder: Any = config.finder
            return len(found.cell.splits.train) * found.search_step(finder)[1]
        case Kind.ROUND:
            own = getattr(config.finder, "epochs", None) or end
            return _epochs(own - start, found.ticket_step(_density(task)), found)
        case Kind.DYNAMICS:
            return 2 * _epochs(end - start, found.step, found)
        case Kind.CELL:
            return 2 * len(found.cell.splits.test) * found.evaluation
    trained = 0.0 if task.fitted else _epochs(end - start, found.ticket_step(_density(task)), found)
    return _search(config, found) + trained


def _search(config: RunConfig, found: Measured) -> float:
    """Return what drawing a ticket takes beside what it shares with others."""
    finder: Any = config.finder
    needs = needs_of(finder)
    if isinstance(finder, Finder) and finder.stages(0.5**30) > 0:
        return 0.0  # its rounds are tasks of their own
    if not needs.trains and not needs.batches:
        return 0.0
    step, _ = found.search_step(finder)
    if needs.trains:
        return _epochs(getattr(finder, "epochs", None) or config.training.epochs, step, found)
    return needs.batches * step


def _density(task: Task) -> float:
    return task.config.density if isinstance(task.config.density, float) else 1.0


def _bytes(task: Task, found: Measured) -> int:
    """Return about what a task leaves on the disk: float32 weights, scores as large, zeros compressed."""
    cell = found.cell
    whole = sum(parameter.numel() for parameter in cell.model.parameters()) * 4
    prunable = cell.survey.layout.total * 4
    sparse = int(whole - prunable + prunable * _density(task))
    sizes = {
        Kind.DENSE: whole,
        Kind.ROUND: sparse,
        Kind.TEACHER: 4 * len(cell.splits.train) * cell.splits.classes,
        Kind.TICKET: (0 if task.fitted else sparse) + prunable + prunable // 4,
        Kind.CELL: whole + prunable,
    }
    return sizes.get(task.kind, 0)
