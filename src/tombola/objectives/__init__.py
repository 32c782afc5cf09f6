"""What makes a mask good: the objectives R of a masked network f_z, all minimised (arXiv 2512.07142)."""

from tombola.core.written import Family
from tombola.objectives.base import Objective, OwnObjective, gradient_of, value_of
from tombola.objectives.features import FeatureMSE
from tombola.objectives.gradients import GradMatch, GradNorm
from tombola.objectives.masked_batch import MaskedBatch
from tombola.objectives.outputs import DeltaLoss, ForwardKL, Loss, ReverseKL

OBJECTIVES: Family[Objective] = Family(
    "objective",
    {kind.name: kind() for kind in (Loss, DeltaLoss, GradNorm, ReverseKL, ForwardKL, FeatureMSE, GradMatch)},
    Objective,
    OwnObjective.of,
)

__all__ = [
    "OBJECTIVES",
    "DeltaLoss",
    "FeatureMSE",
    "ForwardKL",
    "GradMatch",
    "GradNorm",
    "Loss",
    "MaskedBatch",
    "Objective",
    "ReverseKL",
    "gradient_of",
    "value_of",
]
