"""Saliencies of second order: what removing a weight does to the loss, by its curvature along that weight alone.

The network normalises by running statistics that a warm-up has brought to its present weights, not by each batch's.
"""

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola.core.cost import Meter
from tombola.core.double_backward import explained_twice
from tombola.core.parts import COUNT, NATURAL, POSITIVE, option
from tombola.core.seeds import generator
from tombola.data import forever
from tombola.finders.base import Needs
from tombola.finders.problem import Problem
from tombola.finders.saliency import SaliencyOnBatches, ScoringContext, tempered_gradient
from tombola.networks.network import FrozenNetwork, explained_batches, keeps_statistics, statistics_modules


@dataclass(frozen=True)
class SecondOrder(SaliencyOnBatches):
    """What these saliencies share: the warm-up, and the loss's gradient g and diagonal of curvature h.

    Source: Gollini Navarrete et al. 2025, arXiv 2502.11450, whose warm-up is an epoch without a step.
    """

    warm_up_batches: int = option(
        50,
        "batches that bring BatchNorm's statistics to the weights before fisher and hutchinson; 0 for each batch's own",
        must=NATURAL,
        group="rivals",
    )

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(samples=self.batch_size, batches=max(self.batches, self.warm_up_batches), task=("loss",))

    def context(self, problem: Problem, meter: Meter) -> ScoringContext:
        """Return the network with warm statistics, and the batches that scores are computed on."""
        model = problem.network()
        if self.warm_up_batches and keeps_statistics(model):
            model = warmed_up(model, problem, self.warm_up_batches, meter)
        network = FrozenNetwork(model, problem.layout, problem.task, problem.runtime)
        if not self.warm_up_batches:
            network.use_batch_statistics()
        return ScoringContext(problem, network, list(islice(forever(problem.feed), self.batches)), meter)

    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return the saliency at the pruned network."""
        weights = (mask * context.network.weights).detach().requires_grad_()
        return self.saliency(weights.detach(), *self.slopes(context, weights, mask))

    def slopes(self, context: ScoringContext, weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and h (d,) at weights (d,), a leaf, means over the batches."""
        raise NotImplementedError

    def saliency(self, weights: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Return ½ h θ² (LeCun, Denker and Solla 1990)."""
        return weights.square() * curvature / 2


@torch.no_grad()
def warmed_up(model: nn.Module, problem: Problem, batches: int, meter: Meter) -> nn.Module:
    """Return a model whose running statistics have followed so many batches, by their own momentum."""
    model = problem.runtime.place(model.eval())
    for module in statistics_modules(model):
        module.train()
    for item in islice(forever(problem.feed), batches):
        batch = problem.runtime.move(item.batch)
        with problem.runtime.autocast(), explained_batches():
            problem.task.forward(model, batch)
        meter.count(forward=problem.task.samples(batch))
    return model.eval()


def taylor(weights: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
    """Return |θ g + ½ h θ²|, both terms of the expansion with the sign of the published ones."""
    return (weights * gradient + weights.square() * curvature / 2).abs()


@dataclass(frozen=True)
class Fisher(SecondOrder):
    """½ F θ², with F the empirical Fisher information's diagonal: squares of batches' gradients, times their size."""

    name: ClassVar[str] = "fisher"
    divides: ClassVar[bool] = True

    def slopes(self, context: ScoringContext, weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of the batches' gradients, and that of their squares times the batches' sizes."""
        gradient, curvature, task = torch.zeros_like(mask), torch.zeros_like(mask), context.problem.task
        with torch.enable_grad():
            for item, masked in zip(context.items, context.masked_batches(mask), strict=True):
                loss = task.loss(context.network.under(weights, masked.batch), masked.batch)
                found = masked.portion.gradient(masked.mean(loss), weights)
                gradient += found
                curvature += task.samples(item.batch) * found.square()
        context.count(1, 1)
        return gradient / len(context.items), curvature / len(context.items)


@dataclass(frozen=True)
class FisherTaylor(Fisher):
    """|θ g + ½ F θ²|: the Fisher-Taylor sensitivity (arXiv 2502.11450)."""

    name: ClassVar[str] = "fisher-taylor"
    divides: ClassVar[bool] = True

    def saliency(self, weights: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Return both terms of the expansion."""
        return taylor(weights, gradient, curvature)


@dataclass(frozen=True)
class Hutchinson(SecondOrder):
    """½ h θ², with h Hutchinson's estimate of the Hessian's diagonal, the mean of z ⊙ Hz over signs z drawn at random.

    H belongs to the loss of outputs divided by the temperature. The sign counts: what curves downwards goes first.
    """

    name: ClassVar[str] = "hutchinson"
    divides: ClassVar[bool] = True
    probes: int = option(10, "draws of signs of hutchinson, for every batch", must=COUNT, group="rivals")
    temperature: float = option(200.0, "temperature by which hutchinson divides outputs", must=POSITIVE, group="search")

    @explained_twice()
    def slopes(self, context: ScoringContext, weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return g and h of the loss of outputs divided by the temperature."""
        gradient, curvature = torch.zeros_like(mask), torch.zeros_like(mask)
        draws = generator(context.problem.seed, "hutchinson")
        with torch.enable_grad():
            for masked in context.masked_batches(mask):
                found = tempered_gradient(self.name, self.temperature, context, weights, masked, True)
                gradient += found.detach()
                for _ in range(self.probes):
                    chance = torch.rand(mask.shape, generator=draws, dtype=torch.float32, device="cpu")
                    signs = (chance < 0.5).to(mask) * 2 - 1
                    (product,) = torch.autograd.grad((found * signs).sum(), weights, retain_graph=True)
                    curvature += signs * product
        gradient, curvature = context.problem.runtime.ranks.total([gradient, curvature])
        context.count(1, 1 + 3 * self.probes)
        count = len(context.items)
        return gradient / count, curvature / (count * self.probes)


@dataclass(frozen=True)
class HutchinsonTaylor(Hutchinson):
    """|θ g + ½ h θ²|: both terms of the expansion, h by Hutchinson's estimate."""

    name: ClassVar[str] = "hutchinson-taylor"
    divides: ClassVar[bool] = True

    def saliency(self, weights: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Return both terms of the expansion."""
        return taylor(weights, gradient, curvature)
