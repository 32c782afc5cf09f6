"""Gradual magnitude pruning: the smallest weights go, little by little, within one training; then the rewind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tombola.core.parts import COUNT, one_of, option
from tombola.core.selection import Density, Selection
from tombola.finders.base import Drawn, drawn
from tombola.finders.problem import Problem
from tombola.finders.training_finder import TrainingFinder, falling_share
from tombola.networks.masking import by_canonical_name
from tombola.networks.task import Task
from tombola.training import TrainingCallback


def cubic(density: float, done: float) -> float:
    """Return κ + (1 - κ)(1 - s)³, the density after a share s of the way (Zhu and Gupta 2017, equation 1)."""
    return density + (1 - density) * (1 - done) ** 3


def geometric(density: float, done: float) -> float:
    """Return κ^s: every cut removes the same share of what remains, as in iterative pruning."""
    found: float = density**done
    return found


def linear(density: float, done: float) -> float:
    """Return 1 + (κ - 1)s: every cut removes the same number of weights."""
    return 1 + (density - 1) * done


SCHEDULES: dict[str, Callable[[float, float], float]] = {"cubic": cubic, "geometric": geometric, "linear": linear}


@dataclass(frozen=True)
class Gradual(TrainingFinder):
    """Prunes the smallest weights little by little, and ends with the masked weights of a trained network.

    Pruned weights stay at zero; the ticket is rewound. Source: Zhu and Gupta 2017 (the cubic schedule).
    """

    name: ClassVar[str] = "gradual"
    version: ClassVar[int] = 2
    schedule: str = option(
        "cubic", f"how the density falls in gradual: {', '.join(SCHEDULES)}", must=one_of(SCHEDULES), group="rivals"
    )
    share: float = falling_share()
    rounds: int = option(50, "cuts of gradual", must=COUNT, group="rivals")

    def density_at(self, density: float, share: float) -> float:
        """Return the density of the mask after a share of the training."""
        cuts = int(min(share / self.share, 1.0) * self.rounds)
        return SCHEDULES[self.schedule](density, cuts / self.rounds)

    def find(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density, along a training."""
        selection = self.selection(problem, density)
        pruning = Pruning(self, selection)
        trained = problem.fit_with(pruning, problem.entry, self.name, self.epochs)
        # The weights that are left, by their size; those pruned early rank no lower than those pruned late.
        scores = problem.layout.flatten(problem.values_of(trained)).abs().masked_fill(~pruning.mask.cpu(), -torch.inf)
        ranked = selection.groups.score(scores)
        mask, scores = selection.keep(ranked), selection.groups.expand(ranked)
        return drawn(self, problem, density, mask, scores, trained.cost - problem.cost_so_far)


class Pruning(TrainingCallback):
    """A mask that loses its smallest weights as the training goes on."""

    def __init__(self, finder: Gradual, selection: Selection) -> None:
        self._finder, self._selection, self._layout = finder, selection, selection.layout
        self.mask = torch.ones(selection.layout.total, dtype=torch.bool)

    def begin(self, model: nn.Module, task: Task) -> None:
        """Find the weights."""
        super().begin(model, task)
        self._weights: Mapping[str, Tensor] = by_canonical_name(model)
        self.mask = self.mask.to(next(iter(self._weights.values())).device)

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Prune where the schedule asks for it, and keep what is pruned at zero: momentum would revive it."""
        now = self._selection.at(lambda density: self._finder.density_at(density, share))
        if now.kept < int(self.mask.sum()):
            sizes = self._layout.flatten(self._weights).abs().masked_fill(~self.mask, -torch.inf)
            self.mask = self.mask & now.keep(now.groups.score(sizes))
        for name, view in self._layout.views(self.mask).items():
            self._weights[name].masked_fill_(~view, 0.0)

    def row(self) -> dict[str, Any]:
        """Return the density reached."""
        return {"density": float(self.mask.float().mean())}

    def state(self) -> dict[str, Any]:
        """Return the mask."""
        return {"mask": self.mask}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the mask."""
        self.mask = state["mask"].to(self.mask.device)
