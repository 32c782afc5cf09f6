"""Masks that move in a training: what they leave out is zero and has neither gradient nor momentum."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.core.groups import Groups
from tombola.core.ranking import fill_top, keep_top
from tombola.core.selection import Selection
from tombola.networks.masking import by_canonical_name
from tombola.networks.task import Task
from tombola.training import TrainingCallback


class MovingMask(TrainingCallback):
    """Weights are trained under a mask that changes as the training goes on; this one stands still.

    mask: bool (d,), that of the start; by default all are in. What comes back starts from zero, without momentum; of a
    frozen layer, which nothing would train, from its value. The network's gradients are dense: what is left out has one
    too, which the optimiser does not see.
    """

    def __init__(self, selection: Selection, mask: Tensor | None = None) -> None:
        self._selection, self._layout = selection, selection.layout
        self.mask = torch.ones(self._layout.total, dtype=torch.bool, device="cpu") if mask is None else mask
        self._optimizer: Optimizer | None = None
        self._dense: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self, model: nn.Module, task: Task) -> None:
        """Find the weights, and put the mask on them."""
        super().begin(model, task)
        self._weights: Mapping[str, Tensor] = by_canonical_name(model)
        self.mask = self.mask.to(self._weights[self._layout.names[0]].device)
        chosen = {name: self._weights[name] for name in self._layout.names}
        self._frozen = {name: weight.clone() for name, weight in chosen.items() if not weight.requires_grad}
        self._zero()

    def stepped_by(self, optimizer: Optimizer) -> None:
        """Have the optimiser see the gradients of the weights under the mask alone."""
        self._optimizer = optimizer
        optimizer.register_step_pre_hook(lambda *_: self._hide())

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Move the mask where it is time to, and keep what it leaves out at zero."""
        moved = self.moved(share)
        if moved is not None:
            self._forget(~moved)
            self.mask = moved
        self._zero()
        self._dense = {}

    def moved(self, share: float) -> Tensor | None:
        """Return the mask after a share of the training, where it is another from now on."""
        return None

    def cut_to(self, wanted: Selection) -> Tensor | None:
        """Return the mask (d,) without its smallest weights, as few as are wanted; None where it has no more."""
        if wanted.kept >= int(self.mask.sum()):
            return None
        sizes = self.sizes.masked_fill(~self.mask, -torch.inf)
        return self.mask & wanted.keep(wanted.groups.score(sizes))

    @property
    def sizes(self) -> Tensor:
        """|θ| (d,)."""
        return self._layout.flatten(self._weights).abs()

    @property
    def gradient(self) -> Tensor:
        """The loss's gradient (d,) at the last step, of the weights that are left out too."""
        missing = {
            name: torch.zeros_like(self._weights[name]) for name in self._layout.names if name not in self._dense
        }
        return self._layout.flatten({**missing, **self._dense})

    @property
    def still(self) -> frozenset[int]:
        """The parts of the groups of which all layers are frozen: nothing says what would be better there."""
        names = self._layout.names
        parts = enumerate(self._selection.groups.parts)
        return frozenset(place for place, part in parts if all(names[layer] in self._frozen for layer in part))

    def _hide(self) -> None:
        """Give the optimiser gradients under the mask, and remember the dense ones."""
        for name, view in self._layout.views(self.mask).items():
            weight = self._weights[name]
            if weight.grad is not None:
                self._dense[name] = weight.grad
                weight.grad = weight.grad.masked_fill(~view, 0.0)

    def _forget(self, left_out: Tensor) -> None:
        """Take what the optimiser remembers of weights away: (d,)."""
        state = self._optimizer.state if self._optimizer is not None else {}
        for name, view in self._layout.views(left_out).items():
            for remembered in state.get(self._weights[name], {}).values():
                if isinstance(remembered, Tensor) and remembered.shape == view.shape:
                    remembered.masked_fill_(view, 0.0)

    def _zero(self) -> None:
        for name, view in self._layout.views(self.mask).items():
            if name in self._frozen:
                self._weights[name].copy_(self._frozen[name])
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


def exchanged(
    groups: Groups, mask: Tensor, sizes: Tensor, growth: Tensor, share: float, still: Collection[int] = ()
) -> Tensor:
    """Return a mask (d,) of which, in every layer, a share of the weights made room for as many others.

    The smallest by `sizes` (d,) go; of all that are left out by then, the best by `growth` (d,) come. Groups of weights
    go and come together, as many as fit where they differ in size. still: parts of the groups that stay as they are.
    """
    lengths = list(groups.layout().counts)
    active, small, good = groups.pick(mask), groups.score(sizes), groups.score(growth)
    counts = [int(part.sum()) for part in active.split(lengths)]
    going = [0 if place in still else int(share * count) for place, count in enumerate(counts)]
    staying = torch.cat(
        [
            keep_top(part, count - gone)
            for part, count, gone in zip(
                small.masked_fill(~active, -torch.inf).split(lengths), counts, going, strict=True
            )
        ]
    )
    wanted = good.masked_fill(staying, torch.inf)
    certain = groups.certain(wanted)
    if certain is not None:
        wanted = wanted.masked_fill(certain, torch.inf)
    if groups.sizes is None:
        filled = [keep_top(*each) for each in zip(wanted.split(lengths), counts, strict=True)]
    else:
        weights = groups.sizes.to(mask.device)
        before = [int(part.sum()) for part in (weights * active).split(lengths)]
        filled = [fill_top(*each) for each in zip(wanted.split(lengths), before, weights.split(lengths), strict=True)]
    return groups.expand(torch.cat(filled))
