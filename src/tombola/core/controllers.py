"""What steers the expected density to the wanted one: GradBalance as published, ProportionalBalance, Lagrangian.

A controller has no memory of its own: `init` gives a state, `update` takes one and gives the next, both in tensors, so
that a search on a GPU never waits for the processor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from tombola.core.concrete import slope
from tombola.core.flat import over_pieces
from tombola.core.parts import BELOW_ONE, POSITIVE, Part, option
from tombola.core.written import Family

# The smallest normal float32: what has no slope is not divided by zero.
_TINY = 2.0**-126

State = Mapping[str, Tensor]
Figures = Mapping[str, Tensor]
# What the figures of every controller hold at least.
FIGURES = ("multiplier", "error", "task_norm", "density_norm")
C = TypeVar("C")


class Target(NamedTuple):
    """What a step aims at: the density wanted, the logits' learning rate, and the share of the search that is done.

    sizes: weights that each logit stands for, (g,), by which densities are counted; None where there is one for each.
    """

    density: float
    learning_rate: float
    share: float
    sizes: Tensor | None = None


@runtime_checkable
class Controller(Protocol):
    """Combines the task's gradient and the density's into one.

    Its figures for the journal hold at least multiplier (λ), error (the density error e), task_norm and density_norm
    (2-norms of the two gradients).
    """

    def init(self, logits: Tensor) -> State:
        """Return the state before the first step, for logits (g,)."""

    def update(
        self, logits: Tensor, task_gradient: Tensor, target: Target, state: State
    ) -> tuple[Tensor, State, Figures]:
        """Return what the optimiser gets (g,), the next state, and figures of this step; nothing is overwritten.

        logits, task_gradient: a and ∂R/∂a, (g,).
        """


def norm(vector: Tensor) -> Tensor:
    """Return the 2-norm as a float64 scalar: entries of 1e-30 or 1e30 neither vanish nor overflow."""
    return torch.stack(over_pieces(_square, vector)).sum().sqrt()


def _square(piece: Tensor) -> Tensor:
    """Return the sum of squares in float64; on a CPU float32 does where none can have vanished or overflowed."""
    length = torch.linalg.vector_norm(piece).double()
    if piece.device.type != "cpu" or not 1e-10 < length < 1e15:
        length = torch.linalg.vector_norm(piece, dtype=torch.float64)
    found: Tensor = length**2
    return found


def _weighed(slopes: Tensor, sizes: Tensor | None) -> Tensor:
    """Return slopes times the weights that each logit stands for, in place."""
    return slopes if sizes is None else slopes.mul_(sizes)


class Push(NamedTuple):
    """How hard the density pushes in a step: λ, and the expected density that its error is measured against."""

    multiplier: Tensor
    aim: float


@dataclass(frozen=True)
class Gradients:
    """What a controller sees: the expected density, and the 2-norms of the task's gradient and of the slopes; float64.

    The expected density is mean(sigmoid(a)) over weights, and a logit's slope that of sigmoid(a) times its weights.
    total: of the weights. sizes: as in `Target`.
    """

    density: Tensor
    task_norm: Tensor
    slope_norm: Tensor
    total: int
    sizes: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, task_gradient: Tensor, sizes: Tensor | None = None) -> "Gradients":
        """Look at the vectors once."""
        vectors = (logits, task_gradient) if sizes is None else (logits, task_gradient, sizes)
        gates, task, slopes = torch.stack(over_pieces(cls._sums, *vectors)).sum(dim=0)
        total = logits.numel() if sizes is None else int(sizes.sum(dtype=torch.float64))
        return cls(gates / total, task.sqrt(), slopes.sqrt(), total, sizes)

    @staticmethod
    def _sums(logits: Tensor, task_gradient: Tensor, sizes: Tensor | None = None) -> Tensor:
        gates = torch.sigmoid(logits)
        weighed = gates if sizes is None else gates * sizes
        return torch.stack([weighed.sum().double(), _square(task_gradient), _square(_weighed(slope(gates), sizes))])

    def error(self, aim: float) -> Tensor:
        """Return e = expected density/aim - 1."""
        return self.density / aim - 1

    def density_norm(self, aim: float) -> Tensor:
        """Return the 2-norm of e's gradient, slope/(aim d)."""
        return self.slope_norm / (aim * self.total)

    def ratio(self, aim: float) -> Tensor:
        """Return ‖g_task‖/‖g_density‖, 0 where the density has no gradient."""
        below = self.density_norm(aim)
        return torch.where(below > 0, self.task_norm / below, 0.0)

    def reach(self, push: Push, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return what the slopes' unit vector is multiplied by, and their norm; so that a huge λ cannot overflow."""
        reach = push.multiplier * self.density_norm(push.aim)
        return torch.where(reach.isfinite(), reach, 0.0).to(dtype), self.slope_norm.clamp(min=_TINY).to(dtype)

    def pushed(self, task_gradient: Tensor, logits: Tensor, push: Push) -> Tensor:
        """Return g_task + λ g_density."""
        reach, length = self.reach(push, logits.dtype)
        combined = torch.empty_like(task_gradient)

        def add(out: Tensor, gradient: Tensor, part: Tensor, sizes: Tensor | None = None) -> None:
            torch.addcmul(gradient, _weighed(slope(torch.sigmoid(part)), sizes).div_(length), reach, out=out)

        over_pieces(add, combined, task_gradient, logits, *(() if self.sizes is None else (self.sizes,)))
        return combined

    def figures(self, push: Push) -> Figures:
        """Return what is recorded of a step."""
        return {
            "multiplier": push.multiplier,
            "error": self.error(push.aim),
            "task_norm": self.task_norm,
            "density_norm": self.density_norm(push.aim),
        }


@dataclass(frozen=True)
class ByNorms(Part):
    """A controller that decides by `Gradients` alone, whoever computed them. Its state is λ, 0 at first."""

    def init(self, logits: Tensor) -> State:
        """Return λ = 0."""
        return {"multiplier": torch.zeros((), dtype=torch.float64, device=logits.device)}

    def steer(self, seen: Gradients, target: Target, state: State) -> tuple[Push, Tensor]:
        """Return how hard to push in this step, and the λ of the state after it."""
        raise NotImplementedError

    def step(self, seen: Gradients, target: Target, state: State) -> tuple[Push, State, Figures]:
        """Return how hard to push in this step, the next state, and figures of this step."""
        push, multiplier = self.steer(seen, target, state)
        return push, {"multiplier": multiplier}, seen.figures(push._replace(multiplier=multiplier))

    def update(
        self, logits: Tensor, task_gradient: Tensor, target: Target, state: State
    ) -> tuple[Tensor, State, Figures]:
        """Return the combined gradient of one step, λ, and its figures."""
        seen = Gradients.of(logits, task_gradient, target.sizes)
        push, after, figures = self.step(seen, target, state)
        return seen.pushed(task_gradient, logits, push), after, figures


@dataclass(frozen=True)
class GradBalance(ByNorms):
    """The published rule: a slow average of the gradients' ratio, one-sided, aiming 10 % above the density.

    λ̂ = ‖g_task‖/‖g_density‖ where e > 0, else 0; λ ← 0.99 λ + 0.01 λ̂ before it is used. Where 1.1 κ would exceed
    what a mean of gates can reach, it aims at (1 + κ)/2. Source: arXiv 2512.07142.
    """

    name: ClassVar[str] = "gradbalance"
    version: ClassVar[int] = 3
    momentum: float = option(0.99, "share of λ that a step keeps", must=BELOW_ONE)
    overshoot: float = option(1.1, "multiple of the density that it aims at", must=POSITIVE)

    def aim(self, density: float) -> float:
        """Return the expected density that the controller aims at."""
        return min(self.overshoot * density, (1 + density) / 2)

    def steer(self, seen: Gradients, target: Target, state: State) -> tuple[Push, Tensor]:
        """Return the push of the averaged λ."""
        aim = self.aim(target.density)
        wanted = torch.where(seen.error(aim) > 0, seen.ratio(aim), 0.0)
        multiplier = self.momentum * state["multiplier"] + (1 - self.momentum) * wanted
        return Push(multiplier, aim), multiplier


@dataclass(frozen=True)
class ProportionalBalance(ByNorms):
    """The same idea, two-sided and without an average: λ = ‖g_task‖/‖g_density‖ · tanh(e / 0.05).

    e is measured against the wanted density itself. It pulls back from both sides, and its force grows with the error.
    Ours, not the paper's.
    """

    name: ClassVar[str] = "proportional"
    version: ClassVar[int] = 3
    width: float = option(0.05, "density error at which it pushes by three quarters of its force", must=POSITIVE)

    def steer(self, seen: Gradients, target: Target, state: State) -> tuple[Push, Tensor]:
        """Return the push of this step's λ."""
        aim = target.density
        multiplier = seen.ratio(aim) * torch.tanh(seen.error(aim) / self.width)
        return Push(multiplier, aim), multiplier


# The paper's rate is 0.01 (0.001 for feature-mse) of the logits' learning rate, for objectives multiplied by 100
# (delta-loss by 10,000, grad-norm by 1) and an error multiplied by 100. A factor s on R and 100 on e is, for an
# optimiser that does not notice a common factor, the same as a rate multiplied by 100 * 100 / s on plain R and e.
PUBLISHED_RATES = {"delta-loss": 0.01, "grad-norm": 100.0, "feature-mse": 0.1}


@dataclass(frozen=True)
class Lagrangian(ByNorms):
    """The ablation's controller: min over a, max over λ of R + λ e, with e measured against the density itself.

    λ starts at 0 and rises by `rate` times the logits' learning rate times e at every step; it may turn negative. The
    logits' step uses the λ of before. Source: arXiv 2512.07142, ablation.
    """

    name: ClassVar[str] = "lagrangian"
    version: ClassVar[int] = 3
    rate: float | None = option(
        None, "rise of λ as a multiple of the learning rate", must=POSITIVE, unset="as published for the objective"
    )

    @classmethod
    def published(cls, objective: str) -> "Lagrangian":
        """Return the controller with the rate of the published runs for an objective."""
        return cls(PUBLISHED_RATES.get(objective, 1.0))

    def settled(self, objective: str) -> "Lagrangian":
        """Return the same with its rate written out."""
        return self.published(objective) if self.rate is None else self

    def steer(self, seen: Gradients, target: Target, state: State) -> tuple[Push, Tensor]:
        """Return the push of the λ of before, and the λ risen."""
        before, aim = state["multiplier"], target.density
        rate = 1.0 if self.rate is None else self.rate
        return Push(before, aim), before + rate * target.learning_rate * seen.error(aim)


def settled(controller: C, objective: str) -> C:
    """Return a controller with whatever it leaves to the objective written out."""
    settle = getattr(controller, "settled", None)
    found: C = settle(objective) if settle is not None else controller
    return found


CONTROLLERS: Family[Controller] = Family(
    "controller",
    {kind.name: kind() for kind in (GradBalance, ProportionalBalance, Lagrangian)},
    Controller,
)


def controller_option() -> Any:
    """Declare what holds the density of a search."""
    words = f"what holds the density: {', '.join(CONTROLLERS)}, or my_module:MyController"
    return option(ProportionalBalance(), words, family=CONTROLLERS, group="search")
