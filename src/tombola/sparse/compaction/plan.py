"""What is known of a network's channels, and which of them have to stay."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Value:
    """The channels of a tensor (N, C, ...).

    units: the number of each channel's unit, (C,); channels of one unit stay or go together. constant: what a channel
    is everywhere, whatever the input, and NaN where it varies, (C,).
    """

    units: Places
    constant: Floats

    @property
    def is_constant(self) -> Flags:
        """Which channels are constant, (C,)."""
        return ~np.isnan(self.constant)


@dataclass(frozen=True)
class Layer:
    """A linear layer or convolution. module: its name. value: what it reads. units: those of its output.

    reads: which output channels have weights from which input channels, (outputs, inputs). sums: those weights, summed
    over the kernel. pads: whether zeros stand around its input, beside which a constant is none.
    """

    module: str
    value: Value
    units: Places
    reads: Flags
    sums: Floats
    pads: bool

    @property
    def folds(self) -> Flags:
        """Which input channels could be part of the biases, (inputs,)."""
        constant = self.value.is_constant
        return constant & (self.value.constant == 0) if self.pads else constant

    def bias_for(self, chosen: Flags) -> Floats:
        """Return what the chosen input channels, all of which can be folded, add to each output, (outputs,)."""
        found: Floats = self.sums[:, chosen] @ self.value.constant[chosen]
        return found


@dataclass(frozen=True)
class Follower:
    """A module whose tensors have an entry for each channel that passes through: normalisation, depthwise convolution.

    module: its name. tensors: the names of these. counts: its attributes that say how many channels there are.
    """

    module: str
    units: Places
    tensors: tuple[str, ...]
    counts: tuple[str, ...]


@dataclass
class Plan:
    """A network's layers in the order in which they run, and its units."""

    layers: list[Layer] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    _leaders: list[int] = field(default_factory=list)
    _pinned: dict[int, str] = field(default_factory=dict)

    def new(self, count: int) -> Places:
        """Return new units, (count,)."""
        first = len(self._leaders)
        self._leaders.extend(range(first, first + count))
        return np.arange(first, first + count)

    def pin(self, units: Places, why: str) -> None:
        """Keep some units."""
        for unit in units.tolist():
            self._pinned.setdefault(unit, why)

    def reasons(self) -> dict[int, str]:
        """Return why units have to stay, by the number that stands for each and all that are joined with it."""
        return {self._leader(unit): why for unit, why in reversed(self._pinned.items())}

    def join(self, some: Places, others: Places) -> None:
        """Make one unit of each pair."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            self._leaders[self._leader(one)] = self._leader(other)

    @property
    def is_joined(self) -> bool:
        """Whether channels of several layers go together, as where a network adds what has branched."""
        return bool((self._all_leaders() != np.arange(len(self._leaders))).any())

    def _leader(self, unit: int) -> int:
        while self._leaders[unit] != unit:
            self._leaders[unit] = unit = self._leaders[self._leaders[unit]]
        return unit

    def _all_leaders(self) -> Places:
        return np.array([self._leader(unit) for unit in range(len(self._leaders))], dtype=np.intp)

    def leaders(self) -> tuple[Places, Flags]:
        """Return the number that stands for each unit and all that are joined with it, and which have to stay."""
        leaders = self._all_leaders()
        pinned = np.zeros(len(leaders), bool)
        pinned[leaders[sorted(self._pinned)]] = True
        return leaders, pinned[leaders]

    def needed(self) -> Flags:
        """Return which units the outputs depend on, (units,), once constants are part of the biases.

        Once through the layers, from the last to the first, is enough: what a layer writes into a unit that only
        earlier layers read is not read at all.
        """
        leaders = self._all_leaders()
        needed = np.zeros(len(leaders), bool)
        needed[leaders[sorted(self._pinned)]] = True
        for layer in reversed(self.layers):
            read = (layer.reads & ~layer.folds)[needed[leaders[layer.units]]].any(axis=0)
            needed[leaders[layer.value.units[read]]] = True
        return needed[leaders]

    def kept(self, needed: Flags) -> Flags:
        """Return which units stay: the needed ones, and one for each layer that would have none."""
        leaders = self._all_leaders()
        kept = needed.copy()
        for layer in self.layers:
            if not kept[leaders[layer.units]].any():
                kept[leaders[layer.units[0]]] = True
        found: Flags = kept[leaders]
        return found
