"""TrainingCallback: what goes along with a training of the weights, such as masks that change or logits that learn."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.networks.task import Batch, Output, Task


class TrainingCallback:
    """Goes along with one training; this one does nothing.

    `share` is always the share of the training that is done, in [0, 1]; where the data do not say their length it
    stands still in the first epoch, whose length the others are taken to have.
    """

    model: nn.Module
    task: Task

    def begin(self, model: nn.Module, task: Task) -> None:
        """Get to know the model that is about to be trained, on its device, before its first step."""
        self.model, self.task = model, task

    def stepped_by(self, optimizer: Optimizer) -> None:
        """Get to know the optimiser of the weights, before its first step."""

    def forward(self, batch: Batch, share: float) -> Output:
        """Run the model on a batch; the loss of what this returns is followed backward."""
        return self.task.forward(self.model, batch)

    def leaves(self) -> list[Tensor]:
        """Return tensors of its own in which backward has left gradients, which ranks that divide a batch add up."""
        return []

    def after_step(self, share: float) -> None:
        """Do what follows a step of the weights; their gradients, and one's own, are still there."""

    def evaluated(self) -> nn.Module:
        """Return the network that held-out figures are measured on."""
        return self.model

    def row(self) -> dict[str, Any]:
        """Return figures for an epoch's row of metrics."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""
