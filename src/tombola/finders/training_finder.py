"""What finders share that train weights and masks together, and then rewind."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.core.parts import COUNT, SHARE, option
from tombola.core.selection import Density, Selection
from tombola.errors import UsageError
from tombola.finders import diagnostics
from tombola.finders.base import Drawn, Finder, Needs
from tombola.finders.drawing import drawn
from tombola.finders.moving_mask import MovingMask
from tombola.finders.problem import Problem
from tombola.networks.network import load_weights
from tombola.ticket import Ticket
from tombola.training import State

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
        "epochs of the whole training in which a finder that trains weights and mask together finds its mask",
        must=COUNT,
        flag="search-epochs",
        unset="--epochs",
        group="rivals",
        kw_only=True,
    )

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        return Needs(trains=True, own_training=False, at=REWINDS)

    def check_epochs(self, start: int, epochs: int) -> None:
        """Raise UsageError where the search would end before it starts."""
        if self.epochs is not None and self.epochs <= start:
            raise UsageError(
                f"must lie above {start}, where the search starts, got {self.epochs}", option="search_epochs"
            )

    def check_length(self, start: int, epochs: int, has_length: bool) -> None:
        """Raise UsageError where the search would be over before it knows how long it is.

        start: the epoch where it starts. epochs: of the recipe. has_length: whether the data say their length.
        """
        epochs = self.epochs or epochs
        if epochs < start + 2 and not has_length:
            raise UsageError(
                f"must lie 2 or more above {start}, where the search starts, for data without a length, which only "
                f"their first epoch tells; got {epochs}",
                option="search_epochs",
            )

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        self.check_length(problem.weights.epoch, problem.epochs, problem.has_length)
        return self.find(problem, density)

    def find(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, along a training."""
        raise NotImplementedError


@dataclass(frozen=True)
class MovingMaskFinder(TrainingFinder):
    """Finds a ticket by a mask that moves along a training, at whose end there is a sparse network too."""

    def moving(self, selection: Selection, seed: int) -> MovingMask:
        """Return the mask that moves to a selection; seed: of whatever is drawn at random on the way."""
        raise NotImplementedError

    def find(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, and the sparse network at the end of the training."""
        selection = self.selection(problem, density)
        mask = self.moving(selection, problem.seed)
        trained = problem.fit_with(mask, problem.entry, self.name, self.epochs)
        # The weights that are left, by their size; what the mask leaves out ranks below all.
        sizes = problem.layout.flatten(problem.values_of(trained)).abs()
        last = mask.mask.cpu()
        ranked = selection.groups.score(sizes.masked_fill(~last, -torch.inf))
        # Groups that were never trained may fit where others do not: they stay out.
        found, scores = last & selection.keep(ranked), selection.groups.expand(ranked)
        kept = kept_weights(problem, trained, found)
        # Where the last epoch may be shorter than the first, the mask's way may not have come to its end.
        warnings = () if problem.has_length else diagnostics.dense_end(int(last.sum()), selection.kept)
        cost = trained.cost - problem.cost_so_far
        return drawn(self, problem, density, found, scores, cost, kept=kept, warnings=warnings)


def kept_weights(problem: Problem, trained: State, mask: Tensor) -> State:
    """Return a trained network under a flat mask (d,), which is another product than the ticket of that mask."""
    model = Ticket(problem.layout.views(mask.cpu())).apply_(load_weights(problem.model, trained.tensors))
    return State.of(model, trained.epoch, trained.cost, problem.model)
