"""Dynamic sparse training: a sparse network whose small weights make room for others, again and again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from tombola.core.allocation import Allocation, ErdosRenyiKernel
from tombola.core.parts import INSIDE, SHARE, Must, Part, option
from tombola.core.seeds import generator
from tombola.core.selection import Selection
from tombola.core.written import Family
from tombola.finders.base import allocation_option
from tombola.finders.moving_mask import MovingMask, exchanged
from tombola.finders.training_finder import MovingMaskFinder

UPDATES = "equal parts of the time until a mask stands still, an exchange after each but the last"
TWO = Must(lambda value: value >= 2, "of at least 2")


@runtime_checkable
class Growth(Protocol):
    """Says which of the weights that are left out come in."""

    def scores(self, mask: MovingMask, seed: int, number: int) -> Tensor:
        """Return a score for each weight (d,), larger for those that come first; number: of the exchange, from 1."""


@dataclass(frozen=True)
class ByGradient(Part):
    """Where the loss's gradient is largest (Evci et al. 2020)."""

    name: ClassVar[str] = "gradient"

    def scores(self, mask: MovingMask, seed: int, number: int) -> Tensor:
        """Return |∂L/∂θ| of the last batch."""
        return mask.gradient.abs()


@dataclass(frozen=True)
class ByChance(Part):
    """Anywhere (Mocanu et al. 2018, arXiv 1707.04780)."""

    name: ClassVar[str] = "random"

    def scores(self, mask: MovingMask, seed: int, number: int) -> Tensor:
        """Return noise."""
        draws = generator(seed, "growth", number)
        return torch.rand(mask.mask.shape, generator=draws, dtype=torch.float32, device="cpu").to(mask.mask.device)


GROWTHS: Family[Growth] = Family("growth", {kind.name: kind() for kind in (ByGradient, ByChance)}, Growth)


def first_fraction(default: float) -> Any:
    """Declare the share of a layer's weights that moves at first, at a finder's default."""
    return option(default, "share of a layer's weights that a first exchange would move", must=INSIDE, group="rivals")


@dataclass(frozen=True)
class SparseTraining(MovingMaskFinder):
    """What trainings share whose density stands while their mask moves: the network starts sparse, at random.

    At each of so many `updates`, evenly spread until a share of the training is done, each layer drops a share of its
    weights, the smallest, and takes in as many; that share falls by a half cosine, fraction/2 (1 + cos(πs)), to nothing
    at the last. What comes in starts from zero. Frozen layers keep the mask that they start with. The update follows
    the step of its batch, where the published one stands in its place.
    """

    growth: Growth = option(ByGradient(), "where weights grow: gradient, random", family=GROWTHS, group="rivals")
    fraction: float = first_fraction(0.3)
    updates: int = option(30, UPDATES, must=TWO, group="rivals")
    until: float = option(0.75, "share of the training after which a mask stands still", must=SHARE, group="rivals")
    allocation: Allocation = allocation_option(ErdosRenyiKernel())

    def updates_by(self, share: float) -> int:
        """Return how many exchanges are due by a share of the training."""
        return int(min(share / self.until, 1.0) * self.updates)

    def fraction_at(self, share: float) -> float:
        """Return the share of a layer's weights that an exchange moves (Evci et al. 2020, the cosine)."""
        return self.fraction / 2 * (1 + math.cos(math.pi * min(share / self.until, 1.0)))

    def grouping(self) -> dict[str, Any]:
        """Return what an identity holds of how groups of different sizes move."""
        return {"uneven": "by weights"}

    def freezing(self) -> dict[str, Any]:
        """Return what an identity holds of how frozen layers are masked."""
        return {"frozen": "held"}

    def first_selection(self, selection: Selection) -> Selection:
        """Return what is kept at first."""
        return selection

    def moving(self, selection: Selection, seed: int) -> MovingMask:
        """Return the mask that moves to a selection."""
        return Exchanging(self, selection, seed)


@dataclass(frozen=True)
class RigL(SparseTraining):
    """Grows where the gradient is largest (Evci et al. 2020, arXiv 1911.11134, algorithm 1; published every 100 steps).

    The gradient is that of the dense network's weights on one batch, at those that are left out too.
    """

    name: ClassVar[str] = "rigl"
    divides: ClassVar[bool] = True


@dataclass(frozen=True)
class SET(SparseTraining):
    """Grows at random (Mocanu et al. 2018), exploring in time what a dense network has at once.

    Rows of metrics hold the share of all weights that were ever in: the in-time over-parameterisation of Liu et al.
    2021, arXiv 2102.02887, whose fraction this is; fewer updates leave what came in more time to grow.
    """

    name: ClassVar[str] = "set"
    divides: ClassVar[bool] = True
    growth: Growth = option(ByChance(), "where weights grow: gradient, random", family=GROWTHS, group="rivals")
    fraction: float = first_fraction(0.5)


class Exchanging(MovingMask):
    """A mask whose weights make room for others."""

    def __init__(self, finder: SparseTraining, selection: Selection, seed: int) -> None:
        first = finder.first_selection(selection)
        count, draws = sum(first.groups.layout().counts), generator(seed, "sparse start")
        noise = torch.rand(count, generator=draws, dtype=torch.float32, device="cpu")
        super().__init__(selection, first.keep(noise))
        self._finder, self._seed = finder, seed
        self._done, self._explored = 0, self.mask

    def moved(self, share: float) -> Tensor | None:
        """Return the mask after an exchange, where one is due."""
        number = self._finder.updates_by(share)
        if number == self._done:
            return None
        self._done = number
        growth, groups = self._finder.growth.scores(self, self._seed, number), self._selection.groups
        fraction = self._finder.fraction_at(share)
        moved = exchanged(groups, self.cut(share), self.sizes, growth, fraction, self.still)
        # What layers that are ranked together leave of their number, each less than a group, adds up.
        moved = self.wanted(share).filled(moved, groups.score(growth), self.still)
        self._explored = self._explored.to(moved.device) | moved
        return moved

    def wanted(self, share: float) -> Selection:
        """Return what is kept after a share of the training."""
        return self._selection

    def cut(self, share: float) -> Tensor:
        """Return the mask before the exchange."""
        return self.mask

    def row(self) -> dict[str, Any]:
        """Return the density, and the share of the weights that were ever in."""
        return {**super().row(), "explored": float(self._explored.float().mean())}

    def state(self) -> dict[str, Any]:
        """Return the mask, what was ever in, and the number of exchanges."""
        return {**super().state(), "explored": self._explored, "done": self._done}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        super().restore(state)
        self._explored, self._done = state["explored"].to(self.mask.device), state["done"]
