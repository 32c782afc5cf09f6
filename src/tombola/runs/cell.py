"""A cell: one configuration with every default written out, its data, its model at θ₀ and its runtime."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola.core.allocation import Global
from tombola.core.compiling import numba_works
from tombola.core.flat import Layout
from tombola.core.granularity import Weight
from tombola.core.parts import identify, is_own, written_name
from tombola.core.plugins import imported_function, source
from tombola.core.progress import Progress
from tombola.core.ranks import ALONE, Ranks
from tombola.core.seeds import seeded
from tombola.core.selection import VERSION as SELECTION_VERSION
from tombola.core.selection import Selection
from tombola.data import (
    AUGMENTATIONS,
    Feed,
    MixedFeed,
    Normalisation,
    Split,
    Splits,
    Targets,
    file_stamp,
    load,
    on_device,
)
from tombola.data import VERSION as DATA_VERSION
from tombola.data.targets import IGNORED_PIXEL
from tombola.errors import UsageError
from tombola.finders import (
    Finder,
    check_divides,
    followed,
    needs_of,
    selection_of,
    silences,
    workings_of,
)
from tombola.finders.problem import Problem
from tombola.finders.steering import COMPILED_VERSION
from tombola.finders.training_finder import TrainingFinder
from tombola.networks.bf16 import BF16Watch
from tombola.networks.division import over_ranks
from tombola.networks.evaluation import VERSION as EVALUATION_VERSION
from tombola.networks.evaluation import Evaluation, evaluate
from tombola.networks.masking import Survey, survey, unwrap
from tombola.networks.models import VERSION as MODELS_VERSION
from tombola.networks.models import build, load_into, publish_batch_norm_, read_weights
from tombola.networks.network import FrozenNetwork, explained_run, load_weights, uses_batch_statistics
from tombola.networks.runtime import Runtime, has_bf16_instructions, resolve_device
from tombola.networks.task import Task
from tombola.runs.config import RunConfig
from tombola.sparse.choice import VERSION as SPARSE_VERSION
from tombola.sparse.choice import against_sparse, choose, execution_identity, first_inputs, first_loss
from tombola.storage.identity import digest
from tombola.storage.store import Store
from tombola.ticket import Ticket
from tombola.training import VERSION as TRAINING_VERSION
from tombola.training import State, TrainingSetup, UserFit, still_identity
from tombola.training.trainer import Trainer

# The same for all finders, whatever they search on: objectives depend on the batch where networks normalise by it.
PROBE_BATCH = 512
# Data that are known by the size and time of change of files that nobody writes but who published them.
STAMPED = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")
# Of what takes part in every run; parts bring their own.
VERSIONS = {"training": TRAINING_VERSION, "evaluation": EVALUATION_VERSION, "selection": SELECTION_VERSION}
# Of the rest, the first two of what takes part where numba is there.
FURTHER_VERSIONS = {
    "sparse": SPARSE_VERSION,
    "arithmetic": COMPILED_VERSION,
    "data": DATA_VERSION,
    "models": MODELS_VERSION,
}
# The same as they were when tasks were named without them.
UNNAMED_VERSIONS = {"sparse": 2, "arithmetic": 1, "data": 1, "models": 1}


# A study's tasks prepare the same few configurations again and again: a cell's, its dense training's, its teacher's.
MOST_PREPARED = 4
_prepared: "OrderedDict[RunConfig, Cell] | None" = None


@contextmanager
def prepared_once() -> Iterator[None]:
    """Prepare each configuration once inside the block, as long as its data stay as they are.

    A cell is never changed by what is done with it, so that it may serve again. For configurations that can be hashed,
    as a study's can.
    """
    global _prepared
    before = _prepared
    _prepared = OrderedDict() if before is None else before
    try:
        yield
    finally:
        _prepared = before


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with the machine's defaults written out.

    Raises UsageError for values that do not go together, and for names that mean nothing.
    """
    config.check()
    if config.fit:
        imported_function("fit", config.fit)
    device = resolve_device("auto").type if config.device == "auto" else config.device
    return replace(config, device=device).with_threads()


def stamp(config: RunConfig) -> str | None:
    """Return a hash of all that a result depends on, as it is known without reading data or building the model.

    None where that does not tell: images of a folder, files of the user's own, and their code, may change without
    their names. Files of data and weights are known by size and time of change.
    """
    config = resolve(config)
    data = written_name(config.data)
    names = (written_name(config.model), written_name(config.task))
    if config.fit or any(":" in name for name in names) or data not in STAMPED:
        return None
    files = [file_stamp(getattr(config.data, "data_dir", None)), config.weights, file_stamp(config.weights)]
    versions: dict[str, Any] = {**VERSIONS, **FURTHER_VERSIONS, "torch": torch.__version__}
    asked = [config.precision, config.search_precision, config.layout, config.execution]
    # What "auto" means depends on the machine, and on whether there is numba.
    on = resolve_device(config.device)
    device = torch.cuda.get_device_name(on) if on.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    machine = [device, numba_works(), has_bf16_instructions(torch.device("cpu"))]
    # How a finder holds layers stood in stamps before it was asked whether there may be any.
    held = config.finder.holding() if isinstance(config.finder, Finder) else {}
    beside = held | groups_of_any(config) | gates_of(config)
    return digest([identify(config), data, files, versions, asked, machine, *([beside] if beside else [])])


def gates_of(config: RunConfig) -> dict[str, Any]:
    """Return what an identity holds of how gates follow a summed loss; nothing where there are none."""
    return {"gates": "by the mean"} if config.training.summed and isinstance(config.finder, TrainingFinder) else {}


def holding_of_any(config: RunConfig) -> dict[str, Any]:
    """Return `holding_of` where the model is not at hand: layers count as decided wherever some may be."""
    finder = config.finder
    if not isinstance(finder, Finder):
        return {}
    together = type(finder.allocation) is Global and not isinstance(config.density, Mapping)
    return {} if together else finder.holding()


def groups_of_any(config: RunConfig) -> dict[str, Any]:
    """Return `grouping_of` and `freezing_of` where the model is not at hand: wherever there may be such groups."""
    finder = config.finder
    if not isinstance(finder, Finder):
        return {}
    densities = config.density.values() if isinstance(config.density, Mapping) else [config.density]
    fixed = getattr(finder.granularity, "fixed_density", None)
    exact = {"fixed": "exact"} if fixed is not None and not {*densities} <= {fixed, 1.0} else {}
    sized = finder.grouping() if fixed is None and type(finder.granularity) is not Weight else {}
    return exact | sized | (finder.freezing() if is_own(config.model) else {})


def raised_versions() -> dict[str, int]:
    """Return the versions that the names of tasks hold beside `VERSIONS`: those raised since tasks have names."""
    return {name: now for name, now in FURTHER_VERSIONS.items() if now != UNNAMED_VERSIONS[name]}


def splits_of(config: RunConfig) -> Splits:
    """Return the data of a configuration."""
    normalisation, targets = Normalisation(config.mean, config.std), config.task.targets
    ignored = getattr(config.task, "ignored", IGNORED_PIXEL)
    return load(config.data, config.held_out, normalisation, config.image_size, config.train_samples, targets, ignored)


def _mixed(split: Split | None) -> Feed | None:
    """Return batches for an objective, which normalises by them: data that lie sorted by class are shuffled."""
    return None if split is None else split.feed(split.at_once, 0, "evaluation")


def _training_feed(config: RunConfig, splits: Splits) -> Feed:
    augmentation = AUGMENTATIONS[config.augmentation]
    if augmentation is not None and config.task.targets is Targets.PIXELS:
        raise UsageError("must be none where each pixel has a target, which would stay as it is", option="augmentation")
    feed = splits.train.feed(config.batch_size, config.seed, "training", augmentation=augmentation)
    if not config.mixup:
        return feed
    if config.task.targets is not Targets.CLASSES:
        raise UsageError("is for classes, whose probabilities can be mixed; these targets are others", option="mixup")
    return MixedFeed(feed, config.mixup, splits.classes, config.seed)


@torch.no_grad()
def _probe(config: RunConfig, splits: Splits, model: nn.Module, found: Survey, runtime: Runtime) -> bool:
    """Run two samples through the network, so that what does not fit is known before anything is written.

    Returns whether bf16 would spoil it on a CPU.
    """
    task = config.task.build()
    network = FrozenNetwork(model, found.layout, task, runtime)
    batch = runtime.move(next(iter(_two_samples(splits).epoch(0))).batch)
    name = written_name(config.model)
    with (
        explained_run(f"model {name} cannot be run on inputs of {list(splits.shape)}", option="model"),
        seeded(0, "probe", device=runtime.device),
        BF16Watch() as watch,
    ):
        output = network.dense(batch)
    config.task.check(task, output, batch, splits.classes, name)
    if isinstance(config.finder, Finder):
        config.finder.check(network, batch)
    return bool(watch.wrong)


def _two_samples(splits: Splits) -> Feed:
    return splits.train.feed(2, 0, "probe", shuffle=False)


def _two_inputs(config: RunConfig, splits: Splits) -> Any:
    """Return what a model is called with for two samples."""
    return first_inputs(config.task.build(), _two_samples(splits))


def _followed(config: RunConfig, splits: Splits, model: nn.Module, found: Survey) -> Layout:
    """Return the layout of prunable weights as the finder's granularity needs it."""
    return followed(config.finder, model, found.layout, lambda: _two_inputs(config, splits))


def _execution(config: RunConfig, splits: Splits, model: nn.Module, found: Survey, runtime: Runtime) -> tuple[str, str]:
    """Return how tickets are trained, "sparse" or "dense", and what to say of it."""
    kept = selection_of(config.finder, found.layout, config.density).kept
    return choose(
        config.execution,
        model,
        found.layout,
        kept / found.layout.total,
        lambda: _two_inputs(config, splits),
        config.batch_size,
        against_sparse(runtime.device, config.training.clip_norm, bool(config.fit), config.training.optimizer),
        partial(first_loss, config.task.build(), _two_samples(splits)),
    )


def _initial_model(config: RunConfig, splits: Splits, seed: int, *purpose: str) -> nn.Module:
    with seeded(seed, *purpose, device=resolve_device(config.device)):  # a builder of one's own may build there
        model = unwrap(build(config.model, splits.shape, splits.classes, splits.padding))
        if config.batch_norm == "published":
            publish_batch_norm_(model)
    return model


@dataclass(frozen=True)
class Cell:
    """A resolved configuration with its data, its model at θ₀, and its runtimes for training and for the search.

    note: what to say of how tickets are trained.
    """

    config: RunConfig
    splits: Splits
    model: nn.Module
    survey: Survey
    runtime: Runtime
    search_runtime: Runtime
    task: Task
    note: str = ""

    @classmethod
    def prepare(cls, config: RunConfig, ranks: Ranks = ALONE) -> "Cell":
        """Load the data and build the model of a resolved configuration; raises UsageError if they do not fit.

        ranks: processes that divide the work.
        """
        check_divides(config.finder, ranks.size)
        splits = splits_of(config)
        if _prepared is None:
            return cls._made(config, splits, ranks)
        found = _prepared.pop(config, None)
        if found is None or found.splits is not splits:
            found = cls._made(config, splits, ranks)
        _prepared[config] = found
        if len(_prepared) > MOST_PREPARED:
            _prepared.popitem(last=False)
        return found

    @classmethod
    def _made(cls, config: RunConfig, splits: Splits, ranks: Ranks) -> "Cell":
        _training_feed(config, splits)  # refuses what the augmentation cannot change
        model = _initial_model(config, splits, config.seed, "model")
        runtime = Runtime.choose(model, config.device, config.precision, config.layout, ranks)
        if config.weights:
            load_into(model, read_weights(Path(config.weights)), Path(config.weights))
        found = survey(model, config.include or "*", config.exclude)
        selection_of(config.finder, found.layout, config.density)
        wrong = _probe(config, splits, model, found, runtime)
        selection_of(config.finder, _followed(config, splits, model, found), config.density)
        runtime = runtime.with_safe_precision(wrong, config.precision)
        asked = {"loss", *needs_of(config.finder).task}
        runtime = over_ranks(model, found.layout, config.task.build(), _training_feed(config, splits), runtime, asked)
        of_search = config.search_precision or runtime.precision
        search = Runtime.choose(model, runtime.device, of_search, runtime.memory_format, ranks)
        search = replace(search.with_safe_precision(wrong, of_search), by_share=runtime.by_share)
        execution, note = _execution(config, splits, model, found, runtime)
        settled = replace(
            config,
            execution=execution,
            precision=runtime.precision,
            search_precision=search.precision,
            layout=runtime.memory_format,
        )
        return cls(settled, splits, model, found, runtime, search, config.task.build(), note)

    def selection(self) -> Selection:
        """Return what tickets keep, channels that go together followed."""
        layout = _followed(self.config, self.splits, self.model, self.survey)
        return selection_of(self.config.finder, layout, self.config.density)

    def identity(self) -> dict[str, Any]:
        """Return everything that the result depends on: what differs from defaults, and versions of what took part."""
        fit = {"fit": source(self.config.fit)} if self.config.fit else {}
        selection = self.selection()
        return {
            "config": identify(self.config),
            **({"turned": selection.turned} if selection.turned else {}),
            "data": self.data_identity(),
            "model": self.model_identity(),
            "weights": State.of(self.model).digest,
            "runtime": self.runtime.to_dict(),
            "search_runtime": self.search_runtime.to_dict(),
            "versions": VERSIONS,
            **execution_identity(self.config.execution),
            **still_identity(self.model),
            **workings_of(self.config.finder, selection, self.model, self.search_runtime.device),
            **gates_of(self.config),
            **fit,
        }

    def data_identity(self) -> list[Any]:
        """Return what an identity holds of the data."""
        return [self.splits.fingerprint, DATA_VERSION]

    def _task_identity(self) -> dict[str, Any]:
        """Return the task, where it is not the one that all results were of before there were others."""
        return {} if self.config.task == RunConfig.task else {"task": identify(self.config.task)}

    def model_identity(self) -> str:
        """Return the model's name and, for one's own, its code: names, shapes and weights say nothing of `forward`."""
        return digest([identify(self.config.model), self.config.batch_norm, MODELS_VERSION])

    def initial_model(self, seed: int, *purpose: str) -> nn.Module:
        """Return the model with initial weights that depend on a seed and on what they are for."""
        return _initial_model(self.config, self.splits, seed, *purpose)

    def start_of(self, ticket: Ticket, given: bool, epoch: int | None = None) -> State:
        """Return the state that a ticket is trained from, at its epoch: the model's present values.

        given: whether the user said that these are the ones. epoch: theirs, where it is known otherwise than by the
        ticket. Raises UsageError where they cannot be.
        """
        provenance, config = ticket.provenance, self.config
        if epoch is None:
            at = provenance.at if provenance else "given"
            known = {"init": 0, "given": 0, "trained": config.rewind_to}
            epoch = known.get(at, provenance.epoch if provenance else 0) or 0
        if epoch >= config.training.epochs:
            raise UsageError(
                f"must lie above {epoch}, from which the ticket is trained, got {config.training.epochs}",
                option="epochs",
            )
        state = State.of(self.model, epoch)
        if not given and provenance is not None and state.digest != provenance.weights:
            raise UsageError(
                "give the weights that the ticket is trained from; they are not the initial ones", option="weights"
            )
        return state

    def trainer(self, store: Store, progress: Progress, silent: bool | None = None) -> Trainer:
        """Return what trains this cell's network; cells that agree on it share its results.

        silent: whether tickets prune channels whole; those of the configured finder where nothing is said.
        """
        config = self.config
        setup = TrainingSetup(
            self.model,
            config.task.smoothed(self.task, config.label_smoothing),
            on_device(_training_feed(config, self.splits), self.runtime.device),
            self._feed(self.splits.held_out),
            config.training,
            self.runtime,
            config.seed,
            progress,
            config.execution,
            silences(config.finder) if silent is None else silent,
        )
        shared = {
            "data": self.data_identity(),
            "model": self.model_identity(),
            "batch_size": config.batch_size,
            **self._task_identity(),
            **({"augmentation": config.augmentation} if config.augmentation != RunConfig.augmentation else {}),
            **({"mixup": config.mixup} if config.mixup else {}),
            **({"label_smoothing": config.label_smoothing} if config.label_smoothing else {}),
            **({"fit": source(config.fit)} if config.fit else {}),
        }
        own = UserFit(imported_function("fit", config.fit)) if config.fit else None
        return Trainer(setup, State.of(self.model), store, shared, own)

    def problem(self, weights: State, store: Store, progress: Progress, trainer: Trainer | None) -> Problem:
        """Return the problem of drawing a ticket at some weights."""
        config, samples = self.config, needs_of(self.config.finder).samples
        return Problem(
            model=self.model,
            layout=self.survey.layout,
            task=self.task,
            feed=self._search_feed(samples),
            weights=weights,
            seed=config.seed,
            runtime=self.search_runtime,
            at=config.draw_at,
            store=store,
            progress=progress,
            trainer=trainer,
            probe=self._search_feed(min(PROBE_BATCH, self.splits.train.at_once)),
            held_out=_mixed(self.splits.held_out),
            identity={
                "data": self.data_identity(),
                "model": self.model_identity(),
                "samples": samples,
                **self._task_identity(),
            },
        )

    def evaluate(self, state: State, split: str) -> Evaluation:
        """Evaluate a state on a split: "test" or "held_out"."""
        return self.evaluate_model(self.runtime.place(load_weights(self.model, state.tensors)), split)

    def evaluate_model(self, model: nn.Module, split: str) -> Evaluation:
        """Evaluate a network of any kind that takes and gives what the cell's does, on a split."""
        feed = self._feed(getattr(self.splits, split))
        if feed is None:
            raise UsageError("must be test: this run's training held nothing out", option="split")
        return evaluate(model, self.task, feed, self.runtime)

    def _feed(self, split: Split | None) -> Feed | None:
        """Return the batches to evaluate on; a network that normalises by them needs them mixed and as in training."""
        if split is None:
            return None
        by_batch = uses_batch_statistics(self.model)
        feed = split.feed(self.config.batch_size if by_batch else split.at_once, 0, "evaluation", shuffle=by_batch)
        return on_device(feed, self.runtime.device)

    def _search_feed(self, samples: int) -> Feed:
        feed = self.splits.train.feed(samples, self.config.seed, "search")
        return on_device(feed, self.search_runtime.device)
