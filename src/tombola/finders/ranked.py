"""What finders share that rank weights by scores known beforehand."""

from dataclasses import dataclass

from torch import Tensor

from tombola.core.cost import Meter
from tombola.core.groups import Groups
from tombola.core.selection import Density
from tombola.finders.base import Drawn, Finder
from tombola.finders.drawing import drawn
from tombola.finders.problem import Problem


@dataclass(frozen=True)
class Ranked(Finder):
    """Keeps the weights, or groups, of the largest scores; tickets of weights ranked all together are nested."""

    def scores(self, problem: Problem) -> Tensor:
        """Return one score for each weight (d,), larger for better ones."""
        raise NotImplementedError

    def scores_of(self, groups: Groups, problem: Problem) -> Tensor:
        """Return one score for each group of weights (g,)."""
        return groups.score(self.scores(problem))

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        meter, selection = Meter(), self.selection(problem, density)
        scores = self.scores_of(selection.groups, problem)
        mask = selection.keep(scores)
        return drawn(self, problem, density, mask, selection.groups.expand(scores), meter.read())
