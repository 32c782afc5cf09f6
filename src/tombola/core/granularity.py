"""Granularity: which weights share one score, one logit and one gate."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from tombola.core.flat import Layout, Wiring
from tombola.core.groups import Grouping, Groups, Labelled, OfEvery, Single
from tombola.core.parts import COUNT, Must, Part, guarded, one_of, option
from tombola.core.plugins import code_of
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

    @property
    def fixed_density(self) -> float:
        """The only one below 1 that there is."""
        return self.n / self.m

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
        wirings = [layout.wiring(place) for place in range(len(layout.names))]
        # What belongs to one layer alone is called by numbers that no channel has.
        known = [each for wiring in wirings for each in (wiring.outputs, wiring.inputs, wiring.heads) if each]
        first = 1 + max(map(max, known), default=0)
        found = []
        for shape, wiring in zip(layout.shapes, wirings, strict=True):
            places, units = self.places(shape, wiring), self.units(wiring)
            if units is None:
                units = torch.arange(first, first + int(places.max()) + 1, device="cpu")
                first += len(units)
            found.append(Grouping(places.expand(shape), units))
        return Labelled.of(layout, found, SCORINGS[self.by])

    def units(self, wiring: Wiring) -> Tensor | None:
        """Return what a layer's groups are in the whole network, where they may be groups of other layers too."""
        return None

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the number of each weight's group within a layer, from 0 on, as it goes into the layer's shape."""
        raise NotImplementedError


def _along(shape: tuple[int, ...], axis: int) -> Tensor:
    """Return 0, 1, ... along a dimension."""
    return torch.arange(shape[axis], device="cpu").view([-1 if each == axis else 1 for each in range(len(shape))])


def outputs_of(shape: tuple[int, ...], wiring: Wiring) -> Tensor:
    """Return the number of the output channel that each weight belongs to, as it goes into the layer's shape."""
    return _inner(shape, wiring.groups) if wiring.inputs_first else _along(shape, 0)


def inputs_of(shape: tuple[int, ...], wiring: Wiring) -> Tensor:
    """Return the number of the input channel that each weight reads, as it goes into the layer's shape."""
    return _along(shape, 0) if wiring.inputs_first else _inner(shape, wiring.groups)


def _inner(shape: tuple[int, ...], groups: int) -> Tensor:
    """Return the number of the channel along the second dimension, which begins again in each of the groups."""
    if len(shape) < 2:
        return torch.zeros(shape, dtype=torch.long, device="cpu")
    return _along(shape, 0) // (shape[0] // groups) * shape[1] + _along(shape, 1)


@dataclass(frozen=True)
class Channels(Structured):
    """Groups by channels.

    coupled: whether channels that can only go together are one group, which takes a model that torch.fx can trace:
    those that are added to each other, those that pass through a depthwise convolution, and those of shared weights.
    """

    coupled: bool = option(
        True, "whether channels of several layers that can only go together are one group", kw_only=True
    )


@dataclass(frozen=True)
class Channel(Channels):
    """All weights of an output channel: a filter of a convolution, a row of a linear layer.

    The outputs of the last layer stay, where channels are coupled: its weights go with the channels that they read.
    silent: whether a pruned channel is pruned whole. As a ticket trains, the biases of channels that its weights leave
    without input, and the scales and shifts of BatchNorm behind them, are then zero from the first step to the last.
    Source: Li et al. 2017, arXiv 1608.08710; of coupled channels Fang et al. 2023, arXiv 2301.12900.
    """

    name: ClassVar[str] = "channel"
    version: ClassVar[int] = 3
    silent: bool = option(
        True,
        "whether a pruned channel's bias, and its scale and shift of BatchNorm, are held at zero in training",
        kw_only=True,
    )

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the output channel of each weight, or the input channel of those of a layer whose outputs stay."""
        return inputs_of(shape, wiring) if self.coupled and wiring.stays else outputs_of(shape, wiring)

    def units(self, wiring: Wiring) -> Tensor | None:
        """Return what these channels are in the whole network."""
        found = wiring.inputs if wiring.stays else wiring.outputs
        return torch.tensor(found, device="cpu") if self.coupled and found is not None else None


@dataclass(frozen=True)
class InputChannel(Channels):
    """All weights that read an input channel. Source: He et al. 2017, arXiv 1707.06168."""

    name: ClassVar[str] = "input-channel"

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the input channel of each weight."""
        return inputs_of(shape, wiring)

    def units(self, wiring: Wiring) -> Tensor | None:
        """Return what these channels are in the whole network."""
        return torch.tensor(wiring.inputs, device="cpu") if self.coupled and wiring.inputs is not None else None


@dataclass(frozen=True)
class Head(Structured):
    """All weights of a head of attention: the rows of its projections, and the columns that read it.

    Heads are known of torch.nn.MultiheadAttention, and of modules with a number of heads and projections of usual
    names. Those that share a key and a value are one. The weights of other layers go by output channels, each layer by
    itself. Source: Michel et al. 2019, arXiv 1905.10650.
    """

    name: ClassVar[str] = "head"
    version: ClassVar[int] = 2

    def groups(self, layout: Layout) -> Groups:
        """Return the groups; raises UsageError for a model without heads, or with attention whose heads are unknown."""
        unknown = [layout.wiring(place).unknown_heads for place in range(len(layout.names))]
        if any(unknown):
            name = next(filter(None, unknown))
            path = name.partition(" ")[0]
            raise UsageError(
                f"cannot be head: which weights of {name} belong to which head is not known; exclude [{path}.*]",
                option="granularity",
            )
        if not any(layout.wiring(place).heads for place in range(len(layout.names))):
            raise UsageError("cannot be head: no attention whose heads are known is prunable", option="granularity")
        return super().groups(layout)

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the channel of each weight, on the side where a layer has heads."""
        return inputs_of(shape, wiring) if wiring.reads_heads else outputs_of(shape, wiring)

    def units(self, wiring: Wiring) -> Tensor | None:
        """Return the head of each channel."""
        return torch.tensor(wiring.heads, device="cpu") if wiring.heads else None


@dataclass(frozen=True)
class FilterRow(Structured):
    """A row of a convolution's kernel, from one input channel to one output channel (Mao et al. 2017, 1705.08922).

    The kernels of linear layers are single weights.
    """

    name: ClassVar[str] = "filter-row"

    def places(self, shape: tuple[int, ...], wiring: Wiring) -> Tensor:
        """Return the row of each weight."""
        rows = shape[:-1] if len(shape) > 2 else shape
        return torch.arange(math.prod(rows), device="cpu").view(*rows, *[1] * (len(shape) - len(rows)))


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
        where = torch.arange(kernel, device="cpu").view(1, 1, *shape[2:])
        return (_along(shape, 0) // first * across + _along(shape, 1) // second) * kernel + where


@dataclass(frozen=True)
class OwnGranularity(Structured):
    """Groups by a function of the user's own, MODULE:FUNCTION.

    It gets the layout, and returns for each name a tensor of whole numbers, of the weight's shape: weights with the
    same number are one group, in whichever layers they are.
    """

    name: str = ""  # type: ignore[misc]
    function: Callable[[Layout], Any] | None = field(default=None, repr=False, compare=False)
    code: str = field(default="", compare=False)

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> "OwnGranularity":
        """Return the granularity of a function and its MODULE:FUNCTION."""
        return cls(name=name, function=function, code=code_of(function))

    def groups(self, layout: Layout) -> Groups:
        """Return the groups that the function says."""
        assert self.function is not None
        with guarded("granularity", self):
            labels = self.function(layout)
        if not isinstance(labels, Mapping) or set(labels) != set(layout.names):
            words = f"{self.name!r} must return a tensor for each of {', '.join(layout.names)}"
            raise UsageError(words, option="granularity")
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            found = labels[name]
            if not isinstance(found, Tensor) or found.shape != shape or found.is_floating_point() or found.is_complex():
                words = f"{self.name!r} must return whole numbers of shape {list(shape)} for {name}"
                raise UsageError(words, option="granularity")
        found = [Grouping.of(labels[name].long().cpu()) for name in layout.names]
        return Labelled.of(layout, found, SCORINGS[self.by])


def _understood(name: str) -> Granularity | None:
    """Return what a name such as 2:4 means; None of any other."""
    found = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", name)
    return OfEveryM(int(found[1]), int(found[2])) if found else None


GRANULARITIES: Family[Granularity] = Family(
    "granularity",
    {kind.name: kind() for kind in (Weight, Channel, InputChannel, FilterRow, Block, OfEveryM, Head)},
    Granularity,
    OwnGranularity.of,
    _understood,
)
GRANULARITY_HELP = (
    "which weights are kept or pruned together: weight (each by itself), channel (all of an output channel), "
    "input-channel, filter-row, block:4x4, 2:4 (2 of every 4 along the inputs, or any n:m), "
    "head (of attention), or my_module:groups"
)
