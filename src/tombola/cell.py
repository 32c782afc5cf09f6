"""A cell: one configuration with every default written out, its data, its model at θ₀ and its runtime."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from tombola.config import RunConfig
from tombola.controllers import CONTROLLERS, Lagrangian
from tombola.data import AUGMENTATIONS, ArrayFeed, Arrays, Splits, load
from tombola.errors import UsageError
from tombola.evaluation import Evaluation, evaluate
from tombola.finders import FINDERS, Finder
from tombola.identity import COMPONENT_VERSIONS, digest
from tombola.masking import Survey, survey
from tombola.models import build, builder, load_into, read_weights, source
from tombola.network import load_weights
from tombola.problem import Problem, Trainer
from tombola.progress import Progress
from tombola.ranking import count_kept
from tombola.runtime import Runtime, resolve_device
from tombola.seeds import seeded
from tombola.store import DiskStore
from tombola.task import Task
from tombola.training import Lesson, Recipe, State

EVALUATION_BATCH = 1000
# Options that say where things lie; results do not depend on them.
_OUTSIDE_IDENTITY = ("data_dir", "download", "weights")


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with every default written out.

    Raises UsageError for values that make no sense, and for options that the chosen finder does not have.
    """
    config.check()
    for name, option, known in (
        (config.finder, "finder", FINDERS),
        (config.augmentation, "augmentation", AUGMENTATIONS),
        (config.controller or next(iter(CONTROLLERS)), "controller", CONTROLLERS),
    ):
        if name not in known:
            raise UsageError(f"--{option} {name!r} is unknown; allowed are {', '.join(known)}")
    builder(config.model)
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
        kind_of_controller = CONTROLLERS[config.controller or ""]
        published = kind_of_controller is Lagrangian
        values["controller"] = Lagrangian.published(values["objective"]) if published else kind_of_controller()
    return kind(**values)


@dataclass(frozen=True)
class Cell:
    """A resolved configuration with its data, its model at θ₀ and its runtime."""

    config: RunConfig
    splits: Splits
    model: nn.Module
    survey: Survey
    runtime: Runtime
    task: Task

    @classmethod
    def prepare(cls, config: RunConfig) -> "Cell":
        """Load the data and build the model of a resolved configuration; raises UsageError if they do not fit."""
        splits = load(config.data, Path(config.data_dir) if config.data_dir else None, config.held_out, config.download)
        with seeded(config.seed, "model"):
            model = build(config.model, splits.shape, splits.classes)
        runtime = Runtime.choose(model, config.device, config.precision, config.layout)
        if config.weights:
            load_into(model, read_weights(Path(config.weights)), Path(config.weights))
        found = survey(model, config.include or "*", config.exclude)
        count_kept(config.density, found.prunable)
        settled = replace(config, precision=runtime.precision, layout=runtime.layout)
        return cls(settled, splits, model, found, runtime, Task())

    def identity(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        settings = {k: v for k, v in self.config.to_dict().items() if k not in _OUTSIDE_IDENTITY}
        return {
            "config": settings,
            "data": self.splits.fingerprint,
            "model": self.model_identity(),
            "weights": State.of(self.model).digest,
            "runtime": self.runtime.to_dict(),
            "versions": COMPONENT_VERSIONS,
        }

    def model_identity(self) -> str:
        """Return the model's name and, for one's own, its code: names, shapes and weights say nothing of `forward`."""
        return digest([self.config.model, source(self.config.model)])

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
            "model": self.model_identity(),
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
            layout=self.survey.layout,
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
                "model": self.model_identity(),
                "search_batch_size": config.search_batch_size,
                "threads": config.threads,
            },
        )

    def evaluate(self, state: State, split: str) -> Evaluation:
        """Evaluate a state on a split: "test" or "held_out"."""
        model = self.runtime.place(load_weights(self.model, state.tensors))
        return evaluate(model, self.task, self._feed(getattr(self.splits, split)), self.runtime)

    @staticmethod
    def _feed(arrays: Arrays) -> ArrayFeed:
        return ArrayFeed(arrays, EVALUATION_BATCH, shuffle=False)
