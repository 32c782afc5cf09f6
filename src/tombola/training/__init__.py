"""Training: the recipe, the one loop, and training functions of the user's own."""

from tombola.training.callback import TrainingCallback
from tombola.training.loop import VERSION, fit
from tombola.training.optimizers import HAM, OPTIMIZERS, SGD, AdamW, SignIn
from tombola.training.recipe import Recipe
from tombola.training.setup import Fit, TrainingSetup, still_identity
from tombola.training.state import State
from tombola.training.user_function import Job, TrainingFunction, UserFit

__all__ = [
    "HAM",
    "OPTIMIZERS",
    "SGD",
    "VERSION",
    "AdamW",
    "Fit",
    "Job",
    "Recipe",
    "SignIn",
    "State",
    "TrainingCallback",
    "TrainingFunction",
    "TrainingSetup",
    "UserFit",
    "fit",
    "still_identity",
]
