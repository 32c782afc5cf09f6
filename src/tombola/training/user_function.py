"""Training by a function of the user's own, in place of our loop."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.core.cost import Meter
from tombola.core.seeds import seeded
from tombola.errors import SearchError, UsageError
from tombola.networks.evaluation import evaluate
from tombola.networks.masking import Attachment, by_canonical_name
from tombola.networks.network import load_weights
from tombola.networks.task import Batch
from tombola.storage.store import StoreEntry
from tombola.ticket import Ticket
from tombola.training.recipe import Recipe
from tombola.training.setup import TrainingSetup
from tombola.training.state import State


@dataclass(frozen=True)
class Job:
    """What a training function is asked to do; it trains the model that it is given, in place.

    epochs: those to train, counted from 0; a ticket's begin at its rewind point. recipe: the configured one, whose
    `epochs` is the length of a whole training. seed: of the run, by which the global generators of torch, numpy and
    Python are seeded already. device: where model and batches lie. ticket: what to hold, or None for the dense network.
    """

    epochs: range
    recipe: Recipe
    seed: int
    device: torch.device
    ticket: Ticket | None
    _batches: Callable[[int], Iterator[Batch]] = field(repr=False)
    _start: State = field(repr=False)
    _masks: Mapping[str, Tensor] = field(repr=False)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Give one epoch's training batches, on the device, in an order that depends on seed and epoch alone."""
        return self._batches(epoch)

    def hold(self, model: nn.Module, *optimizers: Optimizer) -> None:
        """Keep the ticket's pruned weights at zero through every step of the optimisers; nothing when dense.

        Raises UsageError when the model was trained before.
        """
        if not self._start.is_of(model):
            raise UsageError("the training function must call job.hold before its first step, not after", option="fit")
        if self.ticket is not None:
            Attachment(model, optimizers, self._masks)


TrainingFunction = Callable[[nn.Module, Job], Any]


@dataclass(frozen=True)
class UserFit:
    """Trains by a user's function; what it was interrupted in is begun anew, from its start."""

    function: TrainingFunction

    def __call__(
        self,
        setup: TrainingSetup,
        start: State,
        until: int,
        entry: StoreEntry,
        title: str,
        ticket: Ticket | None = None,
    ) -> State:
        """Return the state after the function has trained up to the end of epoch `until`.

        Raises UsageError when it left pruned weights that are not zero, or changed the model's names.
        """
        entry.resume()  # cuts the journal back
        epochs, meter = range(start.epoch, until), Meter()
        with (
            seeded(setup.seed, "training", device=setup.runtime.device),
            setup.progress.track(title, len(epochs)) as tracker,
        ):
            model = setup.in_training(setup.runtime.place(load_weights(setup.model, start.tensors)))
            masks = setup.held(ticket)

            def batches(epoch: int) -> Iterator[Batch]:
                # After the function's first epoch, not after hours; before its first step there is nothing to see.
                if not start.is_of(model):
                    _check_held(model, masks)
                tracker.update(epoch - start.epoch)
                for item in setup.feed.epoch(epoch):
                    samples = setup.task.samples(item.batch)
                    meter.count(forward=samples, backward=samples)
                    yield setup.runtime.move(item.batch)

            job = Job(epochs, setup.recipe, setup.seed, setup.runtime.device, ticket, batches, start, masks)
            returned = self.function(model, job)
            if isinstance(returned, nn.Module) and returned is not model:
                raise UsageError(
                    "the training function must train its model in place; it returned another one", option="fit"
                )
            tracker.update(len(epochs))
        self._check(setup.model, model, masks)
        cost = start.cost + meter.read()
        row: dict[str, Any] = {"stage": title, "epoch": until}
        if setup.held_out is not None:
            found = evaluate(model, setup.task, setup.held_out, setup.runtime)
            row |= {"held_out_loss": found.loss, "held_out_metric": found.metric}
        entry.record(row)
        return State.of(model, until, cost, setup.model)

    @staticmethod
    def _check(before: nn.Module, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        if list(before.state_dict()) != list(model.state_dict()):
            raise UsageError(
                "the training function changed the names of the model's parameters or buffers", option="fit"
            )
        parameters = by_canonical_name(model)
        for name, parameter in parameters.items():
            if not torch.isfinite(parameter).all():
                raise SearchError(f"fit: after the training function, {name} is no longer finite (NaN or infinity)")
        _check_held(model, masks)


def _check_held(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise UsageError where a model that was trained has pruned weights that are not zero."""
    parameters = by_canonical_name(model)
    for name, mask in masks.items():
        revived = int(parameters[name].detach().cpu()[~mask].count_nonzero())
        if revived:
            raise UsageError(
                f"the training function left {revived:,} pruned weights of {name} that are not zero; "
                "call job.hold(model, optimizer) before the first step",
                option="fit",
            )
