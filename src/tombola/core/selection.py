"""Selection: the one door from scores to a mask of exactly k weights, or as many of them as whole groups allow."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import combinations
from math import isclose

import torch
from torch import Tensor

from tombola.core.allocation import Allocation, Global, Uniform
from tombola.core.flat import Layout
from tombola.core.granularity import Granularity, Weight
from tombola.core.groups import Groups
from tombola.core.parts import written_name
from tombola.core.ranking import check_density, count_kept, fill_top, keep_top, refuse_nan
from tombola.errors import UsageError

# Raised when the same scores make another mask.
VERSION = 1

# What an error is about that scores, not options, are at fault for.
SCORES = "scores"

# How far a density that a granularity fixes may be from the fixed one, of it: 1:3 may be written 0.3333.
WRITTEN = 1e-4
# What rounding does to a density on the way to another that comes to its end.
ROUND_OFF = 1e-9

# A number, or numbers by patterns of layers' names, of which the first that matches counts.
Density = float | Mapping[str, float]


def check_fixed(density: float, fixed: float) -> None:
    """Raise UsageError unless a density below 1 is the one that a granularity fixes."""
    if density < 1 and not isclose(density, fixed, rel_tol=WRITTEN):
        allowed = f"must be {fixed:.10g} where the granularity fixes it, or 1 by a pattern, got {density:.10g}"
        raise UsageError(allowed, option="density")


def check_even(allocation: Allocation, whose: str = "") -> None:
    """Raise UsageError for an allocation that gives layers other densities than a granularity fixes; whose: it is."""
    if not isinstance(allocation, Global | Uniform):
        got = f"{written_name(allocation)}{whose}"
        words = f"must be global or uniform where the granularity fixes the density, got {got}"
        raise UsageError(words, option="allocation")


@dataclass(frozen=True)
class Pool:
    """Layers that are ranked together.

    layers: their places in the layout. parts: those of their groups in the groups' layout. kept: how many of their
    weights stay, of `total`; fewer by less than a group where whole groups allow no more. density: the share wanted.
    """

    layers: tuple[int, ...]
    parts: tuple[int, ...]
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
        """How many weights stay: floor(κ d + 1/2), for each pattern where there are several; of groups, at most."""
        return sum(pool.kept for pool in self.pools)

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The layers that are ranked together, and how many weights stay of each."""
        found: list[Pool] = []
        for (density, layers), (end, _) in zip(self._by_density(), (self.at_least or self)._by_density(), strict=True):
            part = Layout(tuple(self.layout.names[i] for i in layers), tuple(self.layout.shapes[i] for i in layers))
            parts = self._parts_of(layers)
            fixed = self._fixed(density, end, layers, part.total)
            kept = count_kept(density, part.total) if fixed is None else fixed
            share = density if fixed is None else fixed / part.total
            counts = self.allocation.counts(part, share, kept) if density < 1 else None
            if counts is None:
                self._refuse_too_few(kept, parts)
                found.append(Pool(tuple(layers), parts, kept, part.total, density))
            else:
                found += self._allocated(parts, dict(zip(layers, counts, strict=True)))
        ends = self.at_least.pools if self.at_least else ()
        if [pool.layers for pool in ends] != [pool.layers for pool in found]:
            return tuple(found)
        return tuple(replace(pool, kept=max(pool.kept, end.kept)) for pool, end in zip(found, ends, strict=True))

    def _fixed(self, density: float, end: float, layers: Sequence[int], total: int) -> int | None:
        """Return how many of the `total` weights of some layers stay by their groups; None where the density says.

        end: the density at the end of the way, of which it may be written short. Raises UsageError where groups do not
        allow the density.
        """
        fixed = self.groups.fixed(layers) if check_density(density) < 1 else None
        if fixed is None:
            return None
        if self.at_least is None:
            check_fixed(density, fixed / total)
        check_even(self.allocation)
        return fixed if density <= end * (1 + ROUND_OFF) else None

    def _refuse_too_few(self, kept: int, parts: Sequence[int]) -> None:
        """Raise UsageError where not even the smallest group of some parts fits into a number of weights."""
        if self.groups.sizes is None:
            return
        of_parts = self.groups.sizes.split(list(self.groups.layout().counts))
        smallest = min(int(of_parts[place].min()) for place in parts)
        if smallest > kept:
            group = f"the smallest group ({written_name(self.granularity)})"
            words = f"keeps {kept:,} weights, and {group} has {smallest:,}"
            raise UsageError(words, option="density")

    def _parts_of(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Return the parts of the groups that some layers are; raises UsageError where a group reaches beyond them."""
        found = tuple(place for place, part in enumerate(self.groups.parts) if set(part) & set(layers))
        for part in (self.groups.parts[place] for place in found):
            beyond = [i for i in part if i not in layers]
            if beyond:
                names = f"{self.layout.names[next(i for i in part if i in layers)]} and {self.layout.names[beyond[0]]}"
                words = "share groups of weights, and must share a density, unless exclude leaves one of them dense"
                raise UsageError(f"{names} {words}", option="density")
        return found

    def _allocated(self, parts: Sequence[int], counts: Mapping[int, int]) -> list[Pool]:
        """Return a pool for each part; counts: how many weights its layers keep."""
        found = []
        for place in parts:
            layers = self.groups.parts[place]
            kept, total = sum(counts[i] for i in layers), sum(self.layout.counts[i] for i in layers)
            found.append(Pool(layers, (place,), kept, total, kept / total))
        return found

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
    def turned(self) -> list[list[str]]:
        """Pairs of patterns whose order counts and is not the sorted one, which an identity of mappings does not tell.

        It counts where both match a layer and neither has all of the other's, which in another order has no effect.
        """
        if not isinstance(self.density, Mapping):
            return []
        matched = {each: {name for name in self.layout.names if fnmatchcase(name, each)} for each in self.density}
        return [
            [first, second]
            for first, second in combinations(matched, 2)
            if first > second and matched[first] & matched[second] and not matched[first] <= matched[second]
        ]

    @property
    def is_written_short(self) -> bool:
        """Whether a density says another number of weights than its granularity fixes, as 0.3333 may for 1:3."""
        return any(
            (fixed := self._fixed(density, density, layers, total)) is not None and fixed != count_kept(density, total)
            for density, layers in self._by_density()
            for total in (sum(self.layout.counts[i] for i in layers),)
        )

    @cached_property
    def is_uneven(self) -> bool:
        """Whether groups that are ranked together differ in size, so that whole ones may not fill their number."""
        sizes = self.groups.sizes
        if sizes is None:
            return False
        of_pools = [self.of_pool(pool, sizes) for pool in self.pools if not pool.decided]
        return any(bool((each != each[0]).any()) for each in of_pools)

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
        found = replace(self, density=changed, at_least=self)
        found.__dict__["groups"] = self.groups  # which take longer to find than to keep
        return found

    def keep(self, scores: Tensor) -> Tensor:
        """Return the mask (d,) of the best weights by the scores of their groups: `kept`, or as many as fit.

        scores: of the groups (g,), or of the weights (d,), which make those of the groups. Raises UsageError for NaN
        scores, and for another number of them.
        """
        counts = list(self.groups.layout().counts)
        wanted = sum(counts)
        if wanted < self.layout.total and isinstance(scores, Tensor) and scores.shape == (self.layout.total,):
            scores = self.groups.score(scores)
        if not isinstance(scores, Tensor) or scores.shape != (wanted,):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            each = "a weight" if self.groups.sizes is None else "a group"
            raise UsageError(f"scores must be a vector of {wanted:,} numbers, one {each}, got {got}", option=SCORES)
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        views, certain = chosen.split(counts), self.groups.certain(scores)
        for pool in self.pools:
            try:
                mask = self._best(pool, scores, certain)
            except UsageError as error:
                raise UsageError(error.message, option=SCORES) from None
            for part, piece in zip(pool.parts, mask.split([counts[i] for i in pool.parts]), strict=True):
                views[part].copy_(piece)
        return self.groups.expand(chosen)

    def _best(self, pool: Pool, scores: Tensor, certain: Tensor | None) -> Tensor:
        """Return which of a pool's groups are kept."""
        mine, sizes = self.of_pool(pool, scores), self.groups.sizes
        if sizes is not None:
            return fill_top(mine, pool.kept, self.of_pool(pool, sizes.to(scores.device)))
        if certain is None or pool.decided:
            return keep_top(mine, pool.kept)
        refuse_nan(mine)
        mask = self.of_pool(pool, certain).clone()
        others = (~mask).nonzero().squeeze(1)
        mask[others] = keep_top(mine[others], pool.kept - int(torch.count_nonzero(mask)))
        return mask

    def filled(self, mask: Tensor, scores: Tensor, still: Collection[int] = ()) -> Tensor:
        """Return a mask (d,) with the best other groups that fit, whole, into what it leaves of their pools.

        scores: of the groups (g,). still: parts of the groups that stay as they are.
        """
        sizes = self.groups.sizes
        if sizes is None or not self.is_uneven:
            return mask
        chosen, sizes = self.groups.pick(mask), sizes.to(mask.device)
        closed, places = chosen.clone(), torch.arange(len(chosen), device=mask.device)
        for part, piece in enumerate(closed.split(list(self.groups.layout().counts))):
            if part in still:
                piece.fill_(True)
        for pool in self.pools:
            mine = self.of_pool(pool, places)
            left, others = pool.kept - int(sizes[mine[chosen[mine]]].sum()), mine[~closed[mine]]
            chosen[others] = fill_top(scores[others], left, sizes[others])
        return self.groups.expand(chosen)

    def slack(self, pool: Pool) -> int:
        """Return how many weights a pool may keep fewer than it is to, since groups are whole."""
        sizes = self.groups.sizes
        return 0 if sizes is None or pool.decided else int(self.of_pool(pool, sizes).max()) - 1

    def is_whole(self, mask: Tensor) -> bool:
        """Whether a mask (d,) is one that a selection can make: every group whole, and what is certain kept."""
        chosen = self.groups.pick(mask)
        certain = self.groups.certain(chosen.to(torch.float32))
        kept = certain is None or bool(chosen[certain].all())
        return kept and bool((self.groups.expand(chosen) == mask).all())

    def of_pool(self, pool: Pool, vector: Tensor) -> Tensor:
        """Return the part of a vector (g,) that belongs to a pool."""
        counts = self.groups.layout().counts
        if len(pool.parts) == len(counts):
            return vector
        parts = vector.split(list(counts))
        return torch.cat([parts[i] for i in pool.parts]) if len(pool.parts) > 1 else parts[pool.parts[0]]


def parse_densities(density: Density) -> Density:
    """Return a density, or densities by pattern, checked; raises UsageError for anything outside (0, 1]."""
    if not isinstance(density, Mapping):
        return check_density(density)
    if not density:
        raise UsageError("must hold patterns with their densities, got none", option="density")
    return {str(pattern): check_density(value) for pattern, value in density.items()}
