"""Granularity: which weights share one score, one logit and one gate."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from tombola.core.flat import Layout, Wiring
from tombola.core.groups import Grouping, Groups, Labelled, OfEvery, Single
from tombola.core.parts import COUNT, Must, Part, one_of, option
from tombola.core.written import Family
from tombola.errors import UsageError


@runtime_checkable
class Granularity(Protocol):
    """Puts weights into groups."""

    def groups(self, layout: Layout) -> Groups:
        """Return the groups of the weights of a layout."""


@dataclass(frozen=True)
class Weight(Part):
    """Every weight by itself."""

    name: ClassVar[str] = "weight"

    def groups(self, layout: Layout) -> Groups:
        """Return groups of one."""
        return Single(layout)


@dataclass(frozen=True)
class OfEveryM(Part):
    """The n best of every m weights that follow each other along a layer's inputs, which hardware can make use of.

    Every weight has a score and a logit of its own, and the density is n/m. On the way there, in finders that cut
    several times, the n best of every m are safe. Source: Mishra et al. 2021, arXiv 2104.08378 (2:4).
    """

    name: ClassVar[str] = "n:m"
    n: int = option(2, "weights kept of every m", must=COUNT)
    m: int = option(4, "weights that follow each other", must=COUNT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n >= self.m:
            raise UsageError(
                f"must keep fewer weights than there are, such as 2:4, got {self.n}:{self.m}", option="granularity"
            )

    def groups(self, layout: Layout) -> Groups:
        """Return groups of one, of which a selection keeps n of every m."""
        return OfEvery(layout, self.n, self.m)


def _mean(groups: Labelled, scores: Tensor) -> Tensor:
    return groups.reduce(scores) / groups.sizes.to(scores.device)


def _norm(groups: Labelled, scores: Tensor) -> Tensor:
    if bool(((scores < 0) & scores.isfinite()).any()):
        raise UsageError("cannot be norm for scores below 0, whose sign would be lost: mean or sum", option="by")
    dead = groups.pick(scores).isneginf()
    return groups.reduce(scores.square()).sqrt().masked_fill(dead, -math.inf)


SCORINGS: dict[str, Callable[[Labelled, Tensor], Tensor]] = {"mean": _mean, "sum": Labelled.reduce, "norm": _norm}


@dataclass(frozen=True)
class Structured(Part):
    """Groups that share one score.

    by: the mean of the weights' scores is what a weight of the budget buys, so that groups of different sizes compare;
    the sum is the ℓ1 norm of Li et al. 2017 (arXiv 1608.08710) where scores are magnitudes, the norm the ℓ2 norm of
    He et al. 2018 (arXiv 1808.06866). Groups of one size are ranked alike by mean and sum.
    """

    by: str = option(
        "mean", f"what groups are ranked by, of their weights' scores: {', '.join(SCORINGS)}", must=one_of(SCORINGS),
        kw_only=True,
    )  # fmt: skip

    def groups(self, layout: Layout) -> Groups:
        """Return the groups, layer by layer."""
        first, found = 0, []
        for place, shape in enumerate(layout.shapes):
            places = self.places(shape, layout.wiring(place))
            count = int(places.max()) + 1
            found.append(Grouping(places.expand(shape), torch.arange(first, first + count)))
            first += count
        return Labelled.of(layout, found, SCORINGS[self.by])

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the number of each weight's group within a layer, from 0 on, as it goes into the layer's shape."""
        raise NotImplementedError


def _along(shape: tuple[int, ...], axis: int) -> Tensor:
    """Return 0, 1, ... along a dimension."""
    return torch.arange(shape[axis]).view([-1 if each == axis else 1 for each in range(len(shape))])


def outputs_of(shape: tuple[int, ...], wiring: Wiring) -> Tensor:
    """Return the number of the output channel that each weight belongs to, as it goes into the layer's shape."""
    return _inner(shape, wiring.groups) if wiring.inputs_first else _along(shape, 0)


def inputs_of(shape: tuple[int, ...], wiring: Wiring) -> Tensor:
    """Return the number of the input channel that each weight reads, as it goes into the layer's shape."""
    return _along(shape, 0) if wiring.inputs_first else _inner(shape, wiring.groups)


def _inner(shape: tuple[int, ...], groups: int) -> Tensor:
    """Return the number of the channel along the second dimension, which begins again in each of the groups."""
    if len(shape) < 2:
        return torch.zeros(shape, dtype=torch.long)
    return _along(shape, 0) // (shape[0] // groups) * shape[1] + _along(shape, 1)


@dataclass(frozen=True)
class Channel(Structured):
    """All weights of an output channel: a filter of a convolution, a row of a linear layer."""

    name: ClassVar[str] = "channel"

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the output channel of each weight."""
        return outputs_of(shape, wiring)


@dataclass(frozen=True)
class InputChannel(Structured):
    """All weights that read an input channel."""

    name: ClassVar[str] = "input-channel"

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the input channel of each weight."""
        return inputs_of(shape, wiring)


@dataclass(frozen=True)
class FilterRow(Structured):
    """A row of a convolution's kernel, from one input channel to one output channel (Mao et al. 2017, 1705.08922).

    The kernels of linear layers are single weights.
    """

    name: ClassVar[str] = "filter-row"

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the row of each weight."""
        rows = shape[:-1] if len(shape) > 2 else shape
        return torch.arange(math.prod(rows)).view(*rows, *[1] * (len(shape) - len(rows)))


_SHAPE = re.compile(r"^([1-9][0-9]*)x([1-9][0-9]*)$")


@dataclass(frozen=True)
class Block(Structured):
    """A block of neighbouring output channels by neighbouring input channels, at one place of the kernel.

    Where a layer's channels do not go into whole blocks, the last ones are smaller. Source: Narang et al. 2017,
    arXiv 1711.02782.
    """

    name: ClassVar[str] = "block"
    leading: ClassVar[str] = "shape"
    shape: str = option(
        "4x4", "outputs by inputs of a block", must=Must(lambda value: bool(_SHAPE.match(value)), "a shape such as 4x4")
    )

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the block of each weight."""
        found = _SHAPE.match(self.shape)
        assert found is not None
        sides = (int(found[1]), int(found[2]))
        first, second = reversed(sides) if wiring.inputs_first else sides
        across, kernel = -(-shape[1] // second), math.prod(shape[2:])
        where = torch.arange(kernel).view(1, 1, *shape[2:])
        return (_along(shape, 0) // first * across + _along(shape, 1) // second) * kernel + where


def _understood(name: str) -> Granularity | None:
    """Return what a name such as 2:4 means; None of any other."""
    found = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", name)
    return OfEveryM(int(found[1]), int(found[2])) if found else None


GRANULARITIES: Family[Granularity] = Family(
    "granularity",
    {kind.name: kind() for kind in (Weight, Channel, InputChannel, FilterRow, Block, OfEveryM)},
    Granularity,
    understood=_understood,
)
GRANULARITY_HELP = (
    "which weights are kept or pruned together: weight (each by itself), channel (all of an output channel), "
    "input-channel, filter-row, block:4x4, 2:4 (2 of every 4 along the inputs, or any n:m), or "
    "my_module:groups"
)
