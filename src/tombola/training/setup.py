"""TrainingSetup: everything that trainings of one network on one set of data share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tombola.core.progress import Progress
from tombola.data import Feed
from tombola.errors import UsageError, the_first
from tombola.networks.network import still_layers
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.sparse.channels import silenced
from tombola.sparse.choice import first_inputs
from tombola.storage.identity import digest
from tombola.storage.store import StoreEntry
from tombola.ticket import Ticket
from tombola.training.recipe import Recipe
from tombola.training.state import State


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that trainings of one network on one set of data share.

    execution: how tickets are trained, "dense" or "sparse". silent: whether channels that a ticket leaves without input
    are held at zero, biases and normalisation included.
    """

    model: nn.Module
    task: Task
    feed: Feed
    held_out: Feed | None
    recipe: Recipe
    runtime: Runtime
    seed: int
    progress: Progress
    execution: str = "dense"
    silent: bool = False

    def in_training(self, model: nn.Module) -> nn.Module:
        """Put a copy of the model into training mode, and return it; layers that are kept in eval mode stay so."""
        model.train()
        for name in still_layers(self.model):
            model.get_submodule(name).training = False
        return model

    def silenced(self, ticket: Ticket) -> dict[str, Tensor]:
        """Return what is held at zero beside a ticket's weights: masks of biases, scales and shifts, (C,), by name."""
        if not self.silent:
            return {}
        try:
            return silenced(self.model, ticket, first_inputs(self.task, self.feed))
        except UsageError as error:
            self.progress.say(f"biases and normalisation of pruned channels train on: {error.message}")
            return {}

    def held(self, ticket: Ticket | None) -> dict[str, Tensor]:
        """Return masks of all that a training under a ticket holds at zero, by name; none without a ticket."""
        return {} if ticket is None else {**ticket, **self.silenced(ticket)}

    def say_beforehand(self) -> None:
        """Name the milestones that the training ends before, and layers that it leaves in eval mode."""
        still = still_layers(self.model)
        if still:
            self.progress.say(f"as given, these layers stay in eval mode: {the_first(still)}")
        epochs = self.recipe.epochs
        late = [str(milestone) for milestone in self.recipe.milestones if milestone >= epochs]
        if late:
            self.progress.say(f"no drop of the learning rate at milestones {', '.join(late)}: epochs is {epochs}")


def still_identity(model: nn.Module) -> dict[str, Any]:
    """Return what of a model's modes belongs to the name of a result: nothing where all layers are in the same."""
    still = still_layers(model)
    return {"still": digest(still)} if still else {}


# Trains from a state to the end of an epoch, dense or under a ticket; the text names the work for progress and journal.
Fit = Callable[[TrainingSetup, State, int, StoreEntry, str, Ticket | None], State]
