"""SynFlow: keep what carries the flow of ones through absolute weights; no data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tombola.core.cost import Meter
from tombola.core.parts import COUNT, option
from tombola.data import Item
from tombola.errors import UsageError
from tombola.finders.problem import Problem
from tombola.finders.saliency import ROUNDS, Saliency, ScoringContext
from tombola.networks.network import FrozenNetwork, statistics_modules


@dataclass(frozen=True)
class SynFlow(Saliency):
    """|θ ⊙ ∂R/∂θ| with R the sum of outputs for an input of ones under absolute weights (Tanaka et al. 2020).

    Needs no data. Normalisation has absolute scales and shifts and the running statistics of a network that never saw
    data (mean 0, variance 1), so that synaptic flow is conserved layer by layer. In float64, where products over many
    layers neither overflow nor vanish. Complex parameters beside the weights become their moduli. Only a copy of the
    network takes absolute values.
    """

    name: ClassVar[str] = "synflow"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 2
    rounds: int = option(100, ROUNDS, must=COUNT, group="rivals")

    def context(self, problem: Problem, meter: Meter) -> ScoringContext:
        """Return the network with absolute values, and one input of ones in place of data."""
        model = problem.network().double()
        _make_absolute_(model)
        network = FrozenNetwork(model, problem.layout, problem.task, problem.runtime.in_full_precision())
        first = next(iter(problem.feed.epoch(0)))
        return ScoringContext(problem, network, [Item(_one_of_ones(first.batch))], meter)

    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return |θ ⊙ ∂R/∂θ| at the pruned network."""
        weights = (mask * context.network.weights).detach().requires_grad_()
        (masked,) = context.masked_batches(mask)
        output = context.network.under(weights, masked.batch)
        if not isinstance(output, Tensor):
            raise UsageError(f"{self.name} sums outputs and needs them to be tensors", option="finder")
        (gradient,) = torch.autograd.grad(output.sum(), weights)
        context.count(1, 1)
        return (weights * gradient).abs()


@torch.no_grad()
def _make_absolute_(model: nn.Module) -> None:
    for parameter in model.parameters():
        # Complex ones have no abs_, and double() leaves them as they are.
        parameter.data = parameter.abs().to(torch.complex128) if parameter.is_complex() else parameter.abs_()
    for module in statistics_modules(model):
        if module.running_mean is None and isinstance(module, nn.modules.batchnorm._BatchNorm):
            # One that keeps no statistics would take those of the one input.
            module.track_running_stats = True
            module.num_batches_tracked = torch.zeros((), dtype=torch.long, device="cpu")
            module.running_mean = torch.zeros(module.num_features, dtype=torch.float64, device="cpu")
            module.running_var = torch.ones(module.num_features, dtype=torch.float64, device="cpu")
        module.reset_running_stats()


def _one_of_ones(batch: Any) -> Any:
    """Return a batch of one sample whose input is all ones."""
    if not isinstance(batch, Sequence) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise UsageError("synflow needs batches of (inputs, targets), inputs being one tensor", option="finder")
    inputs, targets = batch
    if not inputs.is_floating_point():
        raise UsageError(f"synflow needs inputs of real numbers, got {inputs.dtype}", option="finder")
    return torch.ones_like(inputs[:1], dtype=torch.float64), targets[:1]
