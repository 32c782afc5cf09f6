"""fit(): the one training loop, resumable at any step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tombola.core.cost import Cost, Meter
from tombola.core.measure import Measure
from tombola.core.plugins import explained
from tombola.core.seeds import GlobalState, seeded
from tombola.errors import SearchError, UsageError
from tombola.networks.evaluation import evaluate
from tombola.networks.network import explained_batches, explained_run, load_weights
from tombola.networks.shares import share_of
from tombola.networks.values import put_buffers, unsaved_buffers
from tombola.storage.store import StoreEntry
from tombola.ticket import Ticket
from tombola.training.buffers import SharedBuffers
from tombola.training.callback import TrainingCallback
from tombola.training.execution import execution_of
from tombola.training.optimizers import made_by
from tombola.training.rates import rates_beside, set_learning_rate
from tombola.training.setup import TrainingSetup
from tombola.training.state import State

# Raised when the same recipe trains otherwise.
VERSION = 4

UNFIT = "model cannot be run on a batch of the training data, though it could on the first"


def fit(
    setup: TrainingSetup,
    start: State,
    until: int,
    entry: StoreEntry,
    title: str,
    ticket: Ticket | None = None,
    callback: TrainingCallback | None = None,
) -> State:
    """Train from a state to the end of epoch `until`, dense or under a ticket, and return the new state.

    callback: what goes along with the training; a fresh one, whose state is restored where the training is continued.

    The entry keeps checkpoints and one row of metrics an epoch; a checkpoint found there is continued, bit for bit.
    Raises SearchError when the loss is no longer finite.
    """
    if until > setup.recipe.epochs:
        raise UsageError(f"epoch {until} lies beyond the training's {setup.recipe.epochs} epochs")
    with seeded(setup.seed, "training", device=setup.runtime.device):
        loop = Loop(setup, start, ticket, callback or TrainingCallback())
        reached = entry.resume()
        loop.restore(reached)
        if reached is not None and loop.epoch < until and not _came_to_an_end(entry, reached):
            setup.progress.say(f"{title}: goes on in epoch {loop.epoch + 1} of {until}")
        with setup.progress.track(title, until - start.epoch, loop.epoch - start.epoch) as tracker:
            while loop.epoch < until:
                loop.run_epoch(entry)
                row = loop.finish_epoch(title)
                entry.record(row)
                tracker.update(loop.epoch - start.epoch, _note(row, setup.task.measure))
        entry.checkpoint(loop.state())
        return State.of(loop.trained(), until, start.cost + loop.meter.read(), setup.model)


def _came_to_an_end(entry: StoreEntry, reached: Mapping[str, Any]) -> bool:
    """Whether a training was not stopped where its checkpoint stands, but was wanted that far and is stored."""
    return not reached["position"] and entry.get(f"epoch-{reached['epoch']}") is not None


def _note(row: Mapping[str, Any], measure: Measure) -> str:
    held_out = row["held_out_metric"]
    if held_out is None:
        return f"loss {row['loss']:.3f}"
    found = measure.of(held_out)
    return f"loss {row['loss']:.3f}, held-out " + (f"{found:.1f} %" if measure.in_percent else measure.shown(found))


class Loop:
    """The state of one training, all of it in one place."""

    def __init__(self, setup: TrainingSetup, start: State, ticket: Ticket | None, callback: TrainingCallback) -> None:
        self._setup, self._callback = setup, callback
        self.model = setup.in_training(setup.runtime.place(load_weights(setup.model, start.tensors)))
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UsageError("model has no parameter to train: all of them are frozen (requires_grad is False)")
        recipe = setup.recipe
        self._execution = execution_of(setup, self.model, ticket)
        self._runtime = self._execution.runtime
        self._optimizer = made_by(
            recipe.optimizer, self._execution.parameters(), recipe.learning_rate, recipe.weight_decay
        )
        self._beside = rates_beside(self._optimizer)
        self._execution.hold(self._optimizer)
        callback.begin(self._execution.network, setup.task)
        callback.stepped_by(self._optimizer)
        self.epoch = self._first = start.epoch
        self.meter = Meter()
        self._position = 0
        # Batches of the first epoch, for data that do not say how many they are.
        self._seen: int | None = None
        self._loss_sum = self._zero()
        self._counted = 0
        self._ranks = setup.runtime.ranks
        self._buffers = SharedBuffers(self._execution.network, self._ranks)

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        unsaved = {name: buffer for name, buffer in unsaved_buffers(self.model).items() if buffer is not None}
        return {
            **self._execution.state(self._optimizer),
            **({"unsaved": unsaved} if unsaved else {}),
            "callback": self._callback.state(),
            "epoch": self.epoch,
            "position": self._position,
            "seen": self._seen,
            "buffers": self._buffers.state(),
            "loss_sum": self._loss_sum,
            "samples": self._counted,
            "generators": GlobalState.now(self._setup.runtime.device).to_dict(),
            "cost": self.meter.read().to_dict(),
        }

    def trained(self) -> nn.Module:
        """Return the model with the values that it has now."""
        return self._execution.plain()

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Continue from an earlier `state()`."""
        if state is None:
            return
        self._execution.restore(state, self._optimizer)
        put_buffers(self.model, state.get("unsaved", {}))  # older checkpoints lack them
        self._callback.restore(state["callback"])
        self.epoch, self._position = state["epoch"], state["position"]
        self._seen = state.get("seen")  # checkpoints of data that say their length may be older than it
        self._buffers.restore(state.get("buffers"))  # and others than buffers
        self._loss_sum, self._counted = state["loss_sum"].to(self._setup.runtime.device, copy=True), state["samples"]
        GlobalState.from_dict(state["generators"]).restore(self._setup.runtime.device)
        self.meter = Meter(Cost(**state["cost"]))

    def run_epoch(self, entry: StoreEntry) -> None:
        """Take the steps that are left in the present epoch."""
        setup = self._setup
        for item in setup.feed.epoch(self.epoch, self._position):
            learning_rate = setup.recipe.learning_rate_at(self.epoch + self._within())
            set_learning_rate(self._optimizer, learning_rate, self._beside)
            share = share_of(item, setup.task, self._runtime)
            with (
                self._buffers.noticed(),
                self._ranks.apart(setup.seed, "step", self.epoch, self._position, device=self._runtime.device),
                self._runtime.autocast(),
                explained_run(UNFIT),
                explained_batches(),
            ):
                output = self._callback.forward(share.batch, self._share())
            loss = setup.task.loss(output, share.batch) * share.portion.of_counted
            self._optimizer.zero_grad(set_to_none=True)
            counted = share.counted
            (loss * counted if setup.recipe.summed else loss).backward()
            loss = self._ranks.combine(
                [*self._execution.parameters(), *self._callback.leaves()], self._buffers.tensors(), loss.detach()
            )
            if setup.recipe.summed and counted:
                for leaf in self._callback.leaves():  # gates go by the mean, whose rates and prices are theirs
                    leaf.grad = None if leaf.grad is None else leaf.grad / counted
            if setup.recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), setup.recipe.clip_norm)
            with explained("optimizer", type(self._optimizer).__name__, "failed in its step"):
                self._optimizer.step()
            self._count(share.samples, counted, loss)
            self._callback.after_step(self._share())
            if entry.due():
                entry.checkpoint(self.state())

    def _share(self) -> float:
        """Return the share of the training that is done; of a first epoch of unknown length, what was done before."""
        return (self.epoch - self._first + self._within()) / (self._setup.recipe.epochs - self._first)

    def _within(self) -> float:
        """Return the share of the present epoch that is done, 0 in the first where the data do not say their length."""
        length = self._setup.feed.length or self._seen
        return min(self._position / length, 1.0) if length else 0.0

    def _count(self, samples: int, counted: int, loss: torch.Tensor) -> None:
        self._position += 1
        self._counted += counted
        self._loss_sum += loss.detach().double() * counted
        self.meter.count(forward=samples, backward=samples)

    def finish_epoch(self, title: str) -> dict[str, Any]:
        """Close the epoch and return its row of metrics."""
        setup, held_out = self._setup, None
        loss = self._ranks.given(lambda: self._mean_loss(title))
        if setup.held_out is not None:
            held_out = evaluate(self._callback.evaluated(), setup.task, setup.held_out, self._runtime)
        row = {
            "stage": title,
            "epoch": self.epoch + 1,
            "learning_rate": setup.recipe.learning_rate_at(self.epoch),
            "loss": loss,
            "held_out_loss": held_out and held_out.loss,
            "held_out_metric": held_out and held_out.metric,
            **self._ranks.given(self._callback.row),
        }
        self._seen = self._seen or self._position
        self.epoch, self._position, self._counted = self.epoch + 1, 0, 0
        self._loss_sum = self._zero()
        return row

    def _zero(self) -> torch.Tensor:
        """Return the sum of no losses, on the device: a look at each step's would wait for it."""
        return torch.zeros((), dtype=torch.float64, device=self._setup.runtime.device)

    def _mean_loss(self, title: str) -> float:
        """Return the epoch's; raises SearchError where it is no number."""
        if not self._counted:
            raise UsageError("training data gave no batch, or none with a target that counts")
        loss = float(self._loss_sum) / self._counted
        if not math.isfinite(loss):
            raise SearchError(
                f"{title}: the loss is {loss} in epoch {self.epoch + 1}; lower the learning rate "
                f"(it is {self._setup.recipe.learning_rate})"
            )
        return loss
