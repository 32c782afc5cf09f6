"""Gem-Miner: rounded scores learn which of the frozen weights to keep, and are frozen out little by little."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola.core.parts import COUNT, NOT_NEGATIVE, option
from tombola.core.seeds import generator
from tombola.core.selection import Density, Selection
from tombola.finders.balance import decided_sides
from tombola.finders.base import Drawn
from tombola.finders.drawing import drawn
from tombola.finders.edge_popup import ScoreFinder, ScoreSearch
from tombola.finders.gates import Forming
from tombola.finders.problem import Problem
from tombola.finders.search import run_steps

THRESHOLD = 0.5


@dataclass(frozen=True)
class GemMiner(ScoreFinder):
    """Scores in [0, 1] are rounded to masks, through which the gradient passes straight, and pulled to zero.

    After every so many steps the lowest scores of all layers together are frozen at zero, the same share of those left
    each time, so that the wanted density is reached with the last. Scores start uniform in [0, 1]; steps are of SGD
    with momentum 0.9 along the loss's gradient and 2 λ p, followed by a cut to [0, 1]. The ticket is what was never
    frozen. Source: Sreenivasan et al. 2022, arXiv 2202.12002, algorithm 1, with the λ and the 29 freezings of its
    ResNet-20 runs.
    """

    name: ClassVar[str] = "gem-miner"
    divides: ClassVar[bool] = True
    rounds: int = option(29, "freezings of gem-miner", must=COUNT, group="rivals")
    penalty: float = option(1e-4, "λ of gem-miner, the price of its scores' squares", must=NOT_NEGATIVE, group="rivals")

    def holding(self) -> dict[str, Any]:
        """Return that layers are held where nothing is to be chosen, which they were not at first."""
        return {"decided": "held"}

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        search = GemSearch(self, problem, self.selection(problem, density))
        run_steps(search, self.steps, problem)
        scores = search.ranking()
        return drawn(
            self, problem, density, search.selection.keep(scores), search.selection.groups.expand(scores),
            search.meter.read(),
        )  # fmt: skip


class Rounded:
    """Masks of the scores above a half that are not frozen; the gradient passes straight through.

    alive: bool (g,), what is not frozen; layers of which nothing is kept are from the start. whole: bool (g,), layers
    that are kept whole, whose scores do not move.
    """

    def __init__(self, selection: Selection) -> None:
        side = decided_sides(selection)
        self.alive, self.whole = side >= 0, side > 0

    def mask(self, parameters: Tensor, step: int) -> Tensor:
        """Return zeros and ones."""
        self.alive, self.whole = self.alive.to(parameters.device), self.whole.to(parameters.device)
        return ((parameters > THRESHOLD) & self.alive).to(parameters.dtype)

    def pull(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        """Return the gradient, of scores that do not move none."""
        return self.moving(gradient)

    def moving(self, values: Tensor) -> Tensor:
        """Return values (g,), zeros where scores do not move."""
        return values.masked_fill(~self.alive | self.whole, 0.0)


class GemSearch(ScoreSearch):
    """One search under way."""

    weight_decay = 0.0
    _finder: GemMiner

    def begin(self) -> tuple[Tensor, Forming]:
        """Return uniform scores (g,), those of layers kept whole at their highest, and the rounding."""
        count = sum(self.selection.groups.layout().counts)
        self._rounded, self._frozen = Rounded(self.selection), 0
        draws = generator(self._problem.seed, "gem-miner")
        scores = torch.rand(count, generator=draws, dtype=torch.float32, device="cpu")
        return scores.masked_fill(self._rounded.whole, 1.0), self._rounded

    def ranking(self) -> Tensor:
        """Return the scores (g,); what is frozen ranks below all."""
        return self.scores.masked_fill(~self._rounded.alive, -torch.inf)

    @torch.no_grad()
    def move(self, gradient: Tensor, learning_rate: float) -> None:
        """Take a step along a gradient (g,) and the penalty's, and freeze where it is time to."""
        pulled = gradient + (2 * self._finder.penalty) * self._rounded.moving(self.scores)
        super().move(pulled, learning_rate)
        self._gates.clamp(0.0, 1.0, range(len(self.selection.groups.layout().counts)))
        due = min((self.step + 1) * (self._finder.rounds + 1) // self._finder.steps, self._finder.rounds)
        if due > self._frozen:
            self._frozen = due
            now = self.selection.at(lambda density: density ** (due / self._finder.rounds))
            self._rounded.alive &= self.selection.groups.pick(now.keep(self.ranking()))

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""
        return {**super().state(), "alive": self._rounded.alive, "frozen": self._frozen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""
        super().restore(state)
        self._rounded.alive, self._frozen = state["alive"].to(self.scores.device), state["frozen"]
