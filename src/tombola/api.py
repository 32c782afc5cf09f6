"""The calls for one's own model: draw, preview, sparsify."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tombola.controllers import Controller
from tombola.data import Feed, feed_of
from tombola.errors import TicketWarning, UsageError
from tombola.evaluation import evaluate
from tombola.finders import CTS, Finder, usual_batch_size
from tombola.masking import Patterns, Survey, survey, unwrap
from tombola.network import load_weights
from tombola.probe import parts_asked, settle
from tombola.problem import Problem, Trainer
from tombola.progress import Progress, Silent, progress_on
from tombola.ranking import count_kept
from tombola.runtime import Runtime
from tombola.store import MemoryStore
from tombola.task import Task
from tombola.teacher import usual_objective
from tombola.ticket import Ticket
from tombola.training import Lesson, OwnFit, Recipe, State, TrainingFunction


def preview(model: nn.Module, *, include: Patterns = "*", exclude: Patterns = ()) -> Survey:
    """List what would be pruned of a model, with counts, and why the rest would not.

    include, exclude: glob patterns of parameter names; see `draw`. Printing the result gives a table.
    """
    return survey(model, include, exclude)


def draw(
    model: nn.Module,
    data: Iterable[Any],
    *,
    density: float,
    steps: int | None = None,
    objective: str | None = None,
    controller: Controller | None = None,
    finder: Finder | None = None,
    seed: int = 0,
    task: Task | None = None,
    include: Patterns = "*",
    exclude: Patterns = (),
    precision: str = "auto",
    batch_size: int | None = None,
    held_out: Iterable[Any] | None = None,
    progress: bool = True,
) -> Ticket:
    """Draw a ticket from a model at its present weights, by Concrete Ticket Search.

    model: any module; it is not changed in any way. data: an iterable of (inputs, targets) batches, or of whatever
    `task` understands, or a map-style torch Dataset, which is cut into shuffled batches of `batch_size` (64 for
    CTS, else 512); a list of batches or a TensorDataset is best, since the dense network's outputs are then computed
    once only. density: the fraction of prunable weights to keep, in (0, 1]. steps: length of the search (1960 by
    default). objective: the name of one in `tombola.objectives`; by default loss where the network has not learned
    anything yet, else reverse-kl. controller: ProportionalBalance by default. finder: another finder, in place of the
    four before it. include, exclude: glob patterns of parameter names; an exact name in `include` takes in what the
    rule leaves out. precision: "auto" (bf16 for convolutional models where the hardware has it), "32-true" or
    "bf16-mixed". held_out: data like `data` that the search does not see, on which its ticket is looked at. progress:
    show a bar.

    Returns a Ticket that keeps exactly floor(density * prunable + 1/2) weights. Issues a TicketWarning for each sign
    that something is off. Raises UsageError for input that cannot be used, SearchError when numbers break down.
    """
    checked = survey(model, include, exclude)
    count_kept(density, checked.prunable)
    _check_kind("task", task, Task)
    runtime = Runtime.choose(model, next(model.parameters()).device, precision)
    _check_seed(seed)
    if isinstance(finder, str | type):
        raise UsageError(f"finder must be an object such as tombola.Random(), got {finder!r}")
    if finder is not None and (steps, objective, controller) != (None, None, None):
        raise UsageError("finder excludes steps, objective and controller: give them to the finder itself")
    if batch_size is None:
        batch_size = usual_batch_size(CTS.name if finder is None else finder.name)
    _check_batch_size(batch_size)
    search = CTS(
        CTS.objective if objective is None else objective,
        CTS.steps if steps is None else steps,
        controller or CTS.controller,
    )
    feed = feed_of(data, seed, batch_size, most=search.steps)
    display = progress_on() if progress else Silent()
    held_out_feed = None if held_out is None else feed_of(held_out, seed, batch_size, name="held_out")
    asked = parts_asked(objective if finder is None else getattr(finder, "objective", None))
    task, spoilt = settle(model, checked.layout, task, (feed, held_out_feed), runtime, asked)
    runtime = runtime.trusted(spoilt, precision)
    if finder is None:
        finder = search
        if objective is None:
            finder = _with_default_objective(search, model, checked, task, feed, runtime, display)
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
        return _announced(finder.draw(problem, [density]))


def _check_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def _check_kind(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"{name} must be a tombola.{kind.__name__}, got {value!r}")


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed must be a whole number that is not negative, got {seed!r}")


def _with_default_objective(
    search: CTS, model: nn.Module, checked: Survey, task: Task, feed: Feed, runtime: Runtime, display: Progress
) -> CTS:
    return replace(search, objective=usual_objective(unwrap(model), checked.layout, task, feed, runtime, display))


def _announced(tickets: Iterator[Ticket]) -> Ticket:
    ticket = next(tickets)
    for sign in ticket.provenance.warnings if ticket.provenance else ():
        warnings.warn(sign, TicketWarning, stacklevel=3)
    return ticket


@dataclass(frozen=True)
class Sparsified:
    """A trained sparse model and its ticket; unpacks into these two.

    model: a plain copy of the user's model, pruned weights zero. ticket: the mask and where it comes from.
    held_out_metric: the task's metric on the held-out data (accuracy as a fraction).
    """

    model: nn.Module
    ticket: Ticket
    held_out_metric: float

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.ticket))


def sparsify(
    model: nn.Module,
    train: Iterable[Any],
    held_out: Iterable[Any],
    *,
    density: float,
    recipe: Recipe | None = None,
    rewind_to: int = 1,
    fit: TrainingFunction | None = None,
    finder: Finder | None = None,
    seed: int = 0,
    task: Task | None = None,
    include: Patterns = "*",
    exclude: Patterns = (),
    precision: str = "auto",
    batch_size: int = 128,
    progress: bool = True,
) -> Sparsified:
    """Train a model sparse from its present weights: pretrain, draw a ticket, train the ticket.

    model: any module; it is not changed. train, held_out: iterables of batches, or map-style torch Datasets, which are
    cut into batches of `batch_size`; the held-out ones are only measured on. density: the fraction of prunable weights
    to keep. recipe: how to train; by default 10 epochs of SGD. fit: a training function of your own in its place,
    called as fit(model, job) with a `tombola.Job` that says which epochs, and holds the ticket.
    rewind_to: epochs of dense training before the draw, from which the ticket's training goes on; 0 draws at the
    weights as they are, for a model that is trained already. finder: CTS by default. The rest as in `draw`.

    Returns the trained model and its ticket: `sparse, ticket = sparsify(...)`.
    """
    _check_kind("task", task, Task)
    _check_kind("recipe", recipe, Recipe)
    recipe = recipe or Recipe()
    if not 0 <= rewind_to < recipe.epochs:
        raise UsageError(
            f"rewind_to must lie between 0 and {recipe.epochs - 1}, the recipe's last epoch but one, got {rewind_to}"
        )
    _check_seed(seed)
    checked = survey(model, include, exclude)
    count_kept(density, checked.prunable)
    runtime = Runtime.choose(model, next(model.parameters()).device, precision)
    _check_batch_size(batch_size)
    if fit is not None and not callable(fit):
        raise UsageError(f"fit must be a function of (model, job), got {fit!r}")
    feed = feed_of(train, seed, batch_size, name="train")
    held_out_feed = feed_of(held_out, seed, batch_size, name="held_out")
    display = progress_on() if progress else Silent()
    asked = ("divergence",) if finder is None else parts_asked(getattr(finder, "objective", None))
    task, spoilt = settle(model, checked.layout, task, (feed, held_out_feed), runtime, ("loss", "metric", *asked))
    runtime = runtime.trusted(spoilt, precision)
    plain = unwrap(model)
    lesson = Lesson(plain, task, feed, held_out_feed, recipe, runtime, seed, display)
    lesson.say_unreached()
    store = MemoryStore()
    trainer = Trainer(lesson, State.of(plain), store, identity={}, own=fit and OwnFit(fit))
    weights = trainer.dense_at(rewind_to)
    if finder is None:
        start = load_weights(plain, weights.tensors)
        finder = _with_default_objective(CTS(), start, checked, task, feed, runtime, display)
    problem = Problem(
        model=plain,
        layout=checked.layout,
        task=task,
        feed=feed,
        weights=weights,
        seed=seed,
        runtime=runtime,
        at="rewind" if rewind_to else "given",
        store=store,
        progress=display,
        trainer=trainer,
        held_out=held_out_feed,
    )
    ticket = _announced(finder.draw(problem, [density]))
    trained = load_weights(plain, problem.fit(ticket).tensors)
    metric = evaluate(runtime.place(trained), task, held_out_feed, runtime).metric
    return Sparsified(trained.train(plain.training), ticket, metric)
