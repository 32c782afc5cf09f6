"""Selection: the one door from scores to a mask of exactly k weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor

from tombola.core.allocation import Allocation, Global
from tombola.core.flat import Layout
from tombola.core.granularity import Granularity, Groups, Weight
from tombola.core.ranking import check_density, count_kept, keep_top
from tombola.errors import UsageError

# Raised when the same scores make another mask.
VERSION = 1

# What an error is about that scores, not options, are at fault for.
SCORES = "scores"

# A number, or numbers by patterns of layers' names, of which the first that matches counts.
Density = float | Mapping[str, float]


@dataclass(frozen=True)
class Pool:
    """Layers that are ranked together.

    layers: their places in the layout. kept: how many of their weights stay, of `total`. density: the share wanted.
    """

    layers: tuple[int, ...]
    kept: int
    total: int
    density: float

    @property
    def decided(self) -> bool:
        """Whether there is nothing to choose: all of the weights stay, or none."""
        return self.kept in {0, self.total}


@dataclass(frozen=True)
class Selection:
    """What is kept of a layout's weights: how many of each layer, and the best by their scores.

    density: fraction of the weights to keep; by patterns of names, each pattern's layers have a density of their own, 1
    keeps a layer whole. allocation: how a density is spread over its layers. granularity: which weights share a score.
    at_least: on the way to another selection, that one: no pool keeps fewer than it is to end with, which rounding may
    ask of a smaller total.
    Raises UsageError for densities outside (0, 1], that keep no weight, or patterns that leave a layer out or have no
    effect.
    """

    layout: Layout
    density: Density
    allocation: Allocation = Global()
    granularity: Granularity = Weight()
    at_least: "Selection | None" = None

    @cached_property
    def groups(self) -> Groups:
        """The groups of weights that share a score."""
        return self.granularity.groups(self.layout)

    @cached_property
    def kept(self) -> int:
        """How many weights stay: floor(κ d + 1/2), for each pattern where there are several."""
        return sum(pool.kept for pool in self.pools)

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The layers that are ranked together, and how many weights stay of each."""
        found: list[Pool] = []
        for density, layers in self._by_density():
            part = Layout(tuple(self.layout.names[i] for i in layers), tuple(self.layout.shapes[i] for i in layers))
            kept = count_kept(density, part.total)
            counts = self.allocation.counts(part, density, kept) if density < 1 else None
            if counts is None:
                found.append(Pool(tuple(layers), kept, part.total, density))
            else:
                found += [Pool((i,), k, n, k / n) for i, k, n in zip(layers, counts, part.counts, strict=True)]
        ends = self.at_least.pools if self.at_least else ()
        if [pool.layers for pool in ends] != [pool.layers for pool in found]:
            return tuple(found)
        return tuple(replace(pool, kept=max(pool.kept, end.kept)) for pool, end in zip(found, ends, strict=True))

    def _by_density(self) -> list[tuple[float, list[int]]]:
        """Return densities and the layers that have them."""
        if not isinstance(self.density, Mapping):
            return [(self.density, list(range(len(self.layout.names))))]
        owned: dict[str, list[int]] = {pattern: [] for pattern in self.density}
        for place, name in enumerate(self.layout.names):
            pattern = next((pattern for pattern in self.density if fnmatchcase(name, pattern)), None)
            if pattern is None:
                raise UsageError(f"no pattern matches {name}; end with '*' for all the rest", option="density")
            owned[pattern].append(place)
        idle = [pattern for pattern, layers in owned.items() if not layers]
        if idle:
            raise UsageError(f"the pattern {idle[0]!r} decides about no prunable layer", option="density")
        return [(self.density[pattern], layers) for pattern, layers in owned.items()]

    @property
    def decided(self) -> bool:
        """Whether there is nothing to choose, such as where nothing is pruned."""
        return all(pool.decided for pool in self.pools)

    def at(self, change: Callable[[float], float]) -> "Selection":
        """Return the same with every density changed, on the way from dense to the wanted one."""
        if isinstance(self.density, Mapping):
            changed: Density = {pattern: change(value) for pattern, value in self.density.items()}
        else:
            changed = change(self.density)
        return replace(self, density=changed, at_least=self)

    def keep(self, scores: Tensor) -> Tensor:
        """Return the mask (d,) of the best weights by the scores of their groups (g,), exactly `kept` of them.

        Raises UsageError for NaN scores, and for another number of them.
        """
        wanted = sum(self.groups.layout().counts)
        if not isinstance(scores, Tensor) or scores.shape != (wanted,):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise UsageError(f"scores must be a vector of {wanted:,} numbers, one a weight, got {got}", option=SCORES)
        parts = list(scores.split(list(self.groups.layout().counts)))
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        views = list(chosen.split(list(self.groups.layout().counts)))
        for pool in self.pools:
            together = torch.cat([parts[i] for i in pool.layers]) if len(pool.layers) < len(parts) else scores
            try:
                mask = keep_top(together, pool.kept)
            except UsageError as error:
                raise UsageError(error.message, option=SCORES) from None
            for i, piece in zip(pool.layers, mask.split([len(parts[i]) for i in pool.layers]), strict=True):
                views[i].copy_(piece)
        return self.groups.expand(chosen)


def parse_densities(density: Density) -> Density:
    """Return a density, or densities by pattern, checked; raises UsageError for anything outside (0, 1]."""
    if not isinstance(density, Mapping):
        return check_density(density)
    if not density:
        raise UsageError("must hold patterns with their densities, got none", option="density")
    return {str(pattern): check_density(value) for pattern, value in density.items()}
