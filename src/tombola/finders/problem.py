"""Problem: everything that a finder may use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor, nn

from tombola.core.cost import Cost
from tombola.core.flat import Layout
from tombola.core.progress import Progress, Silent
from tombola.core.selection import VERSION as SELECTION_VERSION
from tombola.core.selection import Density, Selection
from tombola.data import Feed, Item
from tombola.errors import UsageError
from tombola.finders import diagnostics
from tombola.networks.masking import architecture, by_canonical_name
from tombola.networks.network import lacks_statistics, load_weights
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.networks.teacher import VERSION as TEACHER_VERSION
from tombola.sparse.choice import execution_identity
from tombola.storage.identity import digest
from tombola.storage.store import MemoryEntry, MemoryStore, Store, StoreEntry
from tombola.ticket import Ticket
from tombola.training import State, TrainingCallback
from tombola.training.trainer import Trainer


@dataclass(frozen=True)
class Problem:
    """A network at certain weights, data to search on, and the means to keep and train.

    model: gives the architecture and is never changed. layout: its prunable weights. weights: where the ticket
    starts: θ₀ ("init"), θ_k ("rewind"), θ_T ("trained") or what the user gave ("given"), which `at` says.
    feed: batches to search on. probe: batches of the same data on which any finder's ticket is looked at; those of
    `feed` without. held_out: batches that are only looked at. trainer: for finders that train; without
    one, `dense_at` and `fit` raise UsageError. entry: of the store, where the draw under way keeps checkpoints and
    metrics. identity: what a drawn ticket depends on beyond this object (the data).
    """

    model: nn.Module
    layout: Layout
    task: Task
    feed: Feed
    weights: State
    seed: int
    runtime: Runtime
    at: str = "given"
    store: Store = field(default_factory=MemoryStore)
    progress: Progress = field(default_factory=Silent)
    trainer: Trainer | None = None
    probe: Feed | None = None
    held_out: Feed | None = None
    entry: StoreEntry = field(default_factory=MemoryEntry)
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost_so_far(self) -> Cost:
        """What it took to get to `weights`."""
        return self.weights.cost

    @property
    def architecture(self) -> str:
        """Hash of the parameters' names and shapes."""
        return digest(architecture(self.model))

    def probe_batches(self) -> list[Item]:
        """Return the batches of the search's data on which a ticket is looked at."""
        return list(islice((self.probe or self.feed).epoch(0), diagnostics.BATCHES))

    @property
    def epochs(self) -> int:
        """Length of a whole training."""
        return self._trainer().setup.recipe.epochs

    @property
    def has_length(self) -> bool:
        """Whether the training data say how many batches an epoch has."""
        return self._trainer().setup.feed.length is not None

    def values_of(self, state: State) -> dict[str, Tensor]:
        """Return a state's values of all parameters by canonical name, on the CPU, where states lie."""
        return {n: p.detach().cpu() for n, p in by_canonical_name(load_weights(self.model, state.tensors)).items()}

    def network(self) -> nn.Module:
        """Return a private copy of the model at `weights`."""
        return load_weights(self.model, self.weights.tensors)

    def draw_entry(
        self, finder: Mapping[str, Any], density: Density | None, trains: bool = False, tickets: bool = False
    ) -> StoreEntry:
        """Return the entry for drawing one ticket with a finder, given by its identity.

        density: None for what tickets of all densities share. trains: whether the finder trains the weights. tickets:
        whether it does so under tickets, which train sparse or dense.
        """
        shapes = zip(self.layout.names, self.layout.shapes, strict=True)
        turned = [] if density is None else Selection(self.layout, density).turned
        return self.store.entry(
            "draw",
            {
                **self.identity,
                **({"training": digest(self._trainer().identity)} if trains else {}),
                **(execution_identity(self._trainer().setup.execution) if tickets else {}),
                # Gates that are trained under a summed loss went by its sum before.
                **({"gates": "by the mean"} if trains and self._trainer().setup.recipe.summed else {}),
                "finder": dict(finder),
                "density": dict(density) if isinstance(density, Mapping) else density,
                **({"turned": turned} if turned else {}),
                "weights": self.weights.digest,
                "at": self.at,
                "epoch": self.weights.epoch,
                "layout": {name: list(shape) for name, shape in shapes},
                "runtime": self.runtime.to_dict(),
                "seed": self.seed,
                "versions": {"selection": SELECTION_VERSION},
            },
        )

    def teacher_entry(self) -> StoreEntry:
        """Return the entry that remembers the network's outputs on the feed."""
        what: dict[str, Any] = {
            "weights": self.weights.digest,
            "architecture": self.architecture,
            "runtime": self.runtime.to_dict(),
        }
        if lacks_statistics(self.network()):
            what["seed"] = self.seed  # they are estimated on batches that the seed chooses
        return self.store.entry("teacher", {**self.identity, **what, "versions": {"teacher": TEACHER_VERSION}})

    def dense_at(self, epoch: int) -> State:
        """Return the dense network after `epoch` epochs of training from θ₀."""
        return self._trainer().dense_at(epoch)

    def fit(self, ticket: Ticket, start: State | None = None) -> State:
        """Return the network trained under a ticket, from `start` or from the problem's weights."""
        return self._trainer().fit(ticket, start or self.weights)

    def trajectory(self, ticket: Ticket | None, epochs: Sequence[int]) -> Iterator[State]:
        """Yield the network after several epochs, rising from the weights' own on, of one training from them."""
        return self._trainer().trajectory(ticket, self.weights, epochs)

    def fit_with(self, callback: TrainingCallback, entry: StoreEntry, title: str, epochs: int | None = None) -> State:
        """Return the network trained with a callback from the problem's weights to the last epoch.

        epochs: of a whole training in place of the recipe's.
        """
        return self._trainer().fit_with(callback, self.weights, entry, title, epochs)

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise UsageError(
                "this finder trains the network, which draw does not: use tombola.sparsify(..., finder=...)"
            )
        return self.trainer
