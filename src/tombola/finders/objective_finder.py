"""What finders share that minimise an objective, or rank by one."""

from dataclasses import dataclass, replace
from typing import Self

from tombola.core.parts import option
from tombola.finders.base import Finder, Needs
from tombola.finders.problem import Problem
from tombola.networks.network import FrozenNetwork
from tombola.networks.teacher import usual_objective
from tombola.objectives import OBJECTIVES, Objective


def default_objective(problem: Problem) -> Objective:
    """Return what to minimise where nobody says: the loss while the network has learned nothing, else reverse KL."""
    name = usual_objective(
        problem.network(), problem.layout, problem.task, problem.feed, problem.runtime, problem.progress
    )
    return OBJECTIVES.read(name)


@dataclass(frozen=True)
class ObjectiveFinder(Finder):
    """A finder with an objective."""

    objective: Objective | None = option(
        None,
        f"what the search minimises: {', '.join(OBJECTIVES)}, or my_module:function",
        family=OBJECTIVES,
        unset="loss while the network has learned nothing, else reverse-kl",
        group="search",
    )

    @property
    def settled_objective(self) -> Objective:
        """The objective, of a finder in which it is written out."""
        assert self.objective is not None
        return self.objective

    def check(self, network: FrozenNetwork) -> None:
        """Raise UsageError where the objective cannot look at a network."""
        if self.objective is not None:
            self.objective.check(network)

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        asked = self.objective.asks_task if self.objective is not None else ("loss",)
        return replace(super().needs(), task=asked)

    def settled(self, problem: Problem) -> Self:
        """Return the same with the objective written out."""
        return replace(self, objective=self.objective or default_objective(problem))
