"""A cell: one configuration with every default written out, its data, its model at θ₀ and its runtime."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola.config import FINDER_OPTIONS, RunConfig
from tombola.controllers import CONTROLLERS, Lagrangian
from tombola.data import AUGMENTATIONS, Feed, Normalisation, Split, Splits, load
from tombola.errors import UsageError
from tombola.evaluation import Evaluation, evaluate
from tombola.finders import FINDERS, LTR, Along, Finder, usual_batch_size
from tombola.finders.cts import SEARCH_SCHEDULES
from tombola.half import HalfWatch
from tombola.identity import COMPONENT_VERSIONS, digest
from tombola.masking import Survey, survey, unwrap
from tombola.models import build, builder, load_into, publish_batch_norm_, read_weights
from tombola.network import FrozenNetwork, explained_run, load_weights, uses_batch_statistics
from tombola.own import imported, source
from tombola.problem import Problem, Trainer
from tombola.progress import Progress
from tombola.ranking import count_kept
from tombola.runtime import PRECISIONS, Runtime, resolve_device
from tombola.seeds import seeded
from tombola.store import DiskStore
from tombola.task import Task, smoothed_cross_entropy
from tombola.ticket import Ticket
from tombola.training import Lesson, OwnFit, Recipe, State

EVALUATION_BATCH = 1000
# The same for all finders, whatever they search on: objectives depend on the batch where networks normalise by it.
PROBE_BATCH = 512
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
        (config.controller, "controller", CONTROLLERS),
        (config.search_lr_schedule, "search-lr-schedule", SEARCH_SCHEDULES),
    ):
        if name is not None and name not in known:
            raise UsageError(f"--{option} {name!r} is unknown; allowed are {', '.join(known)}")
    builder(config.model)
    if config.fit:
        imported("fit", config.fit)
    owned = {f.name: f.default for f in fields(FINDERS[config.finder])}
    filled: dict[str, Any] = {}
    for name, of_finder in FINDER_OPTIONS.items():
        given = getattr(config, name) not in (None, ())
        if given and of_finder not in owned:
            own = ", ".join(f"--{o.replace('_', '-')}" for o, field in FINDER_OPTIONS.items() if field in owned)
            raise UsageError(
                f"--{name.replace('_', '-')} is not an option of the finder {config.finder}, which has {own or 'none'}"
            )
        if not given and of_finder in owned:
            default = owned[of_finder]
            filled[name] = default.name if name == "controller" else default
    if "objective" in filled and config.draw_at == "init":
        filled["objective"] = "loss"
    if config.search_batch_size is None:
        filled["search_batch_size"] = usual_batch_size(config.finder)
    if config.device == "auto":
        filled["device"] = resolve_device("auto").type
    resolved = replace(config, **filled).with_threads()
    finder = make_finder(resolved)
    if isinstance(finder, Along | LTR):
        finder.check_at(resolved.draw_at)
    if isinstance(finder, Along) and resolved.fit:
        raise UsageError(f"--fit: finder {finder.name} trains weights and masks together, by SGD; leave --fit out")
    _recipe(resolved)
    return resolved


def make_finder(config: RunConfig) -> Finder:
    """Return the finder of a resolved configuration."""
    kind = FINDERS[config.finder]
    owned = {f.name for f in fields(kind)}
    values = {own: getattr(config, name) for name, own in FINDER_OPTIONS.items() if own in owned}
    if "controller" in owned:
        kind_of_controller = CONTROLLERS[config.controller or ""]
        published = kind_of_controller is Lagrangian
        values["controller"] = (
            Lagrangian.published(values.get("objective", "loss")) if published else kind_of_controller()
        )
    return kind(**values)


def _mixed(split: Split | None) -> Feed | None:
    """Return batches for an objective, which normalises by them: data that lie sorted by class are shuffled."""
    return None if split is None else split.feed(EVALUATION_BATCH, 0, "evaluation")


def _training_feed(config: RunConfig, splits: Splits) -> Feed:
    augmentation = AUGMENTATIONS[config.augmentation]
    return splits.train.feed(config.batch_size, config.seed, "training", augmentation=augmentation)


def _recipe(config: RunConfig) -> Recipe:
    return Recipe(**{f.name: getattr(config, f.name) for f in fields(Recipe)})


@torch.no_grad()
def _probe(config: RunConfig, splits: Splits, model: nn.Module, found: Survey, runtime: Runtime) -> bool:
    """Run two samples through the network, so that what does not fit is known before anything is written.

    Returns whether bf16 would spoil it on a CPU.
    """
    network = FrozenNetwork(model, found.layout, Task(), runtime)
    batch = runtime.move(next(iter(splits.train.feed(2, 0, "probe", shuffle=False).epoch(0))).batch)
    words = f"--model {config.model} cannot be run on inputs of {list(splits.shape)}"
    with explained_run(words), seeded(0, "probe", device=runtime.device), HalfWatch() as watch:
        output = network.dense(batch)
    if not isinstance(output, torch.Tensor) or output.dim() != 2 or output.shape[1] < splits.classes:
        shape = list(output.shape[1:]) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UsageError(
            f"--model {config.model} must give {splits.classes} outputs a sample, one a class, got {shape}"
        )
    if config.objective == "feature-mse":
        with network.capture(config.features):
            pass  # raises where no module is meant
    return watch.wrong


def _initial_model(config: RunConfig, splits: Splits, seed: int, *purpose: str) -> nn.Module:
    with seeded(seed, *purpose):
        model = unwrap(build(config.model, splits.shape, splits.classes))
        if config.batch_norm == "published":
            publish_batch_norm_(model)
    return model


@dataclass(frozen=True)
class Cell:
    """A resolved configuration with its data, its model at θ₀, and its runtimes for training and for the search."""

    config: RunConfig
    splits: Splits
    model: nn.Module
    survey: Survey
    runtime: Runtime
    search_runtime: Runtime
    task: Task

    @classmethod
    def prepare(cls, config: RunConfig) -> "Cell":
        """Load the data and build the model of a resolved configuration; raises UsageError if they do not fit."""
        splits = load(
            config.data,
            Path(config.data_dir) if config.data_dir else None,
            config.held_out,
            config.download,
            Normalisation(config.mean, config.std),
            config.image_size,
            config.train_samples,
        )
        _training_feed(config, splits)  # refuses what the augmentation cannot change
        model = _initial_model(config, splits, config.seed, "model")
        runtime = Runtime.choose(model, config.device, config.precision, config.layout)
        if config.search_precision not in (None, *PRECISIONS):
            raise UsageError(
                f"--search-precision {config.search_precision!r} is unknown; allowed are {', '.join(PRECISIONS)}"
            )
        if config.weights:
            load_into(model, read_weights(Path(config.weights)), Path(config.weights))
        found = survey(model, config.include or "*", config.exclude)
        count_kept(config.density, found.prunable)
        wrong = _probe(config, splits, model, found, runtime)
        runtime = runtime.trusted(wrong, config.precision)
        of_search = config.search_precision or runtime.precision
        search = Runtime.choose(model, runtime.device, of_search, runtime.layout).trusted(wrong, of_search)
        settled = replace(config, precision=runtime.precision, search_precision=search.precision, layout=runtime.layout)
        return cls(settled, splits, model, found, runtime, search, Task())

    def identity(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        settings = {k: v for k, v in self.config.to_dict().items() if k not in _OUTSIDE_IDENTITY}
        return {
            "config": settings,
            "data": self.splits.fingerprint,
            "model": self.model_identity(),
            "weights": State.of(self.model).digest,
            "runtime": self.runtime.to_dict(),
            "fit": source(self.config.fit),
            "versions": COMPONENT_VERSIONS,
        }

    def model_identity(self) -> str:
        """Return the model's name and, for one's own, its code: names, shapes and weights say nothing of `forward`."""
        return digest([self.config.model, source(self.config.model), self.config.batch_norm])

    def initial_model(self, seed: int, *purpose: str) -> nn.Module:
        """Return the model with initial weights that depend on a seed and on what they are for."""
        return _initial_model(self.config, self.splits, seed, *purpose)

    def start_of(self, ticket: Ticket, given: bool) -> State:
        """Return the state that a ticket is trained from, at its epoch: the model's present values.

        given: whether the user said that these are the ones. Raises UsageError where they cannot be.
        """
        provenance, config = ticket.provenance, self.config
        at = provenance.at if provenance else "given"
        epoch = {"init": 0, "given": 0, "trained": config.rewind_to}.get(at, provenance.epoch if provenance else 0) or 0
        if epoch >= config.epochs:
            raise UsageError(f"--epochs must lie above {epoch}, from which the ticket is trained, got {config.epochs}")
        state = State.of(self.model, epoch)
        if not given and provenance is not None and state.digest != provenance.weights:
            raise UsageError(
                "--weights: give the weights that the ticket is trained from; they are not the initial ones"
            )
        return state

    def trainer(self, store: DiskStore, progress: Progress) -> Trainer:
        """Return what trains this cell's network; cells that agree on it share its results."""
        config = self.config
        lesson = Lesson(
            self.model,
            replace(self.task, loss=smoothed_cross_entropy(config.label_smoothing)),
            _training_feed(config, self.splits),
            self._feed(self.splits.held_out),
            _recipe(config),
            self.runtime,
            config.seed,
            progress,
        )
        shared = {
            "data": self.splits.fingerprint,
            "model": self.model_identity(),
            "batch_size": config.batch_size,
            "augmentation": config.augmentation,
            "label_smoothing": config.label_smoothing,
            "threads": config.threads,
            "fit": source(config.fit),
        }
        own = OwnFit(imported("fit", config.fit)) if config.fit else None
        return Trainer(lesson, State.of(self.model), store, shared, own)

    def problem(self, weights: State, store: DiskStore, progress: Progress, trainer: Trainer | None) -> Problem:
        """Return the problem of drawing a ticket at some weights."""
        config = self.config
        assert config.search_batch_size is not None
        return Problem(
            model=self.model,
            layout=self.survey.layout,
            task=self.task,
            feed=self.splits.train.feed(config.search_batch_size, config.seed, "search"),
            weights=weights,
            seed=config.seed,
            runtime=self.search_runtime,
            at=config.draw_at,
            store=store,
            progress=progress,
            trainer=trainer,
            probe=self.splits.train.feed(PROBE_BATCH, config.seed, "search"),
            held_out=_mixed(self.splits.held_out),
            identity={
                "data": self.splits.fingerprint,
                "model": self.model_identity(),
                "search_batch_size": config.search_batch_size,
                "threads": config.threads,
            },
        )

    def evaluate(self, state: State, split: str) -> Evaluation:
        """Evaluate a state on a split: "test" or "held_out"."""
        feed = self._feed(getattr(self.splits, split))
        if feed is None:
            raise UsageError("--split held-out: this run's training held nothing out")
        model = self.runtime.place(load_weights(self.model, state.tensors))
        return evaluate(model, self.task, feed, self.runtime)

    def _feed(self, split: Split | None) -> Feed | None:
        """Return the batches to evaluate on; a network that normalises by them needs them mixed and as in training."""
        if split is None:
            return None
        by_batch = uses_batch_statistics(self.model)
        return split.feed(self.config.batch_size if by_batch else EVALUATION_BATCH, 0, "evaluation", shuffle=by_batch)
