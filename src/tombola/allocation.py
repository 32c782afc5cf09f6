"""How many weights each layer keeps, where scores are not ranked over all layers together."""

from collections.abc import Callable, Sequence
from math import floor

import torch
from torch import Tensor

from tombola.errors import UsageError
from tombola.flat import Layout
from tombola.ranking import count_kept, keep_top


def uniform(layout: Layout, density: float) -> list[float]:
    """Return shares by which every layer has the same density."""
    return [density * count for count in layout.counts]


def erdos_renyi_kernel(layout: Layout, density: float) -> list[float]:
    """Return shares by which a layer's density grows with the sum of its dimensions over their product.

    Erdős-Rényi-kernel (Evci et al. 2020, section 3): small layers stay denser. Layers that would exceed density 1 are
    kept whole, and the others share what is left.
    """
    wishes = [float(sum(shape)) for shape in layout.shapes]
    budget, whole = density * layout.total, [False] * len(wishes)
    while True:
        left = budget - sum(count for count, full in zip(layout.counts, whole, strict=True) if full)
        total = sum(wish for wish, full in zip(wishes, whole, strict=True) if not full)
        shares = [
            float(count) if full else left * wish / total
            for wish, count, full in zip(wishes, layout.counts, whole, strict=True)
        ]
        beyond = [share > count for share, count in zip(shares, layout.counts, strict=True)]
        if not any(beyond):
            return shares
        whole = [full or over for full, over in zip(whole, beyond, strict=True)]


# "global" ranks all layers together and so has no shares.
ALLOCATIONS: dict[str, Callable[[Layout, float], list[float]] | None] = {
    "global": None,
    "uniform": uniform,
    "erk": erdos_renyi_kernel,
}


def check_allocation(name: str) -> None:
    """Raise UsageError unless an allocation is known."""
    if name not in ALLOCATIONS:
        raise UsageError(f"allocation {name!r} is unknown; allowed are {', '.join(ALLOCATIONS)}")


def keep(scores: Tensor, layout: Layout, density: float, allocation: str = "global") -> Tensor:
    """Return the flat mask (d,) of exactly k = floor(density * d + 1/2) largest scores under an allocation.

    scores: (d,), in the layout's order. Raises UsageError as `count_kept` and `keep_top` do.
    """
    check_allocation(allocation)
    kept, share = count_kept(density, layout.total), ALLOCATIONS[allocation]
    if share is None:
        return keep_top(scores, kept)
    counts = round_to(share(layout, density), layout.counts, kept)
    parts = scores.split(list(layout.counts))
    return torch.cat([keep_top(part, count) for part, count in zip(parts, counts, strict=True)])


def round_to(shares: Sequence[float], limits: Sequence[int], total: int) -> list[int]:
    """Round shares to whole numbers that add up to `total`, by largest remainder, ties to the earlier.

    None exceeds its limit; the limits must add up to `total` at least.
    """
    counts = [min(floor(share), limit) for share, limit in zip(shares, limits, strict=True)]
    order = sorted(range(len(shares)), key=lambda index: (counts[index] - shares[index], index))
    missing = total - sum(counts)
    while missing > 0:
        for index in order:
            if missing and counts[index] < limits[index]:
                counts[index] += 1
                missing -= 1
    return counts
