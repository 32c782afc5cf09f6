"""One cell, start to end: pretrain -> draw -> train -> evaluate."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tombola.cell import Cell, make_finder, resolve
from tombola.config import RunConfig
from tombola.errors import UsageError
from tombola.evaluation import Evaluation
from tombola.finders import describe
from tombola.identity import digest
from tombola.models import load_into, read_weights
from tombola.progress import Progress
from tombola.rundir import describe_run, is_whole, write_run
from tombola.store import CHECKPOINT_SECONDS, DiskStore, claim, read_json, write_json
from tombola.ticket import Ticket
from tombola.training import State


@dataclass(frozen=True)
class Result:
    """What a run found. directory: where it lies. values: its result.json, with the places of
    the directory and the ticket. repeated: it was there."""

    directory: Path
    values: Mapping[str, Any]
    repeated: bool


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
        try:
            claim(directory, identity)
        except OSError as error:
            raise UsageError(f"--out {out} cannot be written to: {error.strerror}") from error
        places = {"run_dir": str(directory), "ticket": str(directory / "ticket.safetensors")}
        repeated = is_whole(directory)
        if not repeated:
            # Also when files of a finished run are gone: the store has what they were made from.
            describe_run(directory, cell.config)
            _execute(cell, DiskStore(out / "store", checkpoint_seconds), directory, progress)
        return Result(directory, places | read_json(directory / "result.json"), repeated)


def _execute(cell: Cell, store: DiskStore, directory: Path, progress: Progress) -> None:
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
    values = _values(cell, ticket, drawn_at, start, trained, dense)
    values |= {
        "test_accuracy": 100 * sparse_test.metric,
        "test_loss": sparse_test.loss,
        "dense_test_accuracy": 100 * dense_test.metric,
        "dense_test_loss": dense_test.loss,
    }
    write_run(directory, ticket, start, trained, rows)
    write_json(directory / "result.json", values)


def _values(cell: Cell, ticket: Ticket, drawn_at: State, start: State, trained: State, dense: State) -> dict[str, Any]:
    provenance = ticket.provenance
    assert provenance is not None  # every finder writes one
    training = trained.cost.seconds - start.cost.seconds
    return {
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

    weights: a file with the model's state_dict. split: "test" or "held_out".
    """
    tensors = read_weights(weights)
    with _threads(config.threads):
        cell = Cell.prepare(resolve(config))
        model = copy.deepcopy(cell.model)
        load_into(model, tensors, weights)
        Ticket.load(directory / "ticket.safetensors", model).apply_(model)
        return cell.evaluate(State.of(model), split)
