"""Recipe: how networks are trained."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from tombola.core.parts import COUNT, NOT_NEGATIVE, POSITIVE, Part, one_of, option
from tombola.core.schedules import one_cycle
from tombola.errors import UsageError
from tombola.training.optimizers import OPTIMIZERS, SGD, Optimizer

# One-cycle: the share of the training in which the learning rate rises.
RISE = 0.3
# Epochs over which trainings of transformers warm up (Goyal et al. 2017; Touvron et al. 2021).
WARM_EPOCHS = 5.0


def steps(recipe: "Recipe", epoch: float) -> float:
    """Return a tenth for each milestone that is behind."""
    return 0.1 ** sum(epoch >= milestone for milestone in recipe.milestones)


def one_cycle_of(recipe: "Recipe", epoch: float) -> float:
    """Rise from a 25th, linearly, over the first 30 %, and fall to zero by a half cosine (Smith and Topin 2019)."""
    return one_cycle(epoch / recipe.epochs, RISE)


def cosine(recipe: "Recipe", epoch: float) -> float:
    """Fall to zero by a half cosine (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return (1 + math.cos(math.pi * min(epoch / recipe.epochs, 1.0))) / 2


def warm_cosine(recipe: "Recipe", epoch: float) -> float:
    """Rise linearly over five epochs, or a twentieth of a shorter training, and fall to zero by a half cosine."""
    rise = min(WARM_EPOCHS, recipe.epochs / 20)
    if epoch < rise:
        return (epoch + 1e-3) / (rise + 1e-3)
    return (1 + math.cos(math.pi * min((epoch - rise) / (recipe.epochs - rise), 1.0))) / 2


# Of a recipe and the epochs behind, in fractions: the share of the highest learning rate.
LR_SCHEDULES: dict[str, Callable[["Recipe", float], float]] = {
    "steps": steps,
    "one-cycle": one_cycle_of,
    "cosine": cosine,
    "warm-cosine": warm_cosine,
}


@dataclass(frozen=True)
class Recipe(Part):
    """How networks are trained.

    summed, clip_norm: published runs follow the gradient of the batch's summed loss, clipped at 2 with all parameters
    together and pruned weights included, which in effect makes it a normalised gradient.
    """

    name: ClassVar[str] = "recipe"
    epochs: int = option(
        10, "epochs of a whole training; a ticket trains those after its rewind point", must=COUNT, group="training"
    )
    learning_rate: float = option(0.1, "learning rate, at its highest", must=POSITIVE, group="training")
    optimizer: Optimizer = option(
        SGD(), "what steps the weights: sgd, adamw, sign-in, ham", family=OPTIMIZERS, group="training"
    )
    weight_decay: float = option(1e-4, "weight decay", must=NOT_NEGATIVE, group="training")
    milestones: tuple[int, ...] = option(
        (), "epochs after which the learning rate is divided by ten", unset="none", group="training"
    )
    lr_schedule: str = option(
        "steps",
        "learning rate: steps (divided by ten at the milestones), one-cycle (up, then down), cosine "
        "(down), or warm-cosine (up over 5 epochs, or a twentieth of a training shorter than 100, then down)",
        must=one_of(LR_SCHEDULES),
        group="training",
    )
    summed: bool = option(False, "follow the gradient of a batch's summed loss, not of its mean", group="training")
    clip_norm: float | None = option(
        None, "largest 2-norm of a step's gradient", must=POSITIVE, unset="none", group="training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(early < late for early, late in pairwise((0, *self.milestones))):
            raise UsageError(
                f"must be epochs from 1 on, in rising order, got {list(self.milestones)}", option="milestones"
            )
        if self.lr_schedule != "steps" and self.milestones:
            raise UsageError(
                f"must be empty ([]) where lr_schedule is {self.lr_schedule}, got {list(self.milestones)}",
                option="milestones",
            )

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate after so many epochs, counted from 0 and in fractions."""
        return self.learning_rate * LR_SCHEDULES[self.lr_schedule](self, epoch)

    def stretched(self, epochs: int) -> "Recipe":
        """Return the recipe of a longer or shorter training, whose milestones lie at the same shares of it."""
        moved = {max(1, round(milestone * epochs / self.epochs)) for milestone in self.milestones}
        return replace(self, epochs=epochs, milestones=tuple(sorted(moved)))
