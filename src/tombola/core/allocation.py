"""How many weights each layer keeps, where scores are not ranked over all layers together."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import ClassVar, Protocol, runtime_checkable

from tombola.core.flat import Layout
from tombola.core.parts import Part
from tombola.core.written import Family


@runtime_checkable
class Allocation(Protocol):
    """Spreads a number of weights over layers."""

    def counts(self, layout: Layout, density: float, kept: int) -> list[int] | None:
        """Return how many weights each layer keeps, `kept` in all; None ranks all layers together."""


@dataclass(frozen=True)
class Global(Part):
    """All layers ranked together."""

    name: ClassVar[str] = "global"

    def counts(self, layout: Layout, density: float, kept: int) -> list[int] | None:
        """Return None."""
        return None


@dataclass(frozen=True)
class Uniform(Part):
    """Every layer at the same density."""

    name: ClassVar[str] = "uniform"

    def counts(self, layout: Layout, density: float, kept: int) -> list[int] | None:
        """Return how many weights each layer keeps."""
        return round_to([density * count for count in layout.counts], layout.counts, kept)


@dataclass(frozen=True)
class ErdosRenyiKernel(Part):
    """A layer's density grows with the sum of its dimensions over their product: small layers stay denser.

    Layers that would exceed density 1 are kept whole, and the others share what is left. Source: Evci et al. 2020,
    arXiv 1911.11134, section 3.
    """

    name: ClassVar[str] = "erk"

    def counts(self, layout: Layout, density: float, kept: int) -> list[int] | None:
        """Return how many weights each layer keeps."""
        return round_to(erdos_renyi_kernel(layout, density), layout.counts, kept)


def erdos_renyi_kernel(layout: Layout, density: float) -> list[float]:
    """Return the shares of `ErdosRenyiKernel`, before they are rounded."""
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


ALLOCATIONS: Family[Allocation] = Family(
    "allocation",
    {kind.name: kind() for kind in (Global, Uniform, ErdosRenyiKernel)},
    Allocation,
)
