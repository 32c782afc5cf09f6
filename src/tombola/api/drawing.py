"""The calls for one's own model: draw, preview, sparsify."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from tombola.core.controllers import Controller
from tombola.core.flat import Layout
from tombola.core.granularity import GRANULARITIES, Granularity
from tombola.core.parts import options_of, written_name
from tombola.core.plugins import code_of
from tombola.core.progress import Progress, Silent, expected_time, progress_on
from tombola.core.ranks import Ranks, ranks_of
from tombola.core.selection import Density
from tombola.data import Feed, feed_of
from tombola.errors import TicketWarning, UsageError
from tombola.finders import (
    CTS,
    FINDERS,
    ORIGINS,
    Drawn,
    Finder,
    Finds,
    check_divides,
    diagnostics,
    followed,
    needs_of,
    origin,
    selection_of,
    silences,
)
from tombola.finders import draw as draw_ticket
from tombola.finders.origins import redrawn
from tombola.finders.problem import Problem, Trainer
from tombola.literal import literal
from tombola.networks.division import over_ranks
from tombola.networks.evaluation import evaluate
from tombola.networks.forecast import seconds_of_steps
from tombola.networks.masking import Patterns, Survey, survey, unwrap
from tombola.networks.network import load_weights
from tombola.networks.probe import settle
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.objectives import Loss, MaskedBatch, Objective
from tombola.sparse.choice import against_sparse, choose, first_inputs
from tombola.storage.identity import digest_tensors
from tombola.storage.leading import led
from tombola.storage.store import DiskStore, MemoryStore
from tombola.ticket import Ticket
from tombola.training import Recipe, State, TrainingFunction, TrainingSetup, UserFit

# What may be given as data: batches, or a map-style dataset.
Data = Iterable[Any] | Dataset[Any]
# Seconds of work that is announced before it begins.
WORTH_SAYING = 60.0


def preview(model: nn.Module, *, include: Patterns = "*", exclude: Patterns = ()) -> Survey:
    """List what would be pruned of a model, with counts, and why the rest would not.

    include, exclude: glob patterns of parameter names; see `draw`. Printing the result gives a table.
    """
    return survey(model, include, exclude)


def draw(
    model: nn.Module,
    data: Data,
    *,
    density: Density,
    steps: int | None = None,
    objective: Objective | Callable[[MaskedBatch], Tensor] | str | None = None,
    controller: Controller | str | None = None,
    granularity: Granularity | str | None = None,
    finder: Finds | str | None = None,
    seed: int = 0,
    task: Task | None = None,
    include: Patterns = "*",
    exclude: Patterns = (),
    precision: str = "auto",
    batch_size: int | None = None,
    held_out: Data | None = None,
    fabric: Any = None,
    progress: bool = True,
) -> Ticket:
    """Draw a ticket from a model at its present weights, by Concrete Ticket Search.

    model: any module; it is not changed in any way. data: an iterable of (inputs, targets) batches, or of whatever
    `task` understands, or a map-style torch Dataset, which is cut into shuffled batches of `batch_size` (64 for
    CTS, else 512); a list of batches or a TensorDataset is best, since the dense network's outputs are then computed
    once only. density: the fraction of prunable weights to keep, in (0, 1], or fractions by patterns of names, of which
    the first that matches a layer counts: {"head.*": 1.0, "*": 0.05}. steps: length of the search (1960 by default).
    objective: one in `tombola.objectives`, by name or as an object, or a function of a MaskedBatch; by default loss
    where the network has not learned anything yet, else reverse-kl. controller: ProportionalBalance by default.
    granularity: which weights are kept or pruned together, such as "channel", "block:4x4" or "2:4"; each by itself by
    default. finder: another finder, an object or as it is written, such as "snip:rounds=10", in place of steps,
    objective and controller. include, exclude: glob patterns of parameter names; an exact name in `include` takes in
    what the rule leaves out. precision:
    "auto" (bf16 for convolutional models where the hardware has it), "32-true" or "bf16-mixed". held_out: data like
    `data` that the search does not see, on which its ticket is looked at. fabric: a lightning_fabric.Fabric, launched
    with the strategy ddp: its processes, all of which call this with the same model and all of the data, divide each
    batch, and get the same ticket. progress: show a bar.

    Returns a Ticket that keeps exactly floor(density * prunable + 1/2) weights, or as many as whole groups allow.
    Issues a TicketWarning for each sign that something is off. Raises UsageError for input that cannot be used,
    SearchError when numbers break down.
    """
    ranks = ranks_of(fabric)
    checked = survey(model, include, exclude)
    _check_kind("task", task, Task)
    runtime = Runtime.choose(model, _device(model, fabric), precision, ranks=ranks)
    _check_seed(seed)
    search = _finder(finder, {"steps": steps, "objective": objective, "controller": controller}, granularity)
    selection_of(search, checked.layout, density)
    samples = _batch_size(batch_size, search)
    # Of a generator no more than it takes to search, and to look at the ticket.
    feed = feed_of(data, seed, samples, most=max(needs_of(search).batches, diagnostics.BATCHES))
    display = progress_on() if progress and ranks.leads else Silent()
    held_out_feed = None if held_out is None else feed_of(held_out, seed, samples, name="held_out")
    task, spoilt = settle(model, checked.layout, task, (feed, held_out_feed), runtime, needs_of(search).task)
    runtime = runtime.with_safe_precision(spoilt, precision)
    runtime = _divided(runtime, search, model, checked.layout, task, (feed,), needs_of(search).task)
    problem = Problem(
        model=unwrap(model),
        layout=checked.layout,
        task=task,
        feed=feed,
        weights=State.of(unwrap(model)),
        seed=seed,
        runtime=runtime,
        progress=display,
        held_out=held_out_feed,
    )
    with torch.inference_mode(False), torch.enable_grad():
        return _announced(draw_ticket(search, problem, density), ranks).ticket


def _device(model: nn.Module, fabric: Any) -> torch.device:
    """Return where a model runs: a fabric's processes each have a device of their own."""
    device: torch.device = next(model.parameters()).device if fabric is None else fabric.device
    return device


def _divided(
    runtime: Runtime,
    finder: Finds,
    model: nn.Module,
    layout: Layout,
    task: Task,
    feeds: Sequence[Feed],
    needs: Sequence[str],
) -> Runtime:
    """Return a runtime that knows what its processes change; raises UsageError where they cannot divide the work."""
    check_divides(finder, runtime.ranks.size)
    _check_alike(runtime.ranks, model, *feeds)
    return over_ranks(model, layout, task, feeds[0], runtime, needs)


def _check_alike(ranks: Ranks, model: nn.Module, *feeds: Feed) -> None:
    """Raise UsageError where processes that divide the work were not given the same."""
    if ranks.size == 1:
        return
    for what, mark in (("model", State.of(unwrap(model)).digest), ("data", [_mark_of(feed) for feed in feeds])):
        if any(other != mark for other in ranks.gathered(mark)):
            raise UsageError(
                f"needs the same {what} in all {ranks.size} processes, which divide each batch themselves: the same "
                "weights, and all of the data in the same order, without a DistributedSampler",
                option="fabric",
            )


def _finder(finder: Finds | str | None, settings: dict[str, Any], granularity: Granularity | str | None) -> Finds:
    """Return the finder that was asked for, CTS with some settings without one, at a granularity."""
    found = _of_settings(finder, settings)
    if granularity is None:
        return found
    if not isinstance(found, Finder):
        words = f"is no option of the finder {written_name(found)}, which does not derive from tombola.finders.Finder"
        raise UsageError(words, option="granularity")
    return replace(found, granularity=GRANULARITIES.read(granularity))


def _of_settings(finder: Finds | str | None, settings: dict[str, Any]) -> Finds:
    given = {name: value for name, value in settings.items() if value is not None}
    if finder is None:
        return CTS(**given)
    spec = FINDERS.parse(finder)
    known = ", ".join(f.name for f in options_of(spec.part))
    for name in given:
        if spec.find(name) is None:
            words = f"is not an option of the finder {written_name(spec.part)}, which has {known}"
            raise UsageError(words, option=name)
    if given:
        raise UsageError("excludes steps, objective and controller: give them to the finder itself", option="finder")
    found: Finds = spec.build()
    return found


def _batch_size(batch_size: int | None, finder: Finds) -> int:
    """Return how many samples a batch of a map-style dataset has: those that the finder needs, where nobody says."""
    if batch_size is None:
        return needs_of(finder).samples
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise UsageError(f"must be a whole number of at least 1, got {batch_size!r}", option="batch_size")
    return batch_size


def _check_kind(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"must be a tombola.{kind.__name__}, got {value!r}", option=name)


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"must be a whole number that is not negative, got {seed!r}", option="seed")


def _announced(found: Drawn, ranks: Ranks) -> Drawn:
    for sign in found.ticket.provenance.warnings if found.ticket.provenance and ranks.leads else ():
        warnings.warn(literal(sign), TicketWarning, stacklevel=3)
    return found


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
    it belongs to), "init" (the model's present ones), "final" (the end of the training that found it, else of the dense
    one) or "signs" (initial sizes drawn anew with the final weights' signs). out: a directory that keeps what was done,
    so that the same call goes on from the last checkpoint; the data, which cannot be named, must then be the same.
    execution: how the ticket trains: "sparse" (by its kept weights alone, in float32 on a CPU; needs numba, `pip
    install 'tombola[fast]'`), "dense", or "auto": sparse where numba is there and a fixed rule expects it to be faster.
    fabric: as in `draw`; all processes get the same trained model. The rest as in `draw`.

    Returns the trained model and its ticket: `sparse, ticket = sparsify(...)`.
    """
    _check_kind("task", task, Task)
    _check_kind("recipe", recipe, Recipe)
    recipe = recipe or Recipe()
    whole = isinstance(rewind_to, int) and not isinstance(rewind_to, bool)
    if not whole or not 0 <= rewind_to < recipe.epochs:
        raise UsageError(
            f"must be a whole number between 0 and {recipe.epochs - 1}, the recipe's last epoch but one, got "
            f"{rewind_to!r}",
            option="rewind_to",
        )
    _check_seed(seed)
    if train_from not in ORIGINS:
        raise UsageError(f"must be one of {', '.join(ORIGINS)}, got {train_from!r}", option="train_from")
    ranks = ranks_of(fabric)
    search = _finder(finder, {"steps": steps}, granularity)
    checked = survey(model, include, exclude)
    selection_of(search, checked.layout, density)
    runtime = Runtime.choose(model, _device(model, fabric), precision, ranks=ranks)
    samples = _batch_size(batch_size, search)
    if fit is not None and not callable(fit):
        raise UsageError(f"must be a function of (model, job), got {fit!r}", option="fit")
    train = list(train) if isinstance(train, Iterator) else train
    feed = feed_of(train, seed, samples, name="train")
    search_feed = feed_of(train, seed, _batch_size(search_batch_size, search), name="train")
    held_out_feed = feed_of(held_out, seed, samples, name="held_out")
    display = progress_on() if progress and ranks.leads else Silent()
    # An objective that is chosen after the pretraining may be the divergence: it is asked for before that.
    later = ("divergence",) if getattr(search, "objective", Loss()) is None else ()
    asked = ("loss", "metric", *needs_of(search).task, *later)
    task, spoilt = settle(model, checked.layout, task, (feed, held_out_feed), runtime, asked)
    runtime = runtime.with_safe_precision(spoilt, precision)
    runtime = _divided(runtime, search, model, checked.layout, task, (feed, search_feed), asked)
    plain = unwrap(model)
    if progress and ranks.leads:
        _say_forecast(display, plain, task, runtime, (feed, search_feed), recipe, rewind_to, search)
    selection_of(search, followed(search, plain, checked.layout, lambda: first_inputs(task, feed)), density)
    against = against_sparse(runtime.device, recipe.clip_norm, fit is not None, recipe.optimizer)
    share = selection_of(search, checked.layout, density).kept / checked.layout.total
    execution, note = choose(
        execution, plain, checked.layout, share, lambda: first_inputs(task, feed), samples, against
    )
    if note:
        display.say(note)
    setup = TrainingSetup(plain, task, feed, held_out_feed, recipe, runtime, seed, display, execution, silences(search))
    setup.say_unreached()
    store = MemoryStore() if out is None else led(DiskStore(Path(out)), ranks)
    code = {"fit": code_of(fit)} if fit is not None else {}
    identity = {"data": _mark_of(feed), "task": _mark_of_task(task)} if out is not None else {}
    trainer = Trainer(setup, State.of(plain), store, {**identity, **code}, own=fit and UserFit(fit))
    weights = trainer.dense_at(rewind_to)
    problem = Problem(
        model=plain,
        layout=checked.layout,
        task=task,
        feed=search_feed,
        weights=weights,
        seed=seed,
        runtime=runtime,
        at="rewind" if rewind_to else "given",
        store=store,
        progress=display,
        trainer=trainer,
        held_out=held_out_feed,
        identity=identity | ({"search data": _mark_of(search_feed)} if identity else {}),
    )
    found = _announced(draw_ticket(search, problem, density), ranks)
    start, _ = origin(
        train_from, search, problem, found, found.start or weights, trainer.start, lambda: redrawn(plain, seed)
    )
    trained, metric = _trained(problem.fit(found.ticket, start), setup)
    kept, kept_metric = _trained(found.kept, setup) if found.kept is not None else (None, None)
    return Sparsified(trained, found.ticket, metric, kept, kept_metric)


def _trained(state: State, setup: TrainingSetup) -> tuple[nn.Module, float]:
    """Return a trained network in the mode of the user's, and its metric on the held-out data."""
    model = load_weights(setup.model, state.tensors)
    assert setup.held_out is not None
    metric = evaluate(setup.runtime.place(model), setup.task, setup.held_out, setup.runtime).metric
    return model.train(setup.model.training), metric


def _say_forecast(
    display: Progress,
    model: nn.Module,
    task: Task,
    runtime: Runtime,
    feeds: tuple[Feed, Feed],
    recipe: Recipe,
    rewind_to: int,
    finder: Finds,
) -> None:
    """Say how long everything whose length is known will take, where that is a minute and more."""
    training, search = (seconds_of_steps(model, task, feed, runtime) for feed in feeds)
    epoch, needs = feeds[0].length or 0, needs_of(finder)
    parts: dict[str, tuple[Sequence[float], int]] = {"pretraining": (training, rewind_to * epoch)}
    if not needs.trains:
        parts["search"] = (search, needs.batches)
    parts["training"] = (training, (recipe.epochs - rewind_to) * epoch)
    if sum(median(seconds) * steps for seconds, steps in parts.values()) >= WORTH_SAYING:
        further = ", and the search, which trains" if needs.trains else ""
        display.say(expected_time({name: part for name, part in parts.items() if part[1]}) + further)


def _mark_of(feed: Feed) -> Any:
    """Return what tells one feed's data from another's: the tensors of its first batch, and its length."""
    first = next(iter(feed.epoch(0))).batch
    leaves = {str(n): leaf for n, leaf in enumerate(tree_leaves(first)) if isinstance(leaf, torch.Tensor)}
    return [digest_tensors(leaves), feed.length]


def _mark_of_task(task: Task) -> list[str]:
    """Return the names of a task's parts, and the code of those that are the user's own."""
    parts = [getattr(part, "part", part) for part in vars(task).values()]
    return [f"{getattr(part, '__qualname__', type(part).__qualname__)} {code_of(part)}".strip() for part in parts]
