"""Saliency: weights ranked by what a gradient says of removing them, cut once or little by little.

Scores and cuts are one loop; a saliency adds a few lines of mathematics. All scores are larger for better weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola.core.cost import Meter
from tombola.core.double_backward import explained_twice, twice_differentiable
from tombola.core.parts import COUNT, INSIDE, POSITIVE, option, written_name
from tombola.core.seeds import generator
from tombola.core.selection import Density, Selection
from tombola.data import Item, forever
from tombola.errors import SearchError, UsageError
from tombola.finders.base import Drawn, Finder, Needs, search_batch_size
from tombola.finders.drawing import drawn
from tombola.finders.objective_finder import ObjectiveFinder, check_objective
from tombola.finders.problem import Problem
from tombola.networks.network import FrozenNetwork
from tombola.networks.shares import share_of
from tombola.networks.teacher import Teacher, make_teacher
from tombola.objectives import MaskedBatch, gradient_of, value_of


@dataclass(frozen=True)
class ScoringContext:
    """What a saliency may look at: a network on batch statistics, batches, and the meter that counts their samples."""

    problem: Problem
    network: FrozenNetwork
    items: list[Item]
    meter: Meter
    teacher: Teacher | None = None

    def masked_batches(self, mask: Tensor) -> Iterator[MaskedBatch]:
        """Give each batch seen under a flat mask (d,)."""
        for item in self.items:
            share = share_of(item, self.problem.task, self.problem.runtime)
            yield MaskedBatch(
                self.network, self.problem.task, mask, share.item, share.batch, self.teacher, share.portion
            )

    def count(self, forward: int, backward: int) -> None:
        """Count passes of all batches; differentiating a gradient once more costs three further backward passes."""
        samples = sum(self.problem.task.samples(item.batch) for item in self.items)
        self.meter.count(forward=forward * samples, backward=backward * samples)


def tempered_gradient(
    name: str, temperature: float, context: ScoringContext, weights: Tensor, masked: MaskedBatch, create_graph: bool
) -> Tensor:
    """Return the gradient in weights (d,) of a batch's loss, of outputs divided by a temperature.

    Of several processes each has its part, which those of all add up to. name: of the finder. Raises UsageError for
    outputs that are no tensor.
    """
    with twice_differentiable():
        output = context.network.under(weights, masked.batch)
    if not isinstance(output, Tensor):
        raise UsageError(f"{name} divides outputs by a temperature and needs them to be tensors", option="finder")
    loss = context.problem.task.loss(output / temperature, masked.batch)
    (found,) = torch.autograd.grad(loss, weights, create_graph=create_graph)
    return masked.portion.of_counted * found


ROUNDS = "rounds of a saliency, the density falling exponentially"


@dataclass(frozen=True)
class Saliency(Finder):
    """What saliencies share: scores and cuts in turn, the density falling exponentially.

    rounds: how many cuts; nothing trains in between.
    """

    # Whether a weight that one cut has pruned may come back at the next.
    revives: ClassVar[bool] = False
    rounds: int = option(1, ROUNDS, must=COUNT, group="rivals")
    batch_size: int = search_batch_size(512, kw_only=True)

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(samples=self.batch_size)

    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return one score for each weight (d,), at the network pruned by a flat mask of zeros and ones."""
        raise NotImplementedError

    def facts(self, context: ScoringContext, mask: Tensor) -> dict[str, Any]:
        """Return further fields of the provenance of a ticket with a flat mask."""
        return {}

    def context(self, problem: Problem, meter: Meter) -> ScoringContext:
        """Return the network and the batches that scores are computed on."""
        raise NotImplementedError

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        meter, selection = Meter(), self.selection(problem, density)
        context, groups = self.context(problem, meter), selection.groups
        mask = torch.ones(problem.layout.total, dtype=torch.bool, device=context.network.weights.device)
        with problem.progress.track(written_name(self), self.rounds) as tracker:
            for number in range(1, self.rounds + 1):
                scores = self._checked(self.scores(context, mask.to(context.network.weights.dtype)), problem)
                allowed = torch.ones_like(mask) if self.revives else mask
                scores = scores.masked_fill(~allowed, -torch.inf)
                ranked = groups.score(scores)
                mask = allowed & _on_the_way(selection, number / self.rounds).keep(ranked)
                tracker.update(number)
        cost = meter.read()
        return drawn(self, problem, density, mask, groups.expand(ranked), cost, **self.facts(context, mask))

    def _checked(self, scores: Tensor, problem: Problem) -> Tensor:
        scores = scores.detach()
        broken = (~torch.isfinite(scores)).nonzero()
        if len(broken):
            index = int(broken[0])
            name, layer = written_name(self), problem.layout.name_at(index)
            raise SearchError(f"the score of {name} is {float(scores[index])} in {layer}")
        return scores


def _on_the_way(selection: Selection, share: float) -> Selection:
    """Return what is kept after a share of the cuts, densities falling exponentially."""
    return selection.at(lambda density: density**share)


def _on_batch_statistics(problem: Problem) -> FrozenNetwork:
    network = FrozenNetwork(problem.network(), problem.layout, problem.task, problem.runtime)
    network.use_batch_statistics()
    return network


@dataclass(frozen=True)
class SaliencyOnBatches(Saliency):
    """A saliency whose scores are means over some batches."""

    batches: int = option(1, "batches that a saliency is computed on", must=COUNT, group="rivals")

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(samples=self.batch_size, batches=self.batches, task=("loss",))

    def context(self, problem: Problem, meter: Meter) -> ScoringContext:
        """Return the network and the batches that scores are computed on."""
        return ScoringContext(
            problem, _on_batch_statistics(problem), list(islice(forever(problem.feed), self.batches)), meter
        )


def _loss_gradient(context: ScoringContext, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masked weights, a leaf, and the gradient of the loss with respect to them, mean over batches."""
    weights = (mask * context.network.weights).detach().requires_grad_()
    total = torch.zeros_like(weights)
    with torch.enable_grad():
        for masked in context.masked_batches(mask):
            loss = context.problem.task.loss(context.network.under(weights, masked.batch), masked.batch)
            total = total + masked.portion.gradient(masked.mean(loss), weights)
    return weights, total / len(context.items)


@dataclass(frozen=True)
class SNIP(SaliencyOnBatches):
    """|θ ⊙ ∂L/∂θ|: how much the loss changes when a weight goes (Lee, Ajanthan and Torr 2019, equation 6).

    With several rounds it is iterative SNIP (de Jorge et al. 2021).
    """

    name: ClassVar[str] = "snip"
    divides: ClassVar[bool] = True

    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return |θ ⊙ ∂L/∂θ| at the pruned network."""
        weights, gradient = _loss_gradient(context, mask)
        context.count(1, 1)
        return (weights * gradient).abs()


@dataclass(frozen=True)
class FORCE(SaliencyOnBatches):
    """SNIP in rounds whose pruned weights may come back (de Jorge et al. 2021, FORCE, with its exponential schedule).

    The gradient is with respect to the weights as they stand in the pruned network; scores take the stored weights.
    """

    name: ClassVar[str] = "force"
    divides: ClassVar[bool] = True
    revives: ClassVar[bool] = True
    rounds: int = option(60, ROUNDS, must=COUNT, group="rivals")

    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return |θ ⊙ ∂L/∂θ̄|, θ̄ the pruned weights."""
        _, gradient = _loss_gradient(context, mask)
        context.count(1, 1)
        return (context.network.weights * gradient).abs()


@dataclass(frozen=True)
class ProsPr(Saliency):
    """|∂L(θ_M)/∂m|: what a weight's removal does to the loss after M steps of training (Alizadeh et al. 2022).

    The mask multiplies the weights before the first step, and all parameters take the steps, of plain gradient descent,
    each on the next batch.
    """

    name: ClassVar[str] = "prospr"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 3
    training_steps: int = option(
        3, "steps of training that prospr looks ahead", must=COUNT, flag="prospr-steps", group="rivals"
    )
    training_rate: float = option(
        0.1, "learning rate of these steps", must=POSITIVE, flag="prospr-rate", group="rivals"
    )

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(samples=self.batch_size, batches=self.training_steps + 1, task=("loss",))

    def context(self, problem: Problem, meter: Meter) -> ScoringContext:
        """Return one batch for each step, and one for the loss after them."""
        network = _on_batch_statistics(problem)
        return ScoringContext(problem, network, list(islice(forever(problem.feed), self.training_steps + 1)), meter)

    @explained_twice()
    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return |∂L(θ_M)/∂m|."""
        gate = mask.detach().clone().requires_grad_()
        weights, others = gate * context.network.weights, context.network.other_parameters()
        *training, last = context.masked_batches(mask)
        for masked in training:
            with twice_differentiable():
                loss = context.problem.task.loss(context.network.under(weights, masked.batch, others), masked.batch)
            found = torch.autograd.grad(loss, [weights, *others.values()], create_graph=True, materialize_grads=True)
            found = tuple(masked.mean(gradient) for gradient in found)
            # What an earlier cut has pruned stays zero.
            weights = weights - self.training_rate * mask * found[0]
            steps = zip(others.items(), found[1:], strict=True)
            others = {name: value - self.training_rate * step for (name, value), step in steps}
        loss = context.problem.task.loss(context.network.under(weights, last.batch, others), last.batch)
        score = last.portion.gradient(last.mean(loss), gate)
        replace(context, items=context.items[:-1]).count(1, 4)
        replace(context, items=context.items[-1:]).count(1, 1)
        return score.abs()


@dataclass(frozen=True)
class ObjectiveSaliency(ObjectiveFinder, SaliencyOnBatches):
    """|∂R/∂m| of an objective R of Concrete Ticket Search: its greedy optimum (arXiv 2512.07142).

    At the dense network many of the objectives are at their minimum and have no gradient, so the mask is perturbed:
    m = 1 - perturbation * u, with u uniform in [0, 1).
    """

    name: ClassVar[str] = "saliency"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 4
    perturbation: float = option(
        0.01, "how far the saliency of an objective steps away from the dense network", must=INSIDE, group="rivals"
    )

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        return super(ObjectiveSaliency, self.settled(problem)).draw(problem, density)

    def context(self, problem: Problem, meter: Meter) -> ScoringContext:
        """Return what other saliencies see, and the dense network where the objective asks for it."""
        found, objective = super().context(problem, meter), self.settled_objective
        teacher = None
        if objective.asks_outputs or objective.asks_network:
            # Without a table: a few batches are asked for, not all the data.
            teacher = make_teacher(
                problem.network(), problem.layout, problem.task, problem.feed, problem.runtime, store_outputs=False
            )
            meter.count(forward=teacher.forward)  # for its statistics
        check_objective(objective, problem, teacher)
        return ScoringContext(problem, found.network, found.items, meter, teacher)

    def scores(self, context: ScoringContext, mask: Tensor) -> Tensor:
        """Return |∂R/∂m| at a mask a little below the given one."""
        noise = torch.rand(
            mask.shape, generator=generator(context.problem.seed, "saliency"), dtype=mask.dtype, device="cpu"
        )
        gate = (mask * (1 - self.perturbation * noise.to(mask.device))).requires_grad_()
        objective, total = self.settled_objective, torch.zeros_like(mask)
        count, recomputed = context.problem.task.samples, 0
        for item, masked in zip(context.items, context.masked_batches(gate), strict=True):
            before = context.teacher.forward if context.teacher else 0
            total = total + gradient_of(objective, masked)[1]
            here = context.teacher.forward - before if context.teacher else 0
            recomputed += here * count(item.batch) // count(masked.batch)
        context.count(objective.forward, objective.backward)
        context.meter.count(forward=recomputed)
        return (total / len(context.items)).abs()

    def facts(self, context: ScoringContext, mask: Tensor) -> dict[str, Any]:
        """Return the objective's value for the ticket, on the batches on which CTS looks at its own."""
        objective, problem = self.settled_objective, context.problem
        seen = replace(context, items=problem.probe_batches())
        values = [
            float(value_of(objective, masked).detach())
            for masked in seen.masked_batches(mask.to(context.network.weights.dtype))
        ]
        return {"objective": {"name": objective.name, "hard": sum(values) / len(values)}}
