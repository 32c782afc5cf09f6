"""Recipe: how networks are trained."""

from collections.abc import Callable
from dataclasses import dataclass

from tombola.errors import UsageError
from tombola.schedules import one_cycle

# One-cycle: the share of the training in which the learning rate rises.
RISE = 0.3


@dataclass(frozen=True)
class Recipe:
    """How networks are trained: SGD, whose learning rate follows a schedule.

    epochs: of the whole training. lr_schedule: "steps" divides the learning rate by ten at each milestone; "one-cycle"
    (Smith and Topin 2019) lets it rise from a 25th, linearly, over the first 30 % of the training, and fall to zero by
    a half cosine. milestones: epochs after which it drops. nesterov: Nesterov's momentum. summed: follow the gradient
    of the batch's summed loss instead of its mean. clip_norm: the largest 2-norm of a step's gradient, all parameters
    together and pruned weights included; none by default. Published runs clip the summed loss's gradient at 2, which
    in effect makes it a normalised gradient.
    """

    epochs: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[int, ...] = ()
    lr_schedule: str = "steps"
    nesterov: bool = False
    summed: bool = False
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("epochs", isinstance(self.epochs, int) and self.epochs >= 1, "a whole number of at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "not negative"),
            ("lr_schedule", self.lr_schedule in LR_SCHEDULES, f"one of {', '.join(LR_SCHEDULES)}"),
            (
                "milestones",
                self.lr_schedule == "steps" or not self.milestones,
                "empty ([]) where lr_schedule is not steps",
            ),
            ("nesterov", not self.nesterov or self.momentum > 0, "false where momentum is 0"),
            ("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0"),
        ):
            if not holds:
                raise UsageError(f"{name} of the recipe must be {allowed}, got {getattr(self, name)!r}")

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate after so many epochs, counted from 0 and in fractions."""
        return self.learning_rate * LR_SCHEDULES[self.lr_schedule](self, epoch)


def _steps(recipe: Recipe, epoch: float) -> float:
    return 0.1 ** sum(epoch >= milestone for milestone in recipe.milestones)


def _one_cycle(recipe: Recipe, epoch: float) -> float:
    return one_cycle(epoch / recipe.epochs, RISE)


LR_SCHEDULES: dict[str, Callable[[Recipe, float], float]] = {"steps": _steps, "one-cycle": _one_cycle}
