"""What makes a mask good: the objectives R of a masked network f_z, all minimised (arXiv 2512.07142)."""

from tombola.errors import UsageError
from tombola.objectives.features import feature_mse
from tombola.objectives.gradients import grad_match, grad_norm
from tombola.objectives.outputs import delta_loss, forward_kl, loss, reverse_kl
from tombola.objectives.view import Objective, View

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("loss", loss),
        Objective("delta-loss", delta_loss, asks_outputs=True),
        Objective("grad-norm", grad_norm, backward=4),
        Objective("reverse-kl", reverse_kl, asks_outputs=True),
        Objective("forward-kl", forward_kl, asks_outputs=True),
        Objective("feature-mse", feature_mse, asks_network=True, forward=2),
        Objective("grad-match", grad_match, asks_network=True, forward=2, backward=5),
    )
}


def objective_named(name: str) -> Objective:
    """Return an objective by name; raises UsageError listing the known ones."""
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r} is unknown; allowed are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


__all__ = ["OBJECTIVES", "Objective", "View", "objective_named"]
