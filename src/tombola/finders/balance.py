"""Balance: logits that start at the wanted density, and a controller for each pool of layers that holds it there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tombola.core.concrete import LOWEST_TEMPERATURE, Concrete, Relaxation
from tombola.core.controllers import FIGURES, ByNorms, Controller, Figures, Gradients, Push, State, Target
from tombola.core.parts import guarded, is_own, written_name
from tombola.core.selection import Pool, Selection
from tombola.errors import UsageError

# A logit so far out that its gate is open, or closed, for good: sigmoid has no slope there, and no noise reaches it.
FAR = 100.0


def far(relaxation: Relaxation) -> float:
    """Return how far out a logit is open, or closed, for good: beyond all noise, which low temperatures enlarge."""
    if not isinstance(relaxation, Concrete):
        return FAR
    return max(FAR, 25 / max(relaxation.temperature, LOWEST_TEMPERATURE) + 20)


def holding(relaxation: Relaxation) -> dict[str, Any]:
    """Return what an identity holds of how far out that is, where it is another distance than at first."""
    distance = far(relaxation)
    return {} if distance == FAR else {"decided": distance}


def start_logits(selection: Selection, start: Callable[[float], float], like: Tensor, distance: float = FAR) -> Tensor:
    """Return logits (g,): `start` of each pool's density, so far out where a pool is decided."""
    counts = selection.groups.layout().counts
    logits = torch.empty(sum(counts), dtype=like.dtype, device=like.device)
    views = logits.split(list(counts))
    for pool in selection.pools:
        value = (distance if pool.kept else -distance) if pool.decided else start(pool.density)
        for part in pool.parts:
            views[part].fill_(value)
    return logits


def decided_sides(selection: Selection) -> Tensor:
    """Return (g,): 1 for what is kept whatever the scores, -1 for what is not, 0 where something is to be chosen."""
    return start_logits(selection, lambda _: 0.0, torch.empty(0, dtype=torch.float32, device="cpu"), 1.0)


class Balance:
    """One controller's work on each pool whose layers are ranked together; one pool where allocation is global.

    pools: those of the selection where something is to be decided.
    """

    def __init__(self, controller: Controller, selection: Selection, logits: Tensor) -> None:
        self._controller, self._selection = controller, selection
        self._counts = list(selection.groups.layout().counts)
        self.pools = [pool for pool in selection.pools if not pool.decided]
        with guarded("controller", controller):
            self._states: list[State] = [controller.init(selection.of_pool(pool, logits)) for pool in self.pools]
        sizes = selection.groups.sizes
        self._sizes = [None if sizes is None else selection.of_pool(pool, sizes).to(logits) for pool in self.pools]

    def update(
        self, logits: Tensor, gradient: Tensor, wanted: Callable[[float], float], learning_rate: float, share: float
    ) -> tuple[Tensor, Figures]:
        """Return what the optimiser gets (g,), and the figures of the step.

        wanted: the density to aim at now, of a pool's final one. share: of the search that is done.
        """
        if len(self.pools) == 1 and len(self.pools[0].parts) == len(self._counts):
            return self._step(0, logits, gradient, wanted, learning_rate, share)
        combined = torch.zeros_like(gradient)
        views, figures = combined.split(self._counts), []
        for number, pool in enumerate(self.pools):
            mine, theirs = self._selection.of_pool(pool, logits), self._selection.of_pool(pool, gradient)
            pushed, found = self._step(number, mine, theirs, wanted, learning_rate, share)
            for part, piece in zip(pool.parts, pushed.split([self._counts[i] for i in pool.parts]), strict=True):
                views[part].copy_(piece)
            figures.append(found)
        return combined, _together(figures, self.pools)

    def _step(
        self, number: int, logits: Tensor, gradient: Tensor, wanted: Callable[[float], float], rate: float, share: float
    ) -> tuple[Tensor, Figures]:
        target = Target(wanted(self.pools[number].density), rate, share, self._sizes[number])
        with guarded("controller", self._controller):
            found = self._controller.update(logits, gradient, target, self._states[number])
        if is_own(self._controller):
            _check(repr(written_name(self._controller)), found, logits)
        pushed, self._states[number], figures = found
        return pushed, figures

    def pushes(
        self, seen: Sequence[Gradients], wanted: Callable[[float], float], learning_rate: float, share: float
    ) -> tuple[list[Push], Figures]:
        """Return how hard each pool is pushed, and the figures of the step, by what was seen of each pool.

        For controllers that decide by that.
        """
        assert isinstance(self._controller, ByNorms)
        pushes, figures = [], []
        for number, (pool, found) in enumerate(zip(self.pools, seen, strict=True)):
            target = Target(wanted(pool.density), learning_rate, share)
            push, self._states[number], of_pool = self._controller.step(found, target, self._states[number])
            pushes.append(push)
            figures.append(of_pool)
        return pushes, figures[0] if len(figures) == 1 else _together(figures, self.pools)

    def state(self) -> list[dict[str, Tensor]]:
        """Return the controllers' states."""
        return [dict(state) for state in self._states]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from an earlier `state()`."""
        self._states = [
            {key: value.to(before[key].device) for key, value in state.items()}
            for state, before in zip(states, self._states, strict=True)
        ]


def _check(name: str, found: Any, logits: Tensor) -> None:
    """Raise UsageError unless an update gave a gradient like the logits, a state and the figures that are recorded."""
    if not isinstance(found, tuple) or len(found) != 3:
        raise UsageError(f"{name} must return (gradient, state, figures) from update", option="controller")
    pushed, state, figures = found
    if not isinstance(pushed, Tensor) or pushed.shape != logits.shape:
        got = list(pushed.shape) if isinstance(pushed, Tensor) else type(pushed).__name__
        raise UsageError(f"{name} must return a gradient of shape {list(logits.shape)}, got {got}", option="controller")
    for what, value in (("state", state), ("figures", figures)):
        if not isinstance(value, Mapping):
            raise UsageError(f"{name} must return {what} by name, got {type(value).__name__}", option="controller")
    missing = [key for key in FIGURES if key not in figures]
    if missing:
        raise UsageError(
            f"{name} must give the figures {', '.join(FIGURES)}; {', '.join(missing)} is missing", option="controller"
        )


def _together(figures: Sequence[Figures], pools: Sequence[Pool]) -> Figures:
    """Return the figures of several pools as one: norms over all of them, the rest as means over their weights."""
    total = sum(pool.total for pool in pools)
    weights = [pool.total / total for pool in pools]
    found: dict[str, Tensor] = {}
    for key in figures[0]:
        values = torch.stack([each[key] for each in figures])
        share = torch.tensor(weights, dtype=values.dtype, device=values.device)
        found[key] = values.square().sum().sqrt() if key.endswith("norm") else (values * share).sum()
    return found
