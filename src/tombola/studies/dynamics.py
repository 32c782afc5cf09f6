"""How far a ticket's training follows the dense network's (the question in the title of arXiv 2512.07142)."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola.core.controllers import norm
from tombola.core.progress import Progress
from tombola.core.seeds import seeded
from tombola.data import Item
from tombola.finders.problem import Problem
from tombola.networks.network import FrozenNetwork, load_weights
from tombola.networks.runtime import on_threads
from tombola.objectives import MaskedBatch
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig
from tombola.runs.rundir import store_below
from tombola.ticket import Ticket
from tombola.training import State

# Points of a training that are looked at, the start not counted; a short training is looked at after every epoch.
POINTS = 20


@dataclass(frozen=True)
class DynamicsPoint:
    """Sparse and dense network after as many epochs each, on the same batches, normalised by batch statistics.

    kl: of the sparse outputs from the dense ones, KL(sparse || dense), in nats. cosine: between the gradients of the
    loss in the weights that the ticket keeps.
    """

    epoch: int
    kl: float
    cosine: float


def follow(config: RunConfig, directory: Path, out: Path, progress: Progress) -> list[DynamicsPoint]:
    """Train a run's ticket and the dense network from the same weights, side by side, and compare them on the way.

    directory: of a run with a ticket. Both trainings take the same batches in the same order. Batches to compare on
    are training samples as the search sees them. What was measured before lies in the store below `out`.
    """
    config = resolve(config)
    with on_threads(config.threads):
        cell = Cell.prepare(replace(config, weights=str(directory / "start.safetensors")))
        ticket = Ticket.load(directory / "ticket.safetensors", cell.model)
        start = cell.start_of(ticket, given=True)
        store = store_below(out, progress)
        trainer = cell.trainer(store, progress)
        problem = cell.problem(start, store, progress, trainer)
        # Beside the training, what is measured depends on the search's batches and on where they run.
        seen = {"problem": dict(problem.identity), "runtime": problem.runtime.to_dict()}
        entry = trainer.ticket_entry(ticket, start, "dynamics", seen)
        with entry.locked():
            found = entry.get("moments")
            if found is None:
                items = problem.probe_batches()
                measured = _measured(problem, ticket, items, _epochs(start.epoch, config.training.epochs))
                found = [asdict(point) for point in measured]
                entry.put("moments", found)
        return [DynamicsPoint(**values) for values in found]


def _epochs(first: int, last: int) -> list[int]:
    every = -(-(last - first) // POINTS)
    return sorted({*range(first, last, every), last})


def _measured(problem: Problem, ticket: Ticket, items: list[Item], epochs: list[int]) -> Iterator[DynamicsPoint]:
    trajectories = problem.trajectory(None, epochs), problem.trajectory(ticket, epochs)
    mask = problem.layout.flatten(ticket)
    for epoch, dense, sparse in zip(epochs, *trajectories, strict=True):
        with seeded(problem.seed, "dynamics", device=problem.runtime.device):
            point = compare(problem, dense, sparse, mask, items, epoch)
        yield point


def compare(
    problem: Problem, dense: State, sparse: State, mask: Tensor, items: list[Item], epoch: int
) -> DynamicsPoint:
    """Return how two networks agree on some batches; mask: flat, of the weights whose gradients are compared."""
    networks = [_frozen(problem, state.tensors) for state in (dense, sparse)]
    gradients = [torch.zeros_like(network.weights, dtype=torch.float64) for network in networks]
    divergence = counted = 0.0
    for item in items:
        batch = problem.runtime.move(item.batch)
        size = problem.task.counted(batch)
        outputs = [network.dense(batch) for network in networks]
        divergence += float(problem.task.divergence(outputs[1], outputs[0], batch)) * size
        for total, network in zip(gradients, networks, strict=True):
            masked = MaskedBatch(network, problem.task, mask, item, batch)
            total += size * masked.gradient(network, None).double()
        counted += size
    chosen = [gradient[mask.to(gradient.device)] for gradient in gradients]
    lengths = float(norm(chosen[0]) * norm(chosen[1]))
    cosine = float(chosen[0] @ chosen[1]) / lengths if lengths else 0.0
    return DynamicsPoint(epoch, divergence / counted, cosine)


def _frozen(problem: Problem, tensors: Mapping[str, Any]) -> FrozenNetwork:
    model = load_weights(problem.model, tensors)
    network = FrozenNetwork(model, problem.layout, problem.task, problem.runtime)
    network.use_batch_statistics()
    return network
