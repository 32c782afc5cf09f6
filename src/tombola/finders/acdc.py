"""AC/DC: sparse and dense phases in turn within one training."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola.core.parts import BELOW_ONE, COUNT, INSIDE, option
from tombola.core.selection import Selection
from tombola.errors import UsageError
from tombola.finders.moving_mask import MovingMask
from tombola.finders.training_finder import MovingMaskFinder


@dataclass(frozen=True)
class ACDC(MovingMaskFinder):
    """Cuts to the wanted density and lets everything grow back, over and over, and ends with a sparse phase.

    A sparse phase begins by keeping the largest weights of all layers together, and trains those alone; in a dense
    phase the others train again, from zero. After a dense warm-up, sparse and dense phases of one length take turns
    until the last sparse one. Source: Peste et al. 2021, arXiv 2106.12379, algorithm 1; shares of the training as in
    its CIFAR-100 runs (of 200 epochs 10 dense, then 20 sparse and 20 dense in turn, the last 30 sparse).
    """

    name: ClassVar[str] = "ac-dc"
    divides: ClassVar[bool] = True
    warm_up: float = option(
        0.05, "share of the training of ac-dc that is dense at first", must=BELOW_ONE, group="rivals"
    )
    phases: int = option(5, "sparse phases of ac-dc", must=COUNT, group="rivals")
    last_phase: float = option(
        0.15, "share of the training of ac-dc that its last sparse phase takes", must=INSIDE, group="rivals"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_up + self.last_phase >= 1:
            raise UsageError(
                f"must lie below 1 - last_phase, which is {1 - self.last_phase:g}, got {self.warm_up}", option="warm_up"
            )

    def freezing(self) -> dict[str, Any]:
        """Return what an identity holds of how frozen layers are masked."""
        return {"frozen": "held"}

    def is_sparse(self, share: float) -> bool:
        """Whether the network is sparse after a share of the training."""
        between = 1 - self.warm_up - self.last_phase
        if share < self.warm_up or self.phases == 1:
            return share >= 1 - self.last_phase
        if share >= 1 - self.last_phase:
            return True
        return (share - self.warm_up) / between * (self.phases - 1) % 1 < 0.5

    def moving(self, selection: Selection, seed: int) -> MovingMask:
        """Return the mask that moves to a selection."""
        return Phases(self, selection)


class Phases(MovingMask):
    """A mask of the largest weights in sparse phases, and of all in dense ones."""

    def __init__(self, finder: ACDC, selection: Selection) -> None:
        super().__init__(selection)
        self._finder = finder

    def moved(self, share: float) -> Tensor | None:
        """Return the largest weights where a sparse phase begins, and all where it ends."""
        is_sparse = self._finder.is_sparse(share)
        if is_sparse == (not bool(self.mask.all())):
            return None
        sizes = self._selection.groups.score(self.sizes)
        return self._selection.keep(sizes) if is_sparse else torch.ones_like(self.mask)
