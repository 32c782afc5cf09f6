"""What finders share that rank weights by scores known beforehand."""

from dataclasses import dataclass

from torch import Tensor

from tombola.core.cost import Meter
from tombola.core.selection import Density
from tombola.finders.base import Drawn, Finder, drawn
from tombola.finders.problem import Problem


@dataclass(frozen=True)
class Ranked(Finder):
    """Keeps the weights of the largest scores; tickets ranked over all layers together are nested."""

    def scores(self, problem: Problem) -> Tensor:
        """Return one score for each weight (d,), larger for better ones."""
        raise NotImplementedError

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        meter, selection = Meter(), self.selection(problem, density)
        scores = self.scores(problem)
        mask = selection.keep(selection.groups.reduce(scores))
        return drawn(self, problem, density, mask, scores, meter.read())
