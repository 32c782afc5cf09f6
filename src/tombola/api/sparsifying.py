"""sparsify(): pretrain, draw, train."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from torch import nn

from tombola.api.asked import (
    Data,
    announced,
    batch_size_of,
    check_kind,
    check_seed,
    device_of,
    divided,
    finder_of,
    mark_of,
)
from tombola.api.own import mark_of_model, mark_of_own, marks_beyond_options
from tombola.core.flat import Layout
from tombola.core.granularity import Granularity
from tombola.core.parts import written_name
from tombola.core.progress import Silent, expected_time, progress_on
from tombola.core.ranks import ranks_of
from tombola.core.selection import Density
from tombola.data import Feed, feed_of
from tombola.data.samples import UNREPEATABLE
from tombola.errors import TicketWarning, UsageError
from tombola.finders import ORIGINS, Drawn, Finder, Finds, followed, needs_of, origin, selection_of, silences
from tombola.finders import draw as draw_ticket
from tombola.finders.origins import redrawn
from tombola.finders.problem import Problem
from tombola.finders.training_finder import TrainingFinder
from tombola.networks.evaluation import evaluate
from tombola.networks.forecast import seconds_of_steps
from tombola.networks.masking import Patterns, survey, unwrap
from tombola.networks.network import load_weights
from tombola.networks.probe import settle
from tombola.networks.runtime import Runtime, ready_to_train
from tombola.networks.task import Task
from tombola.objectives import Loss
from tombola.sparse.choice import against_sparse, choose, first_inputs, first_loss
from tombola.storage.leading import led
from tombola.storage.store import DiskStore, MemoryStore, Store, check_out
from tombola.ticket import Ticket
from tombola.training import Recipe, State, TrainingFunction, TrainingSetup, UserFit
from tombola.training.trainer import Trainer

# Seconds of work that is announced before it begins.
WORTH_SAYING = 60.0


@dataclass(frozen=True)
class Sparsified:
    """A trained sparse model and its ticket; unpacks into these two.

    model: a plain copy of the user's model, pruned weights zero. ticket: the mask and where it comes from.
    held_out_metric: the task's metric on the held-out data (accuracy as a fraction). kept_weights, kept_metric: of
    finders such as rigl, the sparse network at the end of their own training and its metric, another product than the
    ticket's; else None.
    """

    model: nn.Module
    ticket: Ticket
    held_out_metric: float
    kept_weights: nn.Module | None = None
    kept_metric: float | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.ticket))


def sparsify(
    model: nn.Module,
    train: Data,
    held_out: Data,
    *,
    density: Density,
    recipe: Recipe | None = None,
    rewind_to: int = 1,
    fit: TrainingFunction | None = None,
    steps: int | None = None,
    granularity: Granularity | str | None = None,
    finder: Finds | str | None = None,
    train_from: str = "rewind",
    seed: int = 0,
    task: Task | None = None,
    include: Patterns = "*",
    exclude: Patterns = (),
    precision: str = "auto",
    batch_size: int = 128,
    search_batch_size: int | None = None,
    out: str | Path | None = None,
    execution: str = "auto",
    fabric: Any = None,
    progress: bool = True,
) -> Sparsified:
    """Train a model sparse from its present weights: pretrain, draw a ticket, train the ticket.

    model: any module; it is not changed. train, held_out: iterables of batches, or map-style torch Datasets, which are
    cut into batches of `batch_size` for training and of `search_batch_size` for the search (as `draw` does); the
    held-out ones are only measured on. density: as in `draw`. recipe: how to train; by default 10 epochs of SGD. fit: a
    training function of your own in its place, called as fit(model, job) with a `tombola.Job` that says which epochs,
    and holds the ticket. rewind_to: epochs of dense training before the draw, from which the ticket's training goes on;
    0 draws at the weights as they are, for a model that is trained already. steps: length of the search. granularity:
    as in `draw`. finder: CTS by default. train_from: the weights that the ticket is trained from: "rewind" (those that
    it belongs to), "init" (the model's present ones), "final" (the kept weights of a mask that moved in one training,
    of all others the end of the dense one) or "signs" (initial sizes drawn anew with the final weights' signs). out: a
    directory that keeps what was done, so that the same call goes on from the last checkpoint; the data, which cannot
    be named, must then be the same, and functions and models are told from others by their code and what they hold
    (arguments of partials, values of closures, defaults, globals that they read). execution: how the ticket trains:
    "sparse" (by its kept weights alone, in float32 on a CPU; needs numba, `pip install 'tombola[fast]'`), "dense", or
    "auto": sparse where numba is there and a fixed rule expects it to be faster. fabric: as in `draw`; all processes
    get the same trained model. The rest as in `draw`.

    Returns the trained model and its ticket: `sparse, ticket = sparsify(...)`. Raises UsageError for options that
    cannot be, and with `out` for functions that hold what cannot be told from others (a lock, an open file).
    """
    with ready_to_train():
        recipe = _checked_recipe(recipe, task, rewind_to, seed, train_from, fit)
        if out is not None:
            check_out(Path(out))
        ranks = ranks_of(fabric)
        search = finder_of(finder, {"steps": steps}, granularity)
        if rewind_to and "rewind" not in needs_of(search).at:
            raise UsageError(f"must be 0 for the finder {written_name(search)}, got {rewind_to}", option="rewind_to")
        if isinstance(search, Finder):
            search.check_epochs(rewind_to, recipe.epochs)
        layout = survey(model, include, exclude).layout
        selection_of(search, layout, density)
        runtime = Runtime.choose(model, device_of(model, fabric), precision, ranks=ranks)
        samples = batch_size_of(batch_size, search)
        feeds = _Feeds.of(train, held_out, seed, samples, batch_size_of(search_batch_size, search))
        if isinstance(search, TrainingFinder):
            search.check_length(rewind_to, recipe.epochs, feeds.training.length is not None)
        task, runtime = _met(model, layout, task, feeds, runtime, search, precision)
        display = progress_on() if progress and ranks.leads else Silent()
        setup = TrainingSetup(unwrap(model), task, feeds.training, feeds.held_out, recipe, runtime, seed, display)
        if progress and ranks.leads:
            _say_forecast(setup, feeds, rewind_to, search)
        # Also of groups, which are known once channels have been followed.
        followed_layout = followed(search, setup.model, layout, lambda: first_inputs(task, feeds.training))
        selection_of(search, followed_layout, density)
        share = selection_of(search, layout, density).kept / layout.total
        execution = _execution(execution, setup, layout, share, samples, own=fit is not None)
        setup = replace(setup, execution=execution, silent=silences(search))
        setup.say_beforehand()
        problem, trainer = _problem(setup, layout, feeds, rewind_to, fit, search, out)
        found = announced(draw_ticket(search, problem, density), ranks)
        return _delivered(problem, trainer, found, search, train_from)


def _checked_recipe(
    recipe: Recipe | None, task: Task | None, rewind_to: int, seed: int, train_from: str, fit: TrainingFunction | None
) -> Recipe:
    """Return the recipe; raises UsageError for options that cannot be, or do not go with it."""
    check_kind("task", task, Task)
    check_kind("recipe", recipe, Recipe)
    recipe = recipe or Recipe()
    whole = isinstance(rewind_to, int) and not isinstance(rewind_to, bool)
    if not whole or not 0 <= rewind_to < recipe.epochs:
        raise UsageError(
            f"must be a whole number between 0 and {recipe.epochs - 1}, the recipe's last epoch but one, got "
            f"{rewind_to!r}",
            option="rewind_to",
        )
    check_seed(seed)
    if train_from not in ORIGINS:
        raise UsageError(f"must be one of {', '.join(ORIGINS)}, got {train_from!r}", option="train_from")
    if fit is not None and not callable(fit):
        raise UsageError(f"must be a function of (model, job), got {fit!r}", option="fit")
    return recipe


class _Feeds(NamedTuple):
    """The data in batches: those of a training, those of the search, and those that are measured on."""

    training: Feed
    search: Feed
    held_out: Feed

    @classmethod
    def of(cls, train: Data, held_out: Data, seed: int, samples: int, of_search: int) -> "_Feeds":
        """Return batches of so many samples, where data come one by one."""
        train = list(train) if isinstance(train, Iterator) else train
        return cls(
            feed_of(train, seed, samples, name="train"),
            feed_of(train, seed, of_search, name="train"),
            feed_of(held_out, seed, samples, name="held_out"),
        )


def _met(
    model: nn.Module,
    layout: Layout,
    task: Task | None,
    feeds: _Feeds,
    runtime: Runtime,
    finder: Finds,
    precision: str,
) -> tuple[Task, Runtime]:
    """Return task and runtime as they are once model and data have met."""
    # An objective that is chosen after the pretraining may be the divergence: it is asked for before that.
    later = ("divergence",) if getattr(finder, "objective", Loss()) is None else ()
    asked = ("loss", "metric", *needs_of(finder).task, *later)
    given = {"train": feeds.training, "held_out": feeds.held_out}
    task, spoilt = settle(model, layout, task, given, runtime, asked)
    runtime = runtime.with_safe_precision(spoilt, precision)
    return task, divided(runtime, finder, model, layout, task, (feeds.training, feeds.search), asked)


def _execution(asked: str, setup: TrainingSetup, layout: Layout, density: float, samples: int, own: bool) -> str:
    """Return how tickets are trained, "sparse" or "dense", and say so. own: whether a function of the user's trains."""
    recipe = setup.recipe
    against = against_sparse(setup.runtime.device, recipe.clip_norm, own, recipe.optimizer)
    found, note = choose(
        asked,
        setup.model,
        layout,
        density,
        lambda: first_inputs(setup.task, setup.feed),
        samples,
        against,
        partial(first_loss, setup.task, setup.feed),
    )
    if note:
        setup.progress.say(note)
    return found


def _problem(
    setup: TrainingSetup,
    layout: Layout,
    feeds: _Feeds,
    rewind_to: int,
    fit: TrainingFunction | None,
    search: Finds,
    out: str | Path | None,
) -> tuple[Problem, Trainer]:
    """Return the problem of drawing a ticket at the rewind point, once the network has been trained that far."""
    # What cannot be told from others is refused before anything is written.
    shared, of_trainings, of_draws = _marks(setup, feeds, fit, search) if out is not None else ({}, {}, {})
    store: Store = MemoryStore() if out is None else led(DiskStore(Path(out)), setup.runtime.ranks)
    trainer = Trainer(setup, State.of(setup.model), store, shared | of_trainings, own=fit and UserFit(fit))
    problem = Problem(
        model=setup.model,
        layout=layout,
        task=setup.task,
        feed=feeds.search,
        weights=trainer.dense_at(rewind_to),
        seed=setup.seed,
        runtime=setup.runtime,
        at="rewind" if rewind_to else "given",
        store=store,
        progress=setup.progress,
        trainer=trainer,
        held_out=feeds.held_out,
        identity=shared | of_draws,
    )
    return problem, trainer


def _marks(
    setup: TrainingSetup, feeds: _Feeds, fit: TrainingFunction | None, search: Finds
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what is kept by, beyond names and options: of trainings and draws alike, of trainings, and of draws.

    Raises UsageError where functions hold what cannot be told from others; issues a TicketWarning where the first
    batch, fetched again, is another one.
    """
    of_training = {"fit": mark_of_own("fit", fit) if fit is not None else "", **marks_beyond_options(setup.recipe)}
    of_draws = {"functions": marks_beyond_options(search), "search data": mark_of(feeds.search)}
    shared = {
        "data": mark_of(feeds.training),
        "task": mark_of_own("task", setup.task),
        "model": mark_of_model(setup.model),
    }
    if mark_of(feeds.training) != shared["data"] and setup.runtime.ranks.leads:
        warnings.warn(f"train: {UNREPEATABLE}", TicketWarning, stacklevel=4)
    return shared, {"functions": of_training}, of_draws


def _delivered(problem: Problem, trainer: Trainer, found: Drawn, finder: Finds, train_from: str) -> Sparsified:
    """Train a ticket, and return what came of it."""
    setup, usual = trainer.setup, found.start or problem.weights
    start, _ = origin(
        train_from, finder, problem, found, usual, trainer.start, lambda: redrawn(setup.model, setup.seed)
    )
    trained, metric = _trained(problem.fit(found.ticket, start), setup)
    kept, kept_metric = _trained(found.kept, setup) if found.kept is not None else (None, None)
    return Sparsified(trained, found.ticket, metric, kept, kept_metric)


def _trained(state: State, setup: TrainingSetup) -> tuple[nn.Module, float]:
    """Return a trained network, each layer in the mode of the user's, and its metric on the held-out data."""
    model = load_weights(setup.model, state.tensors)
    assert setup.held_out is not None
    metric = evaluate(setup.runtime.place(model), setup.task, setup.held_out, setup.runtime).metric
    for module, given in zip(model.modules(), setup.model.modules(), strict=True):
        module.training = given.training
    return model, metric


def _say_forecast(setup: TrainingSetup, feeds: _Feeds, rewind_to: int, finder: Finds) -> None:
    """Say how long everything whose length is known will take, where that is a minute and more."""
    training, search = (
        seconds_of_steps(setup.model, setup.task, feed, setup.runtime) for feed in (feeds.training, feeds.search)
    )
    epoch, needs = feeds.training.length or 0, needs_of(finder)
    parts: dict[str, tuple[Sequence[float], int]] = {"pretraining": (training, rewind_to * epoch)}
    if not needs.trains:
        parts["search"] = (search, needs.batches)
    parts["training"] = (training, (setup.recipe.epochs - rewind_to) * epoch)
    if sum(median(seconds) * steps for seconds, steps in parts.values()) >= WORTH_SAYING:
        further = ", and the search, which trains" if needs.trains else ""
        setup.progress.say(expected_time({name: part for name, part in parts.items() if part[1]}) + further)
