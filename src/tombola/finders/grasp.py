"""GraSP: keep what preserves the gradient's norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.core.double_backward import explained_twice
from tombola.core.parts import POSITIVE, option
from tombola.finders.saliency import SaliencyOnBatches, ScoringContext, tempered_gradient


@dataclass(frozen=True)
class GraSP(SaliencyOnBatches):
    """θ ⊙ Hg: keeps the weights whose removal lowers the gradient's norm most (Wang, Zhang and Grosse 2020).

    The paper's score is -θ ⊙ Hg with the lowest kept; H and g belong to the loss of outputs divided by the
    temperature. The sign counts, as in the paper.
    """

    name: ClassVar[str] = "grasp"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 2
    temperature: float = option(200.0, "temperature by which grasp divides outputs", must=POSITIVE, group="search")

    @explained_twice()
    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return θ ⊙ Hg at the pruned network."""
        weights = (mask * context.network.weights).detach().requires_grad_()
        gradients: list[Tensor] = []
        ranks = context.problem.runtime.ranks
        for masked in context.masked_batches(mask):
            gradients.append(tempered_gradient(self.name, self.temperature, context, weights, masked, False))
        (mean,) = ranks.total([torch.stack(gradients).mean(dim=0).detach()])
        product = torch.zeros_like(weights)
        for masked in context.masked_batches(mask):
            gradient = tempered_gradient(self.name, self.temperature, context, weights, masked, True)
            product = product + torch.autograd.grad((gradient * mean).sum(), weights)[0]
        (product,) = ranks.total([product])
        context.count(2, 5)
        return weights * product / len(context.items)


@dataclass(frozen=True)
class GraSPMagnitude(GraSP):
    """|θ ⊙ Hg|: GraSP by magnitude, the variant that ranks by how much the gradient's norm changes at all."""

    name: ClassVar[str] = "grasp-magnitude"
    divides: ClassVar[bool] = True

    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return |θ ⊙ Hg| at the pruned network."""
        return super().scores(context, mask).abs()
