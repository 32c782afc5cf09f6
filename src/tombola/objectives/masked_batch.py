"""MaskedBatch: one batch, seen by the masked network and by the dense one."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tombola.core.double_backward import twice_differentiable
from tombola.data import Item
from tombola.errors import SearchError
from tombola.networks.network import FrozenNetwork
from tombola.networks.shares import WHOLE, Portion
from tombola.networks.task import Batch, Output, Task
from tombola.networks.teacher import Teacher


@dataclass(frozen=True)
class MaskedBatch:
    """What an objective may look at.

    network: the network that masks are put on. mask: the flat relaxed or hard mask z of (d,). item, batch: the same
    batch as the feed gave it and in its place. dense_network: gives f, for objectives that announced that they ask it.
    portion: which part of a batch this is, where several processes divide it.
    """

    network: FrozenNetwork
    task: Task
    mask: Tensor
    item: Item
    batch: Batch
    dense_network: Teacher | None = None
    portion: Portion = WHOLE

    @cached_property
    def sparse(self) -> Output:
        """Output of f_z, differentiable in the mask."""
        return self.network.masked(self.mask, self.batch)

    @cached_property
    def dense(self) -> Output:
        """Output of f, without gradients."""
        return self.teacher.output(self.item, self.batch)

    @property
    def teacher(self) -> Teacher:
        """The dense network."""
        if self.dense_network is None:
            raise SearchError("the objective asks the dense network without having announced it")
        return self.dense_network

    def mean(self, value: Tensor) -> Tensor:
        """Return a mean over the whole batch, of what its task counts, from the mean over what is here of it.

        The two differ where several processes divide a batch.
        """
        return self.portion.mean(value)

    def gradient(self, network: FrozenNetwork, mask: Tensor | None, every_parameter: bool = False) -> Tensor:
        """Return the gradient of the loss with respect to the stored weights (d,), under a mask or dense.

        Through a mask it carries the factor z, and can be differentiated again. every_parameter: go on with the
        parameters that are not prunable, behind the weights.
        """
        weights = network.weights.detach().clone().requires_grad_()
        others = network.other_parameters() if every_parameter else {}
        with torch.enable_grad(), twice_differentiable():
            masked, placed = (weights, others) if mask is None else (mask * weights, network.gated(mask, others))
            loss = self.task.loss(network.under(masked, self.batch, placed), self.batch)
            parts = torch.autograd.grad(
                loss, [weights, *others.values()], create_graph=mask is not None, materialize_grads=True
            )
        return self.mean(torch.cat([part.reshape(-1) for part in parts]))
