"""Gradual magnitude pruning: the smallest weights go, little by little, within one training; then the rewind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tombola.core.parts import COUNT, one_of, option
from tombola.core.selection import Selection
from tombola.finders.moving_mask import MovingMask
from tombola.finders.training_finder import MovingMaskFinder, falling_share


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
class Gradual(MovingMaskFinder):
    """Prunes the smallest weights little by little, and ends with the masked weights of a trained network.

    Pruned weights stay at zero; the ticket is rewound. Source: Zhu and Gupta 2017 (the cubic schedule).
    """

    name: ClassVar[str] = "gradual"
    divides: ClassVar[bool] = True
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

    def grouping(self) -> dict[str, Any]:
        """Return what an identity holds of how groups of different sizes are cut."""
        return {"uneven": "nested"}

    def moving(self, selection: Selection, seed: int) -> MovingMask:
        """Return the mask that moves to a selection."""
        return Pruning(self, selection)


class Pruning(MovingMask):
    """A mask that loses its smallest weights as the training goes on."""

    def __init__(self, finder: Gradual, selection: Selection) -> None:
        super().__init__(selection)
        self._finder = finder

    def moved(self, share: float) -> Tensor | None:
        """Return the mask without its smallest weights, where the schedule asks for it."""
        return self.cut_to(self._selection.at(lambda density: self._finder.density_at(density, share)))
