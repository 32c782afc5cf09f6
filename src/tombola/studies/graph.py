"""A study as a graph: its cells, and what they share as tasks of their own, so that no worker does another's work."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from tombola.core.parts import identify, plain, written_name
from tombola.core.plugins import source
from tombola.core.progress import Progress
from tombola.data import Targets
from tombola.finders import Finder, Random, needs_of
from tombola.finders.origins import OF_THE_END
from tombola.runs import pipeline
from tombola.runs.cell import VERSIONS, gates_of, groups_of_any, holding_of_any, raised_versions, splits_of
from tombola.runs.config import RunConfig
from tombola.runs.rundir import run_name
from tombola.storage.files import digest_of
from tombola.storage.identity import digest
from tombola.studies.dynamics import follow
from tombola.studies.planning import StudyCell

# A task that several cells share must not fail because the density of one of them keeps no weight.
HARMLESS = 0.5
# Times a density: one that asks for the training of a ticket of that density itself.
JUST_BELOW = 1 - 1e-6
# Letters of the hash in a task's name.
KEY = 10


class Kind(StrEnum):
    """What a task does, and what it takes from its own configuration."""

    DENSE = "dense"
    TEACHER = "teacher"
    ROUND = "round"
    TICKET = "ticket"
    CELL = "cell"
    DYNAMICS = "dynamics"


# Tasks whose results are a run's; those of others lie in the store, and go with it.
RESULTS = (Kind.CELL, Kind.DYNAMICS)


@dataclass(frozen=True)
class Task:
    """A piece of a study that one worker does.

    name: readable, and the same wherever the same thing is asked for. words: what people are shown. needs: names of the
    tasks that come before. number: the epoch of a dense training, or the last of a finder's rounds. start: the epoch
    from which a dense training goes on. fitted: whether a ticket's training is that of a round, which comes before.
    """

    name: str
    kind: Kind
    words: str
    config: RunConfig
    needs: tuple[str, ...] = ()
    number: int = 0
    start: int = 0
    fitted: bool = False

    @property
    def finder(self) -> str:
        """The name of its finder."""
        return written_name(self.config.finder)

    def call(self, out: Path, progress: Progress) -> dict[str, Any]:
        """Do it below `out`, from where it was left; return what is to be remembered of it."""
        match self.kind:
            case Kind.DENSE:
                pipeline.pretrain(self.config, out, progress, self.number)
            case Kind.TEACHER:
                pipeline.teach(self.config, out, progress)
            case Kind.ROUND:
                pipeline.advance(self.config, out, progress, self.number)
            case Kind.TICKET:
                pipeline.fit(self.config, out, progress)
            case Kind.CELL:
                return {"directory": pipeline.run(self.config, out, progress).directory.name}
            case Kind.DYNAMICS:
                directory = pipeline.run(self.config, out, progress).directory
                return {"dynamics": [asdict(point) for point in follow(self.config, directory, out, progress)]}
        return {}


@dataclass(frozen=True)
class Graph:
    """The tasks of a study, each after those that it needs, by name; and where their results lie.

    cells: by the study's cells, in its order, the names of the tasks that give their results. study: its name.
    """

    out: Path
    tasks: Mapping[str, Task]
    cells: tuple[tuple[StudyCell, tuple[str, ...]], ...]
    study: str = ""

    def with_needs(self, names: Iterable[str], without: Container[str] = ()) -> list[str]:
        """Return some tasks, each before those that it needs, and those that these need; not followed are `without`."""
        found: dict[str, None] = {}
        ahead = [*names][::-1]
        while ahead:
            name = ahead.pop()
            if name not in found and name not in without:
                found[name] = None
                ahead += reversed(self.tasks[name].needs)
        return list(found)


# By a key of how data are read, or the path of a file of weights: a fingerprint of the content.
Basis = Mapping[str, str]


def basis_of(cells: Sequence[StudyCell]) -> Basis:
    """Return what tells the content of the cells' data and weights from other content under the same names."""
    found: dict[str, str] = {}
    for config in (cell.config for cell in cells):
        key = data_key(config)
        if key not in found:
            found[key] = digest(splits_of(config).fingerprint)
        if config.weights and config.weights not in found:
            path = Path(config.weights)
            found[config.weights] = digest_of(path) if path.is_file() else "missing"
    return found


def data_key(config: RunConfig) -> str:
    """Return what stands for a configuration's data in a basis."""
    read = (config.held_out, config.mean, config.std, config.image_size, config.train_samples)
    # Results of classification were named before there were other tasks.
    kind = [] if config.task.targets is Targets.CLASSES else [config.task.targets]
    return digest([plain(config.data), *read, *kind])


def graph_of(cells: Sequence[StudyCell], basis: Basis, out: Path, dynamics: bool = False, study: str = "") -> Graph:
    """Return the tasks of cells, what a seed's cells share before them; basis: as `basis_of` gives it.

    dynamics: whether it is to be measured how each ticket's training follows the dense network's. study: its name.
    """
    tasks: dict[str, Task] = {}
    results: list[tuple[StudyCell, tuple[str, ...]]] = []
    for seed in dict.fromkeys(cell.config.seed for cell in cells):
        own = [cell for cell in cells if cell.config.seed == seed]
        maker = _Maker([cell.config for cell in own], basis)
        shared = [task for cell in own for task in maker.shared(cell.config)]
        made = [list(maker.own(cell, dynamics)) for cell in own]
        tasks |= {task.name: task for part in (shared, *made) for task in part}
        names = (tuple(task.name for task in part if task.kind in RESULTS) for part in made)
        results += zip(own, names, strict=True)
    return Graph(out, tasks, tuple(results), study)


@dataclass(frozen=True)
class _Known:
    """Of a configuration: its key, that of its finder's way to any density, and its dense training with its key."""

    key: str
    way: str
    dense: RunConfig
    dense_key: str


class _Maker:
    """Makes the tasks of a seed's cells, given by their configurations."""

    def __init__(self, configs: Sequence[RunConfig], basis: Basis) -> None:
        self._basis = basis
        self._known: dict[RunConfig, _Known] = {}
        self._made: dict[str, Task] = {}
        # By the key of a dense training, the epochs that are asked for; of a way to a density, the smallest one.
        self._epochs: dict[str, set[int]] = {}
        self._smallest: dict[str, float] = {}
        for config in configs:
            known = self._of(config)
            epochs = self._epochs.setdefault(known.dense_key, set())
            epochs |= {config.drawn_at, config.training.epochs} - {0}
            self._smallest[known.way] = min(self._smallest.get(known.way, 1.0), _density(config))

    def _of(self, config: RunConfig) -> _Known:
        if config not in self._known:
            dense, way = _dense(config), replace(config, density=HARMLESS, train_from="rewind")
            self._known[config] = _Known(self._key(config), self._key(way), dense, self._key(dense))
        return self._known[config]

    def shared(self, config: RunConfig) -> Iterator[Task]:
        """Yield what a cell has in common with others, in the order in which it is done."""
        for epoch in sorted({config.drawn_at, config.training.epochs} - {0}):
            yield self._dense(config, epoch)
        if needs_of(config.finder).teacher:
            yield self._teacher(config)
        for number in range(1, self._rounds(config) + 1):
            yield self._round(config, number)

    def own(self, cell: StudyCell, dynamics: bool) -> Iterator[Task]:
        """Yield what belongs to a cell alone."""
        config = cell.config
        name, key = _name(config), self._of(config).key
        words = f"{cell.label} {cell.density:.4g} s{config.seed}"
        fitted = self._rounds_before(config) > _stages(config, _density(config))
        before = tuple(self._before(config))
        ticket = Task(f"ticket-{name}-{key}", Kind.TICKET, f"{words}, ticket", config, before, fitted=fitted)
        end = self._dense(config, config.training.epochs).name
        run = Task(f"cell-{name}-{key}", Kind.CELL, words, config, (ticket.name, end))
        yield from (ticket, run)
        if dynamics:
            yield Task(f"dynamics-{name}-{key}", Kind.DYNAMICS, f"{words}, dynamics", config, (run.name,))

    def _before(self, config: RunConfig) -> Iterator[str]:
        """Yield what comes before a cell's ticket."""
        yield from self._start(config)
        if needs_of(config.finder).teacher:
            yield self._teacher(config).name
        if self._rounds_before(config):
            yield self._round(config, self._rounds_before(config)).name

    def _rounds_before(self, config: RunConfig) -> int:
        """Return how many pieces of a way come before a cell; on the way of smaller ones its own training lies, too."""
        return min(self._rounds(config), _stages(config, _density(config) * JUST_BELOW))

    def _start(self, config: RunConfig) -> Iterator[str]:
        if config.drawn_at:
            yield self._dense(config, config.drawn_at).name
        if needs_of(config.finder).dense or config.train_from in OF_THE_END:
            yield self._dense(config, config.training.epochs).name

    def _dense(self, config: RunConfig, epoch: int) -> Task:
        known = self._of(config)
        name = f"dense-{epoch}-s{config.seed}-{known.dense_key}"
        if name not in self._made:
            before = max((each for each in self._epochs[known.dense_key] if each < epoch), default=0)
            needs = (self._dense(config, before).name,) if before else ()
            words = f"dense s{config.seed}, {epoch} epochs"
            self._made[name] = Task(name, Kind.DENSE, words, known.dense, needs, epoch, before)
        return self._made[name]

    def _teacher(self, config: RunConfig) -> Task:
        samples = needs_of(config.finder).samples
        where = [samples, config.draw_at, config.drawn_at, config.include, config.exclude]
        name = f"teacher-s{config.seed}-{digest([self._of(config).dense_key, *where])[:KEY]}"
        if name not in self._made:
            asked = replace(config, density=HARMLESS)
            words = f"teacher s{config.seed}, {config.drawn_at} epochs"
            self._made[name] = Task(name, Kind.TEACHER, words, asked, tuple(self._start(config)))
        return self._made[name]

    def _rounds(self, config: RunConfig) -> int:
        """Return how many pieces of the way to its density a finder shares with its other densities."""
        return _stages(config, self._smallest[self._of(config).way])

    def _round(self, config: RunConfig, number: int) -> Task:
        way = self._of(config).way
        name = f"round-{number}-s{config.seed}-{way}"
        if name not in self._made:
            asked = replace(config, density=self._smallest[way])
            needs = (self._round(config, number - 1).name,) if number > 1 else tuple(self._start(config))
            words = f"{written_name(config.finder)} s{config.seed}, round {number}"
            self._made[name] = Task(name, Kind.ROUND, words, asked, needs, number)
        return self._made[name]

    def _key(self, config: RunConfig) -> str:
        """Return a short hash of all that a configuration's results depend on, but for the machine."""
        unnamed = [config.device, config.precision, config.layout, config.search_precision]
        unnamed += [config.execution] if config.execution != "auto" else []  # so that older tasks keep their names
        content = [self._basis[data_key(config)], self._basis.get(config.weights or "")]
        code = source(config.fit) if config.fit else ""
        beside = holding_of_any(config) | groups_of_any(config) | gates_of(config) | raised_versions()
        return digest([identify(config), unnamed, content, code, VERSIONS, *([beside] if beside else [])])[:KEY]


def _dense(config: RunConfig) -> RunConfig:
    """Return what a dense training depends on."""
    return replace(
        config,
        finder=Random(),
        density=HARMLESS,
        draw_at="init",
        rewind_to=0,
        include=(),
        exclude=(),
        train_from="rewind",
    )


def _density(config: RunConfig) -> float:
    assert isinstance(config.density, float)
    return config.density


def _stages(config: RunConfig, density: float) -> int:
    return config.finder.stages(density) if isinstance(config.finder, Finder) else 0


def _name(config: RunConfig) -> str:
    return run_name(written_name(config.finder), config.density, config.seed)
