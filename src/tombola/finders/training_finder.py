"""What finders share that train weights and masks together, and then rewind."""

from dataclasses import dataclass

from tombola.core.parts import COUNT, SHARE, option
from tombola.core.selection import Density
from tombola.errors import UsageError
from tombola.finders.base import Drawn, Finder, Needs
from tombola.finders.problem import Problem

REWINDS = ("rewind", "init", "given")


def falling_share() -> float:
    """Declare the share of a training in which a density falls."""
    share: float = option(
        0.6, "share of a training in which gradual and joint fall to the density", must=SHARE, group="rivals"
    )
    return share


@dataclass(frozen=True)
class TrainingFinder(Finder):
    """Finds a ticket along a training from the problem's weights; the ticket belongs to those weights.

    The recipe's milestones stretch with the training. The ticket's own training keeps the recipe's length.
    """

    epochs: int | None = option(
        None,
        "epochs of the whole training in which joint, gradual or continuous-sparsification finds its mask",
        must=COUNT,
        flag="search-epochs",
        unset="--epochs",
        group="rivals",
        kw_only=True,
    )

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(trains=True, own_training=False, at=REWINDS)

    def check_start(self, epoch: int) -> None:
        """Raise UsageError where the search would end before it starts."""
        if self.epochs is not None and self.epochs <= epoch:
            raise UsageError(
                f"must lie above {epoch}, where the search starts, got {self.epochs}", option="search_epochs"
            )

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        self.check_start(problem.weights.epoch)
        return self.find(problem, density)

    def find(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, along a training."""
        raise NotImplementedError
