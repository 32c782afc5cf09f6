"""GraNet: gradual pruning, after each cut of which small weights make room for others."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from tombola.core.allocation import Allocation, ErdosRenyiKernel, Global
from tombola.core.granularity import Weight
from tombola.core.parts import SHARE, option
from tombola.core.selection import Selection
from tombola.errors import UsageError
from tombola.finders.base import allocation_option
from tombola.finders.moving_mask import MovingMask
from tombola.finders.sparse_training import TWO, UPDATES, Exchanging, SparseTraining, first_fraction


@dataclass(frozen=True)
class GraNet(SparseTraining):
    """The density falls cubically, by size over all layers, and every cut is followed by an exchange within layers.

    What regenerates is where the gradient is largest. The network starts half dense, layers as in ERK; with
    `start_density` 1 it starts dense. Source: Liu et al. 2021, arXiv 2106.10404, algorithm 1, equations 2, 4 and 5;
    shares as in its CIFAR runs (of 160 epochs the density falls in 80, half of the weights regenerate at first).
    """

    name: ClassVar[str] = "granet"
    divides: ClassVar[bool] = True
    fraction: float = first_fraction(0.5)
    updates: int = option(60, UPDATES, must=TWO, group="rivals")
    until: float = option(1.0, "share of the training after which a mask stands still", must=SHARE, group="rivals")
    start_density: float = option(0.5, "density that granet starts from", must=SHARE, group="rivals")
    falling: float = option(
        0.5, "share of the training in which granet falls to the density", must=SHARE, group="rivals"
    )
    allocation: Allocation = allocation_option(Global())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.falling > self.until:
            raise UsageError(
                f"must be at most until, {self.until:g}, after which the mask stands still, got {self.falling:g}",
                option="falling",
            )

    def density_at(self, density: float, share: float) -> float:
        """Return κ + (κ₀ - κ)(1 - s)³, the density after a share of the training (equation 2)."""
        start, left = max(self.start_density, density), 1 - min(share / self.falling, 1.0)
        return density + (start - density) * left**3

    def first_selection(self, selection: Selection) -> Selection:
        """Return what is kept at first: layers as in ERK where their weights are ranked together later, one by one."""
        first = selection.at(lambda density: self.density_at(density, 0.0))
        by_weight = isinstance(self.allocation, Global) and isinstance(self.granularity, Weight)
        return replace(first, allocation=ErdosRenyiKernel()) if by_weight else first

    def moving(self, selection: Selection, seed: int) -> MovingMask:
        """Return the mask that moves to a selection."""
        return Regenerating(self, selection, seed)


class Regenerating(Exchanging):
    """A mask that loses its smallest weights, and exchanges others."""

    _finder: GraNet

    def wanted(self, share: float) -> Selection:
        """Return what is kept after a share of the training."""
        return self._selection.at(lambda density: self._finder.density_at(density, share))

    def cut(self, share: float) -> Tensor:
        """Return the mask without its smallest weights, where the density asks for it."""
        cut = self.cut_to(self.wanted(share))
        return self.mask if cut is None else cut
