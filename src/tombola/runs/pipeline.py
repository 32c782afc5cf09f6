"""One cell, start to end: pretrain -> draw -> train -> evaluate; and its parts one by one."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tombola.core.cost import Cost
from tombola.core.measure import Measure
from tombola.core.parts import written_name
from tombola.core.progress import Progress
from tombola.core.ranks import ALONE, Ranks
from tombola.core.seeds import seeded
from tombola.errors import SearchError, UsageError
from tombola.finders import Finder, following, origin
from tombola.finders import draw as draw_ticket
from tombola.finders.problem import Problem
from tombola.networks.evaluation import Evaluation
from tombola.networks.models import load_into, read_weights
from tombola.networks.runtime import on_threads
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig, density_words
from tombola.runs.rundir import (
    DRAWN,
    FILES,
    TRAINED,
    claim_below,
    describe_run,
    epoch_of,
    is_whole,
    read_metrics,
    read_result,
    run_name,
    say_damage,
    store_below,
    ticket_name,
    write_scores,
    write_ticket,
    write_trained,
)
from tombola.sparse.channels import SILENCE_VERSION
from tombola.sparse.choice import first_inputs
from tombola.storage.files import read_json_object
from tombola.storage.leading import LedStore, led
from tombola.storage.store import CHECKPOINT_SECONDS, DiskStore
from tombola.ticket import Ticket
from tombola.ticket.formats import load_network
from tombola.trackers import Following, follow
from tombola.training import State
from tombola.training.trainer import Trainer


@dataclass(frozen=True)
class Result:
    """What a command found. directory: where it lies. values: the figures, with the places of the directory and the
    ticket. repeated: it was there."""

    directory: Path
    values: Mapping[str, Any]
    repeated: bool


def run(
    config: RunConfig,
    out: Path,
    progress: Progress,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    *,
    ranks: Ranks = ALONE,
) -> Result:
    """Run one cell below `out` and return its result; what is there already is not done again.

    ranks: processes that divide the work, all of which call this alike. Raises UsageError for a configuration that
    cannot be run, before anything is written.
    """
    disk = store_below(out, progress, checkpoint_seconds)
    store = led(disk, ranks)
    with (
        _claimed(config, out, store, ranks) as (cell, directory),
        _followed(cell.config, directory, disk, ranks) as following,
    ):
        repeated = ranks.given(lambda: is_whole(directory, FILES))
        if not repeated:
            # Also when files of a finished run are gone or damaged: the store has what they were made from.
            say_damage(directory, progress)
            drawn = _draw(cell, store, directory, progress, following)
            _train(drawn, directory)
        values = ranks.given(lambda: _told(directory, following))
        return Result(directory, _places(directory) | values, repeated)


def finished(directory: Path) -> Result | None:
    """Return the result of a run that is finished and whole, without its configuration; None of any other."""
    if not is_whole(directory, FILES):
        return None
    return Result(directory, _places(directory) | read_result(directory), repeated=True)


def draw(config: RunConfig, out: Path, progress: Progress, *, ranks: Ranks = ALONE) -> Result:
    """Do the first part of a run: pretrain and draw. The run directory is the one that `run` goes on with."""
    disk = store_below(out, progress)
    store = led(disk, ranks)
    with (
        _claimed(config, out, store, ranks) as (cell, directory),
        _followed(cell.config, directory, disk, ranks) as following,
    ):
        repeated = ranks.given(lambda: is_whole(directory, DRAWN))
        if not repeated:
            _draw(cell, store, directory, progress, following)
    ticket = ranks.given(lambda: Ticket.load(directory / "ticket.safetensors"))
    return Result(directory, _places(directory) | _ticket_values(ticket), repeated)


def fit(config: RunConfig, out: Path, progress: Progress) -> None:
    """Do all of a run but the evaluation beside the dense network: pretrain, draw, and train the ticket."""
    store = store_below(out, progress)
    with (
        _claimed(config, out, store, ALONE) as (cell, directory),
        _followed(cell.config, directory, store, ALONE) as following,
    ):
        if not is_whole(directory, FILES):
            drawn = _draw(cell, store, directory, progress, following)
            drawn.problem.fit(drawn.ticket, drawn.start)


def pretrain(config: RunConfig, out: Path, progress: Progress, epoch: int) -> None:
    """Train the dense network of a configuration to an epoch, for the runs below `out` that start there."""
    with _prepared(config) as cell:
        cell.trainer(store_below(out, progress), progress).dense_at(epoch)


def teach(config: RunConfig, out: Path, progress: Progress) -> None:
    """Store the dense network's outputs for the runs below `out` whose finders ask for them."""
    with _prepared(config) as cell:
        _finder(cell).teach(_problem(cell, store_below(out, progress), progress))


def advance(config: RunConfig, out: Path, progress: Progress, stages: int) -> None:
    """Do so many pieces of a finder's way to a density, for the runs below `out` of smaller ones."""
    with _prepared(config) as cell:
        problem = _problem(cell, store_below(out, progress), progress)
        with seeded(problem.seed, "draw", device=problem.runtime.device):
            _finder(cell).advance(following(config.finder, problem), config.density, stages)


@contextmanager
def _prepared(config: RunConfig, ranks: Ranks = ALONE) -> Iterator[Cell]:
    config = resolve(config)
    with on_threads(config.threads):
        yield Cell.prepare(config, ranks)


def _finder(cell: Cell) -> Finder:
    """Return a finder that shares work between densities, which one of the user's own with `draw` alone does not."""
    assert isinstance(cell.config.finder, Finder)
    return cell.config.finder


def _problem(cell: Cell, store: DiskStore, progress: Progress) -> Problem:
    trainer = cell.trainer(store, progress)
    return cell.problem(trainer.dense_at(cell.config.drawn_at), store, progress, trainer)


def train(
    config: RunConfig,
    ticket_file: Path,
    weights: Path | None,
    out: Path,
    progress: Progress,
    *,
    ranks: Ranks = ALONE,
) -> Result:
    """Train a ticket from a file, and evaluate it, in a run directory of its own below `out`.

    config: model, data and recipe. weights: what the ticket is trained from; without it, the model's initial weights,
    which must be those that the ticket was drawn at.
    """
    config = resolve(config)
    with on_threads(config.threads):
        cell = Cell.prepare(replace(config, weights=str(weights)) if weights else config, ranks)
        ticket = Ticket.load(ticket_file, cell.model)
        start = cell.start_of(ticket, weights is not None, epoch_of(weights))
        identity = {**cell.identity(), "ticket": ticket.digest, "epoch": start.epoch}
        if ticket.silent:
            identity["silent"] = SILENCE_VERSION
        name = f"trained-{ticket_name(ticket, config.seed)}"
        directory = ranks.given(lambda: claim_below(out, name, identity))
        disk = store_below(out, progress)
        store = led(disk, ranks)
        with store.lock(directory.name), _followed(config, directory, disk, ranks) as following:
            repeated = ranks.given(lambda: is_whole(directory, TRAINED))
            if not repeated:
                say_damage(directory, progress)
                following.watch("train")
                _train_alone(cell, ticket, start, cell.trainer(store, progress, ticket.silent), directory)
            values = ranks.given(lambda: _told(directory, following))
            return Result(directory, _places(directory) | values, repeated)


def _train_alone(cell: Cell, ticket: Ticket, start: State, trainer: Trainer, directory: Path) -> None:
    ranks = cell.runtime.ranks
    trainer.setup.say_beforehand()

    def begin() -> None:
        describe_run(directory, cell.config, TRAINED, ranks.size)
        write_ticket(directory, ticket, start)

    ranks.given(begin)
    trained = trainer.fit(ticket, start)
    test = cell.evaluate(trained, "test")
    values = _ticket_values(ticket) | {"seed": cell.config.seed, "seconds": trained.cost.seconds}
    values |= _measured(cell.task.measure, test)
    rows = trainer.ticket_entry(ticket, start).rows()
    ranks.given(lambda: write_trained(directory, trained, rows, values))


def evaluate_ticket(
    config: RunConfig, ticket_file: Path, weights: Path | None, split: str, run: Path | None, progress: Progress
) -> tuple[Evaluation, Measure]:
    """Evaluate weights under a ticket; return also what the metric is called.

    config: model and data. weights: a file with the model's state_dict, None where the ticket's file is a network's,
    which holds them. split: "test" or "held_out". run: the run directory that the ticket lies in, if it does; where
    its data are not these, that is said.
    """
    ticket, tensors = (
        load_network(ticket_file) if weights is None else (Ticket.load(ticket_file), read_weights(weights))
    )
    with on_threads(config.threads):
        cell = Cell.prepare(resolve(replace(config, weights=None)))
        identity = run / "identity.json" if run else None
        if identity and identity.is_file() and read_json_object(identity).get("data") != cell.data_identity():
            progress.say("these are not the data of the run: they are divided and standardised anew")
        model = copy.deepcopy(cell.model)
        load_into(model, tensors, weights or ticket_file)
        ticket.apply_(model)
        return cell.evaluate(State.of(model, base=cell.model), split), cell.task.measure


@contextmanager
def _claimed(config: RunConfig, out: Path, store: DiskStore | LedStore, ranks: Ranks) -> Iterator[tuple[Cell, Path]]:
    """Give the cell of a configuration and the run directory that is its own, on the configured threads.

    Another process that does the same waits, and then finds it done.
    """
    with _prepared(config, ranks) as cell:
        config = cell.config
        name = run_name(written_name(config.finder), config.density, config.seed)
        directory = ranks.given(lambda: claim_below(out, name, cell.identity()))
        with store.lock(directory.name):
            yield cell, directory


@contextmanager
def _followed(config: RunConfig, directory: Path, store: DiskStore, ranks: Ranks) -> Iterator[Following]:
    """Give what passes rows that the store gets on to the configured tracker, in the process that writes them."""
    if not ranks.leads:
        yield Following()
        return
    with follow(config.tracker, directory, config.to_dict(), store.say) as following:
        store.seen = following.see
        yield following


def _told(directory: Path, following: Following) -> dict[str, Any]:
    """Return what a run found, once whoever follows it knows all of it."""
    values = read_result(directory)
    following.catch_up(read_metrics(directory), values)
    return values


def _places(directory: Path) -> dict[str, Any]:
    return {"run_dir": str(directory), "ticket": str(directory / "ticket.safetensors")}


@dataclass(frozen=True)
class _Drawn:
    """A drawn ticket; where it was drawn, where its training starts, and what draws and trains.

    kept: the sparse network that the finder's own training left. further: what it took to get to the start, beyond the
    draw.
    """

    cell: Cell
    ticket: Ticket
    at: State
    start: State
    kept: State | None
    further: Cost
    problem: Problem
    trainer: Trainer
    rows: list[dict[str, Any]]


def _draw(cell: Cell, store: DiskStore | LedStore, directory: Path, progress: Progress, following: Following) -> _Drawn:
    config, ranks = cell.config, cell.runtime.ranks
    following.watch("dense", "draw")
    name = written_name(config.finder)
    progress.say(f"{name} ticket of density {density_words(config.density)} at {config.draw_at}, in {directory}")
    trainer = cell.trainer(store, progress)
    trainer.setup.say_beforehand()
    if cell.note:
        progress.say(cell.note)
    ranks.given(lambda: describe_run(directory, config, FILES, ranks.size))
    # Pretrain. A ticket is drawn at one point of the dense training and trained from another, or the same.
    drawn_at = trainer.dense_at(config.drawn_at)
    start = drawn_at if config.draw_at != "trained" else trainer.dense_at(config.rewind_to)
    # Draw.
    problem = cell.problem(drawn_at, store, progress, trainer)
    found = draw_ticket(config.finder, problem, config.density)
    start, further = origin(
        config.train_from,
        config.finder,
        problem,
        found,
        found.start or start,
        trainer.start,
        lambda: cell.initial_model(config.seed, "signs"),
    )

    def write() -> None:
        write_ticket(directory, found.ticket, start)
        write_scores(directory, found.ticket)

    ranks.given(write)
    following.watch("dense", "train")  # while a ticket is drawn, trainings are a finder's own
    return _Drawn(cell, found.ticket, drawn_at, start, found.kept, further, problem, trainer, found.rows)


def _train(drawn: _Drawn, directory: Path) -> None:
    cell, trainer = drawn.cell, drawn.trainer
    trained = drawn.problem.fit(drawn.ticket, drawn.start)
    dense = trainer.dense_at(cell.config.training.epochs)
    # Evaluate: the only look at the test data.
    sparse_test, dense_test = cell.evaluate(trained, "test"), cell.evaluate(dense, "test")
    rows = [
        *trainer.dense_entry().rows(),
        *drawn.rows,
        *trainer.ticket_entry(drawn.ticket, drawn.start).rows(),
    ]
    measure = cell.task.measure
    values = _values(drawn, trained, dense) | {
        **_measured(measure, sparse_test),
        measure.dense_test: _score(measure, dense_test),
        "dense_test_loss": dense_test.loss,
    }
    values["paths"] = _paths(drawn)
    if drawn.kept is not None:
        values["kept_weights"] = _kept_weights(cell, drawn.kept, dense)
    cell.runtime.ranks.given(lambda: write_trained(directory, trained, rows, values))


def _paths(drawn: _Drawn) -> dict[str, Any]:
    """Return effective nodes and paths of the ticket, or why they cannot be counted."""
    example = first_inputs(drawn.cell.task, drawn.problem.feed)
    try:
        return drawn.ticket.paths(drawn.cell.model, example).to_dict()
    except UsageError as error:
        return {"why": error.message}


def _kept_weights(cell: Cell, kept: State, dense: State) -> dict[str, Any]:
    """Return what the sparse network does that the finder's own training left; its cost is from θ₀ on, too."""
    test = cell.evaluate(kept, "test")
    return {
        cell.task.measure.test: _score(cell.task.measure, test),
        "test_loss": test.loss,
        "cost": kept.cost.to_dict(),
        "dense_equivalents": kept.cost.passes / dense.cost.passes if dense.cost.passes else None,
    }


def _measured(measure: Measure, found: Evaluation) -> dict[str, Any]:
    """Return what a result says of an evaluation on test data."""
    return {measure.test: _score(measure, found), "test_loss": found.loss, **measure.noted()}


def _score(measure: Measure, found: Evaluation) -> float:
    """Return the figure on test data; raises SearchError where it is no number, such as a constant's correlation."""
    if not math.isfinite(found.metric):
        raise SearchError(f"the {measure.name} on test data is {found.metric}, which no table has a place for")
    return measure.of(found.metric)


def _values(drawn: _Drawn, trained: State, dense: State) -> dict[str, Any]:
    so_far = drawn.problem.cost_so_far
    values = _ticket_values(drawn.ticket)
    training = trained.cost - drawn.start.cost
    # From θ₀ on, whether or not an entry of the store was shared with another run.
    total = Cost(**values["draw_cost"]) + drawn.further + training
    return values | {
        "seed": drawn.cell.config.seed,
        "trained_from": drawn.cell.config.train_from,
        "optimizer": written_name(drawn.cell.config.training.optimizer),
        "seconds": total.seconds,
        "cost": total.to_dict(),
        # A training function of the user's own may count no samples.
        "dense_equivalents": total.passes / dense.cost.passes if dense.cost.passes else None,
        "dense_seconds": dense.cost.seconds,
        "seconds_by_stage": {
            "pretraining": so_far.seconds,
            "draw": values["draw_cost"]["seconds"] - so_far.seconds,
            "ticket training": training.seconds,
        },
    }


def _ticket_values(ticket: Ticket) -> dict[str, Any]:
    """Return what is known of a ticket, as plain values; seconds are those of its draw, from θ₀ on."""
    provenance = ticket.provenance
    known: dict[str, Any] = {}
    if provenance is not None:
        known = {
            "finder": provenance.finder["name"],
            "objective": dict(provenance.objective),
            "teacher": provenance.teacher,
            "warnings": list(provenance.warnings),
            "seconds": provenance.cost.seconds,
            "draw_cost": provenance.cost.to_dict(),
        }
    return known | {
        "density": ticket.density,
        "kept": ticket.kept,
        "prunable": ticket.prunable,
        "kept_by_layer": ticket.kept_by_layer,
    }
