"""How a network is trained: as it is, or sparse, by its kept weights alone."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.errors import UsageError
from tombola.networks.masking import hold
from tombola.networks.runtime import Runtime
from tombola.sparse.choice import first_inputs
from tombola.sparse.rules import is_mostly_dense
from tombola.ticket import Ticket
from tombola.training.setup import TrainingSetup


class Execution(Protocol):
    """What the loop trains, and how that becomes the plain model again. Checkpoints are of the plain model."""

    network: nn.Module
    runtime: Runtime

    def parameters(self) -> list[Tensor]:
        """Return what the optimiser steps, in the model's order."""

    def hold(self, optimizer: Optimizer) -> None:
        """Keep pruned weights at zero from now on."""

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the plain model's state and its optimiser's."""

    def restore(self, state: Mapping[str, Any], optimizer: Optimizer) -> None:
        """Continue from an earlier `state()`."""

    def plain(self) -> nn.Module:
        """Return the plain model with the present values."""


class DenseExecution:
    """The model itself, its pruned weights held at zero."""

    def __init__(self, setup: TrainingSetup, model: nn.Module, ticket: Ticket | None) -> None:
        self.network, self.runtime = model, setup.runtime
        self._masks = setup.held(ticket)

    def parameters(self) -> list[Tensor]:
        """Return the model's parameters."""
        return list(self.network.parameters())

    def hold(self, optimizer: Optimizer) -> None:
        """Hold the ticket's masks, if there is one."""
        if self._masks:
            hold(self.network, optimizer, self._masks)

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the model's state and the optimiser's."""
        return {"model": self.network.state_dict(), "optimizer": optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any], optimizer: Optimizer) -> None:
        """Continue from an earlier `state()`."""
        self.network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def plain(self) -> nn.Module:
        """Return the model."""
        return self.network


class SparseExecution:
    """The kept weights alone, in float32 on the CPU."""

    def __init__(self, setup: TrainingSetup, model: nn.Module, ticket: Ticket) -> None:
        from tombola.sparse.network import SparseNetwork
        from tombola.sparse.tracing import Untraceable

        self.runtime = setup.runtime.in_full_precision()
        example = first_inputs(setup.task, setup.feed)
        self._ticket, self._silenced = ticket, setup.silenced(ticket)
        try:
            self._sparse = SparseNetwork(ticket.apply_(model), ticket, example[:2])
        except Untraceable as error:
            raise UsageError(f"cannot be sparse: {error}", option="execution") from error
        self.network: nn.Module = self._sparse

    @property
    def is_mostly_dense(self) -> bool:
        """Whether layers that run dense would have most of the work: then the whole network had better."""
        return is_mostly_dense(self._sparse.costs)

    def parameters(self) -> list[Tensor]:
        """Return the kept values, and the parameters that have no mask."""
        return list(self._sparse.trained_parameters())

    def hold(self, optimizer: Optimizer) -> None:
        """Hold the masks of layers that run dense; the others have no pruned weights."""
        masks = {name: self._ticket[name] for name in self._sparse.left_dense} | self._silenced
        if masks:
            hold(self._sparse.dense, optimizer, masks)

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the plain model's state, and the optimiser's as if it stepped that."""
        return {
            "model": self.plain().state_dict(),
            "optimizer": self._sparse.dense_state(optimizer.state_dict()),
        }

    def restore(self, state: Mapping[str, Any], optimizer: Optimizer) -> None:
        """Continue from an earlier `state()`."""
        self._sparse.dense.load_state_dict(state["model"])
        self._sparse.read()
        optimizer.load_state_dict(self._sparse.sparse_state(state["optimizer"]))

    def plain(self) -> nn.Module:
        """Return the plain model with the kept values in it, and zeros."""
        return self._sparse.write_back()


def execution_of(setup: TrainingSetup, model: nn.Module, ticket: Ticket | None) -> Execution:
    """Return how a model, which is ours to change, is trained under a ticket or none."""
    if ticket is not None and setup.execution == "sparse":
        sparse = SparseExecution(setup, model, ticket)
        if not sparse.is_mostly_dense:  # as the first rounds of a rewinding are
            return sparse
    return DenseExecution(setup, model, ticket)
