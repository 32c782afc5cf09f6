"""Gradual magnitude pruning: the smallest weights go, little by little, within one training; then the rewind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.finders.along import Along, check_share
from tombola.finders.base import make_ticket
from tombola.flat import Layout
from tombola.masking import by_canonical_name
from tombola.problem import Problem
from tombola.ranking import count_kept, keep_top
from tombola.store import Stage
from tombola.task import Task
from tombola.ticket import Ticket
from tombola.training import Companion


def cubic(density: float, done: float) -> float:
    """Return κ + (1 - κ)(1 - s)³, the density after a share s of the way (Zhu and Gupta 2017, equation 1)."""
    return density + (1 - density) * (1 - done) ** 3


def geometric(density: float, done: float) -> float:
    """Return κ^s: every round removes the same share of what remains, as in iterative pruning."""
    return density**done


SCHEDULES: dict[str, Callable[[float, float], float]] = {"cubic": cubic, "geometric": geometric}


@dataclass(frozen=True)
class Gradual(Along):
    """Prunes the smallest weights of all layers together, and ends with the masked weights of a trained network.

    schedule: how the density falls, by name in SCHEDULES. share: of the training in which it falls. rounds: in how many
    cuts. Pruned weights stay at zero; the ticket is rewound. Source: Zhu and Gupta 2017 (the cubic schedule).
    """

    name: ClassVar[str] = "gradual"
    schedule: str = "cubic"
    share: float = 0.6
    rounds: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule {self.schedule!r} is unknown; allowed are {', '.join(SCHEDULES)}")
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise UsageError(f"rounds must be a whole number of at least 1, got {self.rounds!r}")
        check_share(self.share)

    def density_at(self, density: float, share: float) -> float:
        """Return the density of the mask after a share of the training."""
        number = int(min(share / self.share, 1.0) * self.rounds)
        return SCHEDULES[self.schedule](density, number / self.rounds)

    def draw_one(self, problem: Problem, density: float, stage: Stage) -> Ticket:
        """Return the ticket of one density below 1."""
        pruning = Pruning(self, problem.layout, density)
        trained = problem.accompany(pruning, stage, self.name, self.epochs)
        # The weights that are left, by their size; those pruned early rank no lower than those pruned late.
        scores = problem.layout.flatten(problem.values_of(trained)).abs().masked_fill(~pruning.mask.cpu(), -torch.inf)
        mask = keep_top(scores, count_kept(density, problem.layout.total))
        return make_ticket(self, problem, density, mask, scores, trained.cost - problem.spent)


class Pruning(Companion):
    """A mask that loses its smallest weights as the training goes on."""

    def __init__(self, finder: Gradual, layout: Layout, density: float) -> None:
        self._finder, self._layout, self._density = finder, layout, density
        self.mask = torch.ones(layout.total, dtype=torch.bool)

    def begin(self, model: nn.Module, task: Task) -> None:
        """Find the weights."""
        super().begin(model, task)
        self._weights: Mapping[str, Tensor] = by_canonical_name(model)
        self.mask = self.mask.to(next(iter(self._weights.values())).device)

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Prune where the schedule asks for it, and keep what is pruned at zero: momentum would revive it."""
        wanted = count_kept(self._finder.density_at(self._density, share), self._layout.total)
        if wanted < int(self.mask.sum()):
            sizes = self._layout.flatten(self._weights).abs()
            self.mask = keep_top(sizes.masked_fill(~self.mask, -torch.inf), wanted)
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
