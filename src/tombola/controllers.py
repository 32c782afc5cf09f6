"""What steers the expected density to the wanted one: GradBalance as published, ProportionalBalance, Lagrangian."""

import math
from dataclasses import dataclass, is_dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tombola.concrete import slope
from tombola.errors import UsageError
from tombola.flat import over_pieces


@dataclass(frozen=True)
class Steering:
    """One step of a controller.

    gradient: what the optimiser gets, task and density together. multiplier: the new λ. error: the density error e.
    task_norm, density_norm: 2-norms of the two gradients.
    """

    gradient: Tensor
    multiplier: float
    error: float
    task_norm: float
    density_norm: float


class Controller(Protocol):
    """Combines the task's gradient and the density's into one; λ is its only state."""

    @property
    def name(self) -> str:
        """The name on the command line."""

    def steer(
        self, logits: Tensor, task_gradient: Tensor, density: float, multiplier: float, learning_rate: float
    ) -> Steering:
        """Return the combined gradient for logits (d,) and ∂R/∂a (d,), which it takes the place of.

        multiplier: the λ of the step before. learning_rate: the optimiser's at this step.
        """


def check_controller(controller: object) -> None:
    """Raise UsageError for what is no controller; its fields enter a ticket's provenance, hence a dataclass."""
    is_object = is_dataclass(controller) and not isinstance(controller, type)
    if not is_object or not hasattr(controller, "steer"):
        raise UsageError(
            "controller must be an object such as tombola.GradBalance(), a dataclass with a steer method, "
            f"got {controller!r}"
        )


def norm(vector: Tensor) -> float:
    """Return the 2-norm, summed in float64: entries of 1e-30 or 1e30 neither vanish nor overflow."""
    return math.sqrt(sum(over_pieces(_square, vector)))


def _square(piece: Tensor) -> float:
    """Return the sum of squares; float32 does where none of them can have vanished or overflowed."""
    length = float(torch.linalg.vector_norm(piece))
    if not 1e-10 < length < 1e15:
        length = float(torch.linalg.vector_norm(piece, dtype=torch.float64))
    return length**2


@dataclass(frozen=True)
class _Look:
    """What a controller sees. density: mean(sigmoid(a)). task_norm, slope_norm: of task gradient and slopes."""

    density: float
    task_norm: float
    slope_norm: float
    total: int

    @classmethod
    def at(cls, logits: Tensor, task_gradient: Tensor) -> "_Look":
        """Look at both vectors once."""
        found = over_pieces(cls._sums, logits, task_gradient)
        gates, task, slopes = (math.fsum(column) for column in zip(*found, strict=True))
        return cls(gates / logits.numel(), math.sqrt(task), math.sqrt(slopes), logits.numel())

    @staticmethod
    def _sums(logits: Tensor, task_gradient: Tensor) -> tuple[float, float, float]:
        gates = torch.sigmoid(logits)
        return float(gates.sum()), _square(task_gradient), _square(slope(gates))

    def error(self, aim: float) -> float:
        """Return e = mean(sigmoid(a))/aim - 1."""
        return self.density / aim - 1

    def density_norm(self, aim: float) -> float:
        """Return the 2-norm of e's gradient, sigmoid(a)(1 - sigmoid(a))/(aim d)."""
        return self.slope_norm / (aim * self.total)


def _push_(task_gradient: Tensor, logits: Tensor, look: _Look, multiplier: float, density_norm: float) -> Tensor:
    """Add λ g_density to the task's gradient; λ is applied to the unit vector so that a huge one cannot overflow."""
    reach = multiplier * density_norm
    if reach and math.isfinite(reach):

        def add(gradient: Tensor, part: Tensor) -> None:
            gradient.add_(slope(torch.sigmoid(part)).div_(look.slope_norm), alpha=reach)

        over_pieces(add, task_gradient, logits)
    return task_gradient


@dataclass(frozen=True)
class GradBalance:
    """The published rule: a slow average of the gradients' ratio, one-sided, aiming 10 % above the density.

    λ̂ = ‖g_task‖/‖g_density‖ where e > 0, else 0; λ ← 0.99 λ + 0.01 λ̂ before it is used. Where 1.1 κ would exceed
    what a mean of gates can reach, it aims at (1 + κ)/2. Source: arXiv 2512.07142.
    """

    name: ClassVar[str] = "gradbalance"
    momentum: float = 0.99
    overshoot: float = 1.1

    def aim(self, density: float) -> float:
        """Return the expected density that the controller aims at."""
        return min(self.overshoot * density, (1 + density) / 2)

    def steer(
        self, logits: Tensor, task_gradient: Tensor, density: float, multiplier: float, learning_rate: float
    ) -> Steering:
        """Return the combined gradient of one step."""
        look, aim = _Look.at(logits, task_gradient), self.aim(density)
        error, density_norm = look.error(aim), look.density_norm(aim)
        ratio = look.task_norm / density_norm if error > 0 and density_norm > 0 else 0.0
        multiplier = self.momentum * multiplier + (1 - self.momentum) * ratio
        gradient = _push_(task_gradient, logits, look, multiplier, density_norm)
        return Steering(gradient, multiplier, error, look.task_norm, density_norm)


@dataclass(frozen=True)
class ProportionalBalance:
    """The same idea, two-sided and without an average: λ = ‖g_task‖/‖g_density‖ · tanh(e / 0.05).

    e is measured against the wanted density itself. It pulls back from both sides, and its force grows with the error.
    Ours, not the paper's.
    """

    name: ClassVar[str] = "proportional"
    width: float = 0.05

    def steer(
        self, logits: Tensor, task_gradient: Tensor, density: float, multiplier: float, learning_rate: float
    ) -> Steering:
        """Return the combined gradient of one step."""
        look = _Look.at(logits, task_gradient)
        error, density_norm = look.error(density), look.density_norm(density)
        ratio = look.task_norm / density_norm if density_norm > 0 else 0.0
        multiplier = ratio * math.tanh(error / self.width)
        gradient = _push_(task_gradient, logits, look, multiplier, density_norm)
        return Steering(gradient, multiplier, error, look.task_norm, density_norm)


# The paper's rate is 0.01 (0.001 for feature-mse) of the logits' learning rate, for objectives multiplied by 100
# (delta-loss by 10,000, grad-norm by 1) and an error multiplied by 100. A factor s on R and 100 on e is, for an
# optimiser that does not notice a common factor, the same as a rate multiplied by 100 * 100 / s on plain R and e.
PUBLISHED_RATES = {"delta-loss": 0.01, "grad-norm": 100.0, "feature-mse": 0.1}


@dataclass(frozen=True)
class Lagrangian:
    """The ablation's controller: min over a, max over λ of R + λ e, with e measured against the density itself.

    λ starts at 0 and rises by `rate` times the logits' learning rate times e at every step; it may turn negative. The
    logits' step uses the λ of before. rate: the published one for the objectives multiplied by 100; others are in
    PUBLISHED_RATES. Source: arXiv 2512.07142, ablation.
    """

    name: ClassVar[str] = "lagrangian"
    rate: float = 1.0

    @classmethod
    def published(cls, objective: str) -> "Lagrangian":
        """Return the controller with the rate of the published runs for an objective."""
        return cls(PUBLISHED_RATES.get(objective, 1.0))

    def steer(
        self, logits: Tensor, task_gradient: Tensor, density: float, multiplier: float, learning_rate: float
    ) -> Steering:
        """Return the combined gradient of one step."""
        look = _Look.at(logits, task_gradient)
        error, density_norm = look.error(density), look.density_norm(density)
        gradient = _push_(task_gradient, logits, look, multiplier, density_norm)
        return Steering(gradient, multiplier + self.rate * learning_rate * error, error, look.task_norm, density_norm)


CONTROLLERS: dict[str, type[GradBalance] | type[ProportionalBalance] | type[Lagrangian]] = {
    kind.name: kind for kind in (GradBalance, ProportionalBalance, Lagrangian)
}
