"""Problem: everything that a finder may use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from torch import Tensor, nn

from tombola.core.cost import Cost
from tombola.core.flat import Layout
from tombola.core.parts import identify
from tombola.core.progress import Progress, Silent
from tombola.core.selection import VERSION as SELECTION_VERSION
from tombola.core.selection import Density, Selection
from tombola.data import Feed, Item
from tombola.errors import UsageError
from tombola.finders import diagnostics
from tombola.networks.evaluation import VERSION as EVALUATION_VERSION
from tombola.networks.masking import architecture, by_canonical_name
from tombola.networks.network import lacks_statistics, load_weights
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.networks.teacher import VERSION as TEACHER_VERSION
from tombola.sparse.channels import SILENCE_VERSION
from tombola.sparse.choice import execution_identity
from tombola.storage.identity import digest
from tombola.storage.store import MemoryEntry, MemoryStore, Store, StoreEntry
from tombola.ticket import Ticket
from tombola.training import VERSION as TRAINING_VERSION
from tombola.training import Fit, State, TrainingCallback, TrainingSetup, fit, still_identity


class Trainer:
    """Trains one network, dense or under tickets; what is trained once lies in the store.

    setup: network, data and recipe. start: θ₀. store: where results and checkpoints lie. identity: what the results
    depend on beyond the recipe, the seed, the start and the ticket (the data). own: what trains in place of fit().
    """

    def __init__(
        self, setup: TrainingSetup, start: State, store: Store, identity: Mapping[str, Any], own: Fit | None = None
    ) -> None:
        if own is not None and setup.runtime.ranks.size > 1:
            raise UsageError("trains in its own way, which divides no batches over processes; take one", option="fit")
        self.setup = setup
        self.start = start
        self._store = store
        self._own = own
        self.identity: dict[str, Any] = {
            **identity,
            "architecture": architecture(setup.model),
            "recipe": identify(setup.recipe),
            "runtime": setup.runtime.to_dict(),
            "seed": setup.seed,
            "versions": {"training": TRAINING_VERSION, "evaluation": EVALUATION_VERSION},
            # Trainings on data that do not say their length were others before they remembered it.
            **({"length": "seen"} if setup.feed.length is None else {}),
            **still_identity(setup.model),
        }

    def dense_entry(self) -> StoreEntry:
        """Return the entry of the dense training from θ₀."""
        return self._store.entry("dense", {**self.identity, "start": self.start.digest})

    def dense_at(self, epoch: int) -> State:
        """Return the dense network after `epoch` epochs: one run, continued as far as anybody asks."""
        if epoch == 0:
            return self.start
        entry = self.dense_entry()
        # Looked for before the lock: another process may hold that for hours, training on from here.
        stored = entry.get(f"epoch-{epoch}") or self._dense_to(entry, epoch)
        return State.from_dict(stored)

    def _dense_to(self, entry: StoreEntry, epoch: int) -> dict[str, Any]:
        with entry.locked():
            stored: dict[str, Any] | None = entry.get(f"epoch-{epoch}")
            if stored is None:
                stored = self._train_dense(entry, epoch).to_dict()
                entry.put(f"epoch-{epoch}", stored)
                if epoch == self.setup.recipe.epochs:
                    entry.clear_checkpoint()
        return stored

    def _train_dense(self, entry: StoreEntry, epoch: int) -> State:
        finished = entry.get(f"epoch-{self.setup.recipe.epochs}") is not None
        reached = None if finished else entry.resume()
        beyond = finished or (reached is not None and (reached["epoch"], reached["position"]) > (epoch, 0))
        # An epoch that the stored run has passed is trained again beside it, to the same values.
        where = MemoryStore().entry("dense", {}) if beyond else entry
        return (self._own or fit)(self.setup, self.start, epoch, where, "dense training", None)

    def ticket_entry(
        self, ticket: Ticket | None, start: State, kind: str = "train", further: Mapping[str, Any] | None = None
    ) -> StoreEntry:
        """Return the entry of a ticket's training, or of something else about it; None is the dense network.

        further: what that depends on beyond the training.
        """
        what: dict[str, Any] = {
            "start": start.digest,
            "epoch": start.epoch,
            "ticket": ticket.digest if ticket else "none",
            **(execution_identity(self.setup.execution) if ticket else {}),
            **({"silent": SILENCE_VERSION} if ticket and self.setup.silent else {}),
        }
        return self._store.entry(kind, {**self.identity, **what, **(further or {})})

    def fit(self, ticket: Ticket, start: State) -> State:
        """Return the network after training under a ticket, from `start` to the recipe's last epoch."""
        entry = self.ticket_entry(ticket, start)
        with entry.locked():
            stored = entry.get("trained")
            if stored is None:
                stored = self._train(start, self.setup.recipe.epochs, entry, "ticket training", ticket)
                entry.put("trained", stored)
                entry.clear_checkpoint()
        return _after(start, stored)

    def trajectory(self, ticket: Ticket | None, start: State, epochs: Sequence[int]) -> Iterator[State]:
        """Yield the network after several epochs of one training, rising from that of `start` on; None: dense.

        What is yielded is stored, so that a trajectory that was stopped goes on where it was.
        """
        entry = self.ticket_entry(ticket, start, "course")
        for epoch in epochs:
            with entry.locked():
                stored = entry.get(f"epoch-{epoch}")
                if stored is None:
                    title = f"course of the {'ticket' if ticket else 'dense network'}"
                    stored = self._train(start, epoch, entry, title, ticket)
                    entry.put(f"epoch-{epoch}", stored)
            yield _after(start, stored)

    def _train(self, start: State, until: int, entry: StoreEntry, title: str, ticket: Ticket | None) -> dict[str, Any]:
        """Return the trained state for the store, with the cost of this training alone.

        The way to `start` may have cost others who share the state something else.
        """
        state = (self._own or fit)(self.setup, start, until, entry, title, ticket)
        return replace(state, cost=state.cost - start.cost).to_dict()

    def fit_with(
        self, callback: TrainingCallback, start: State, entry: StoreEntry, title: str, epochs: int | None = None
    ) -> State:
        """Return the network after a training with a callback, from `start` to the last epoch.

        entry: keeps checkpoints and metrics. epochs: of a whole training in place of the recipe's. Raises UsageError
        where a training function of the user's own trains.
        """
        if self._own is not None:
            raise UsageError(
                "this finder trains weights and masks together, by the recipe; leave fit out", option="fit"
            )
        recipe = self.setup.recipe.stretched(epochs or self.setup.recipe.epochs)
        return fit(replace(self.setup, recipe=recipe), start, recipe.epochs, entry, title, callback=callback)


def _after(start: State, stored: Mapping[str, Any]) -> State:
    """Return what `Trainer._train` made of `start`, with what it took from θ₀ on."""
    found = State.from_dict(stored)
    return replace(found, cost=start.cost + found.cost)


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
