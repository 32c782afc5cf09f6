"""Links: the kept weights of a convolution or a linear layer as lists that kernels walk."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tombola.sparse.kernels.base import PASS

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """How a layer looks at its input: height and width of strides, of paddings at the top left, and of dilations.

    after: paddings at the bottom right.
    """

    strides: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    dilations: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Walk:
    """A layer's links on inputs of one size.

    size: height and width of the output. forward: (k, 8) links by output channel, whose weights lie in their order;
    forward_pointers (C_out + 1,). backward: the same links by input channel; order (k,): where their weights lie.
    features: whether input and output are one number a channel and sample, and every link reaches from one to another.
    """

    size: tuple[int, int]
    forward: Ints
    forward_pointers: Ints
    backward: Ints
    backward_pointers: Ints
    order: Ints
    strides: Ints
    features: bool


class Links:
    """The kept weights of a layer, by output channel, place in the kernel, and input channel.

    mask: (C_out, C_in / groups, height, width), True where kept. places: where they lie in the layer's weight, flat.
    """

    def __init__(self, mask: NDArray[np.bool_], window: Window, groups: int = 1) -> None:
        self.outputs, per_group, *self._kernel = mask.shape
        self.inputs, self.window = per_group * groups, window
        target, row, column, source = (each.astype(np.int64) for each in np.nonzero(mask.transpose(0, 2, 3, 1)))
        self.places = np.ravel_multi_index((target, source, row, column), mask.shape)
        # Links of one place in the kernel have one window.
        self._windows = row * self._kernel[1] + column
        self.target, self.source = target, source + target // max(1, self.outputs // groups) * per_group
        self._offsets = np.stack([row * window.dilations[0], column * window.dilations[1]]) - np.array(
            window.before, dtype=np.int64
        ).reshape(2, 1)
        self._followed = np.ones(len(self.places), bool)
        self._walks: dict[tuple[int, int], Walk] = {}

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return len(self.places)

    def linked(self) -> NDArray[np.bool_]:
        """Return which outputs have a link, (C_out,)."""
        found = np.zeros(self.outputs, bool)
        found[self.target] = True
        return found

    def follow_to(self, needed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Walk backward only from outputs that are needed (C_out,) on; return which inputs they reach (C_in,)."""
        self._followed = needed[self.target]
        self._walks.clear()
        found = np.zeros(self.inputs, bool)
        found[self.source[self._followed]] = True
        return found

    def on(self, height: int, width: int) -> Walk:
        """Return the walk on inputs of a size; raises ValueError where the layer's window is larger than that."""
        if (height, width) not in self._walks:
            self._walks[height, width] = self._on(height, width)
        return self._walks[height, width]

    def _on(self, height: int, width: int) -> Walk:
        size = tuple(
            (length + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for length, before, after, dilation, kernel, stride in zip(
                (height, width),
                self.window.before,
                self.window.after,
                self.window.dilations,
                self._kernel,
                self.window.strides,
                strict=True,
            )
        )
        if min(size) < 1:
            raise ValueError(f"the kernel {self._kernel} is larger than an input of {height} x {width}")
        ranges = [
            _range(offset, stride, length, output)
            for offset, stride, length, output in zip(
                self._offsets, self.window.strides, (height, width), size, strict=True
            )
        ]
        columns = [*self._offsets, *(end for both in ranges for end in both)]
        followed = np.flatnonzero(self._followed)
        order = followed[np.lexsort((self._windows[followed], self.source[followed]))]
        forward, backward = (
            # With a stride in width a row is not one piece, and every link its own pass.
            together(channels, windows) if self.window.strides[1] == 1 else np.ones_like(channels)
            for channels, windows in ((self.target, self._windows), (self.source[order], self._windows[order]))
        )
        return Walk(
            (size[0], size[1]),
            np.ascontiguousarray(np.stack([self.source, *columns, forward], axis=1)),
            pointers(self.target, self.outputs),
            np.column_stack([np.stack([self.target, *columns], axis=1)[order], backward]),
            pointers(self.source[order], self.inputs),
            order,
            np.array(self.window.strides, dtype=np.int64),
            (height, width) == size == (1, 1) and all((first < last).all() for first, last in ranges),
        )


def _range(offset: Ints, stride: int, length: int, output: int) -> tuple[Ints, Ints]:
    """Return the outputs, from first to behind the last, whose place at * stride + offset lies in [0, length)."""
    first = np.clip(-(offset // stride), 0, output)
    return first, np.clip((length - 1 - offset) // stride + 1, first, output)


def together(channels: Ints, windows: Ints) -> Ints:
    """Return for each link how many links from it on one pass takes: PASS, or 1 where they are fewer that are alike."""
    starts = np.flatnonzero(np.diff(channels, prepend=-1).astype(bool) | np.diff(windows, prepend=-1).astype(bool))
    lengths = np.diff(starts, append=len(channels))
    place = np.arange(len(channels)) - np.repeat(starts, lengths)
    left = np.repeat(lengths, lengths) - place
    return np.where((place % PASS == 0) & (left >= PASS), PASS, 1).astype(np.int64)


def pointers(channels: Ints, count: int) -> Ints:
    """Return where in a rising list of channels each of `count` channels begins, and the end."""
    return np.searchsorted(channels, np.arange(count + 1)).astype(np.int64)


def as_pair(value: int | Sequence[int], alone: int) -> tuple[int, int]:
    """Return (height, width) of a layer's setting; `alone` is the height's where there is but one, the width's."""
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[1])) if len(value) == 2 else (alone, int(value[0]))
