"""Learning-rate rewinding: iterative pruning that rewinds the schedule and keeps the weights."""

from dataclasses import dataclass
from typing import ClassVar

from tombola.core.parts import NATURAL, option
from tombola.errors import UsageError
from tombola.finders.problem import Problem
from tombola.finders.rewinding import LTR, Round
from tombola.training import State


@dataclass(frozen=True)
class LRR(LTR):
    """LTR that keeps its weights, and so their signs: every round goes on from where the last one ended.

    Only the schedule is rewound, so the ticket belongs to the weights that the last round left, and is trained from
    them by the recipe's epochs from `back_to` on. Source: Renda, Frankle and Carbin 2020, arXiv 2003.02389.
    """

    name: ClassVar[str] = "lrr"
    divides: ClassVar[bool] = True
    back_to: int | None = option(
        None,
        "epoch to which lrr rewinds the schedule",
        must=NATURAL,
        unset="--rewind-to",
        group="rivals",
    )

    def check_epochs(self, start: int, epochs: int) -> None:
        """Raise UsageError where the schedule would go back to its end, and leave nothing to train."""
        if self.back_to is not None and self.back_to >= epochs:
            raise UsageError(f"must lie below {epochs}, where the training ends, got {self.back_to}", option="back_to")

    def start(self, problem: Problem, before: Round) -> State | None:
        """Return the weights that a round left, at the epoch to which the schedule goes back."""
        epoch = problem.weights.epoch if self.back_to is None else self.back_to
        return State(before.trained.tensors, epoch, problem.weights.cost)
