"""Trainer: trains one network, dense or under tickets, and keeps what it trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tombola.core.parts import identify
from tombola.errors import UsageError
from tombola.networks.evaluation import VERSION as EVALUATION_VERSION
from tombola.networks.masking import architecture
from tombola.sparse.channels import SILENCE_VERSION
from tombola.sparse.choice import execution_identity
from tombola.storage.store import MemoryStore, Store, StoreEntry
from tombola.ticket import Ticket
from tombola.training.callback import TrainingCallback
from tombola.training.loop import VERSION as TRAINING_VERSION
from tombola.training.loop import fit
from tombola.training.setup import Fit, TrainingSetup, still_identity
from tombola.training.state import State


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
