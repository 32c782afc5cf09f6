"""One cell, start to end: pretrain -> draw -> train -> evaluate."""

import copy
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from tombola.config import RunConfig
from tombola.controllers import CONTROLLERS
from tombola.data import AUGMENTATIONS, ArrayFeed, Splits, load
from tombola.errors import UsageError
from tombola.evaluation import Evaluation, evaluate
from tombola.finders import FINDERS, Finder, describe
from tombola.flat import Layout
from tombola.identity import COMPONENT_VERSIONS, digest
from tombola.masking import survey
from tombola.models import MODELS, build
from tombola.network import load_weights
from tombola.problem import Problem, Trainer
from tombola.progress import Progress
from tombola.ranking import count_kept
from tombola.runtime import Runtime, resolve_device
from tombola.seeds import seeded
from tombola.store import CHECKPOINT_SECONDS, DiskStore, claim, write_bytes, write_json
from tombola.task import Task
from tombola.ticket import Ticket
from tombola.training import Lesson, Recipe, State
from tombola.version import __version__

EVALUATION_BATCH = 1000
# Options that say where things lie, or in which words; results do not depend on them.
_OUTSIDE_IDENTITY = ("data_dir",)


@dataclass(frozen=True)
class Result:
    """What a run found. directory: where it lies. values: the content of its result.json. repeated: it was there."""

    directory: Path
    values: Mapping[str, Any]
    repeated: bool


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with every default written out.

    Raises UsageError for values that make no sense, and for options that the chosen finder does not have.
    """
    config.check()
    for name, option, known in (
        (config.finder, "finder", FINDERS),
        (config.model, "model", MODELS),
        (config.augmentation, "augmentation", AUGMENTATIONS),
        (config.controller or next(iter(CONTROLLERS)), "controller", CONTROLLERS),
    ):
        if name not in known:
            raise UsageError(f"--{option} {name!r} is unknown; allowed are {', '.join(known)}")
    kind = FINDERS[config.finder]
    owned = {f.name: f.default for f in fields(kind)}
    filled: dict[str, Any] = {}
    for name in ("objective", "steps", "controller"):
        value = getattr(config, name)
        if value is not None and name not in owned:
            raise UsageError(f"--{name} is not an option of the finder {config.finder}")
        if value is None and name in owned:
            default = owned[name]
            filled[name] = default.name if name == "controller" else default
    if "objective" in filled and config.draw_at == "init":
        filled["objective"] = "loss"
    if config.device == "auto":
        filled["device"] = resolve_device("auto").type
    resolved = replace(config, **filled).with_threads()
    make_finder(resolved)
    return resolved


def make_finder(config: RunConfig) -> Finder:
    """Return the finder of a resolved configuration."""
    kind = FINDERS[config.finder]
    owned = {f.name for f in fields(kind)}
    values: dict[str, Any] = {name: getattr(config, name) for name in ("objective", "steps") if name in owned}
    if "controller" in owned:
        values["controller"] = CONTROLLERS[config.controller or ""]()
    return kind(**values)


@dataclass(frozen=True)
class Cell:
    """A resolved configuration with its data, its model at θ₀ and its runtime."""

    config: RunConfig
    splits: Splits
    model: nn.Module
    layout: Layout
    runtime: Runtime
    task: Task

    @classmethod
    def prepare(cls, config: RunConfig) -> "Cell":
        """Load the data and build the model of a resolved configuration; raises UsageError if they do not fit."""
        splits = load(config.data, Path(config.data_dir) if config.data_dir else None, config.held_out)
        with seeded(config.seed, "model"):
            model = build(config.model, splits.shape, splits.classes)
        runtime = Runtime.choose(model, config.device, config.precision, config.layout)
        layout = survey(model).layout
        count_kept(config.density, layout.total)
        settled = replace(config, precision=runtime.precision, layout=runtime.layout)
        return cls(settled, splits, model, layout, runtime, Task())

    def identity(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        settings = {k: v for k, v in self.config.to_dict().items() if k not in _OUTSIDE_IDENTITY}
        return {
            "config": settings,
            "data": self.splits.fingerprint,
            "weights": State.of(self.model).digest,
            "runtime": self.runtime.to_dict(),
            "versions": COMPONENT_VERSIONS,
        }

    def trainer(self, store: DiskStore, progress: Progress) -> Trainer:
        """Return what trains this cell's network; cells that agree on it share its results."""
        config = self.config
        recipe = Recipe(config.epochs, config.learning_rate, config.momentum, config.weight_decay, config.milestones)
        feed = ArrayFeed(
            self.splits.train,
            config.batch_size,
            config.seed,
            purpose="training",
            augmentation=AUGMENTATIONS[config.augmentation],
        )
        lesson = Lesson(
            self.model,
            self.task,
            feed,
            self._feed(self.splits.held_out),
            recipe,
            self.runtime,
            config.seed,
            progress,
        )
        shared = {
            "data": self.splits.fingerprint,
            "batch_size": config.batch_size,
            "augmentation": config.augmentation,
            "threads": config.threads,
        }
        return Trainer(lesson, State.of(self.model), store, shared)

    def problem(self, weights: State, store: DiskStore, progress: Progress, trainer: Trainer) -> Problem:
        """Return the problem of drawing a ticket at some weights."""
        config = self.config
        return Problem(
            model=self.model,
            layout=self.layout,
            task=self.task,
            feed=ArrayFeed(self.splits.train, config.search_batch_size, config.seed, purpose="search"),
            weights=weights,
            seed=config.seed,
            runtime=self.runtime,
            at=config.draw_at,
            store=store,
            progress=progress,
            trainer=trainer,
            identity={
                "data": self.splits.fingerprint,
                "search_batch_size": config.search_batch_size,
                "threads": config.threads,
            },
        )

    def evaluate(self, state: State, split: str) -> Evaluation:
        """Evaluate a state on a split: "test" or "held_out"."""
        model = self.runtime.place(load_weights(self.model, state.tensors))
        return evaluate(model, self.task, self._feed(getattr(self.splits, split)), self.runtime)

    @staticmethod
    def _feed(arrays: Any) -> ArrayFeed:
        return ArrayFeed(arrays, EVALUATION_BATCH, shuffle=False)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(config: RunConfig, out: Path, progress: Progress, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> Result:
    """Run one cell below `out` and return its result; what is there already is not done again.

    Raises UsageError for a configuration that cannot be run, before anything is written.
    """
    config = resolve(config)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; it must be a directory")
    with _threads(config.threads):
        cell = Cell.prepare(config)
        identity = cell.identity()
        directory = out / digest(identity)[:16]
        claim(directory, identity)
        finished = directory / "result.json"
        if finished.exists():
            return Result(directory, json.loads(finished.read_text()), repeated=True)
        _describe(directory, cell)
        store = DiskStore(out / "store", checkpoint_seconds)
        return Result(directory, _execute(cell, store, directory, progress), repeated=False)


def _execute(cell: Cell, store: DiskStore, directory: Path, progress: Progress) -> dict[str, Any]:
    config = cell.config
    progress.say(f"{config.finder} ticket of density {config.density:.4g} at {config.draw_at}, in {directory}")
    trainer = cell.trainer(store, progress)
    # Pretrain. A ticket is drawn at one point of the dense training and trained from another, or the same.
    epochs = {"init": 0, "rewind": config.rewind_to, "trained": config.epochs}
    drawn_at = trainer.dense_at(epochs[config.draw_at])
    start = drawn_at if config.draw_at != "trained" else trainer.dense_at(config.rewind_to)
    # Draw.
    problem = cell.problem(drawn_at, store, progress, trainer)
    finder = make_finder(config)
    ticket = next(iter(finder.draw(problem, [config.density])))
    # Train.
    trained = problem.fit(ticket, start)
    dense = trainer.dense_at(config.epochs)
    # Evaluate: the only look at the test data.
    sparse_test, dense_test = cell.evaluate(trained, "test"), cell.evaluate(dense, "test")
    rows = [
        *trainer.dense_stage().rows(),
        *problem.draw_stage(describe(finder), config.density).rows(),
        *trainer.ticket_stage(ticket, start).rows(),
    ]
    values = _values(cell, directory, ticket, drawn_at, start, trained, dense)
    values |= {
        "test_accuracy": 100 * sparse_test.metric,
        "test_loss": sparse_test.loss,
        "dense_test_accuracy": 100 * dense_test.metric,
        "dense_test_loss": dense_test.loss,
    }
    _write(directory, ticket, start, trained, rows)
    write_json(directory / "result.json", values)
    return values


def _values(
    cell: Cell, directory: Path, ticket: Ticket, drawn_at: State, start: State, trained: State, dense: State
) -> dict[str, Any]:
    provenance = ticket.provenance
    assert provenance is not None  # every finder writes one
    training = trained.cost.seconds - start.cost.seconds
    return {
        "run_dir": str(directory),
        "ticket": str(directory / "ticket.safetensors"),
        "finder": cell.config.finder,
        "objective": dict(provenance.objective),
        "density": ticket.density,
        "kept": ticket.kept,
        "prunable": ticket.prunable,
        "kept_by_layer": ticket.kept_by_layer,
        "seed": cell.config.seed,
        "teacher": provenance.teacher,
        "warnings": list(provenance.warnings),
        # From θ₀ on, whether or not a stage was shared with another run.
        "seconds": provenance.cost.seconds + training,
        "dense_seconds": dense.cost.seconds,
        "seconds_by_stage": {
            "pretraining": drawn_at.cost.seconds,
            "draw": provenance.cost.seconds - drawn_at.cost.seconds,
            "ticket training": training,
        },
        "draw_cost": provenance.cost.to_dict(),
    }


def evaluate_run(config: RunConfig, directory: Path, weights: Path, split: str) -> Evaluation:
    """Evaluate weights under the ticket of a run directory.

    weights: a safetensors file of the model's state_dict. split: "test" or "held_out".
    """
    if not weights.is_file():
        raise UsageError(f"--weights: there is no file {weights}")
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise UsageError(f"--weights {weights} is not a safetensors file ({error})") from error
    with _threads(config.threads):
        cell = Cell.prepare(resolve(config))
        model = copy.deepcopy(cell.model)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise UsageError(f"--weights {weights} does not fit the model: {' '.join(str(error).split())}") from error
        Ticket.load(directory / "ticket.safetensors", model).apply_(model)
        return cell.evaluate(State.of(model), split)


def _describe(directory: Path, cell: Cell) -> None:
    write_bytes(directory / "config.yaml", yaml.safe_dump(cell.config.to_dict(), sort_keys=False).encode())
    write_json(
        directory / "environment.json",
        {
            "tombola": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "system": platform.system(),
            "processor": platform.machine(),
            "threads": cell.config.threads,
        },
    )


def _write(directory: Path, ticket: Ticket, start: State, trained: State, rows: list[dict[str, Any]]) -> None:
    ticket.save(directory / "ticket.safetensors")
    for name, tensors in (
        ("scores", ticket.scores or {}),
        ("start", start.tensors),
        ("weights", trained.tensors),
    ):
        write_bytes(directory / f"{name}.safetensors", tensors_to_bytes(_unshared(tensors)))
    journal = "".join(json.dumps(row) + "\n" for row in rows)
    write_bytes(directory / "metrics.jsonl", journal.encode())


def _unshared(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share storage, as tied weights do.
    return {name: value.detach().clone().contiguous() for name, value in tensors.items() if isinstance(value, Tensor)}
