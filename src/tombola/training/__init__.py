"""Training: the recipe, the one loop, and training functions of the user's own."""

from tombola.training.companion import Companion
from tombola.training.lesson import Fit, Lesson
from tombola.training.loop import VERSION, fit
from tombola.training.optimizers import OPTIMIZERS, SGD, AdamW
from tombola.training.own import Job, OwnFit, TrainingFunction
from tombola.training.recipe import Recipe
from tombola.training.state import State

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "VERSION",
    "AdamW",
    "Companion",
    "Fit",
    "Job",
    "Lesson",
    "OwnFit",
    "Recipe",
    "State",
    "TrainingFunction",
    "fit",
]
