"""Run: one pass through a sparse network, forward and perhaps backward, and the memory that it works in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tombola.core.compiling import is_in_pool, shared_threads

Floats = NDArray[np.float32]


class Workspace:
    """Memory that is used again: what the system gives anew, it clears first, which takes longer than many a layer."""

    def __init__(self) -> None:
        self._free: list[Floats] = []

    def take(self, shape: Sequence[int]) -> Floats:
        """Return an array of a shape, with anything in it."""
        size = int(np.prod(shape))
        fitting = [i for i, each in enumerate(self._free) if size <= each.size <= 2 * size + 1024]
        if not fitting:
            return np.zeros(size, np.float32).reshape(shape)
        found = self._free.pop(min(fitting, key=lambda i: self._free[i].size))
        return found[:size].reshape(shape)

    def give(self, array: Floats) -> None:
        """Take back what `take` returned; nobody may use it any more."""
        whole = array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        self._free.append(whole)

    def __deepcopy__(self, memo: Any) -> "Workspace":
        return Workspace()

    def __reduce__(self) -> Any:
        return Workspace, ()


def spread(kernel: Callable[..., None], channels: NDArray[np.int64], *arguments: Any) -> None:
    """Run a kernel over channels, on PyTorch's number of threads; each channel is the work of one."""
    # One of the shared threads that waited for the others would wait for ever, once all of them do.
    threads = 1 if is_in_pool() else min(torch.get_num_threads(), len(channels))
    if threads <= 1:
        if len(channels):
            kernel(channels, *arguments)
        return
    pieces = np.array_split(channels, threads * min(4, len(channels) // threads))
    for done in [shared_threads(threads).submit(kernel, piece, *arguments) for piece in pieces]:
        done.result()


@dataclass
class Constants:
    """Channels of a value that are one number everywhere, which no plane is kept of.

    folded: (C,), which; numbers: (C,), 0 elsewhere; gradients: (C,), of the numbers.
    """

    folded: NDArray[np.bool_]
    numbers: Floats
    gradients: NDArray[np.float64]


def no_constants(channels: int) -> Constants:
    """Return the constants of a value that has none."""
    return Constants(np.zeros(channels, bool), np.zeros(channels, np.float32), np.zeros(channels))


class Run:
    """One pass through a network.

    parameters: of the network, by number. keeps: whether it will go backward. shared: values that several steps read.
    Values have numbers too; each is an array (C, H, W, N), and so is its gradient.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], workspace: Workspace, keeps: bool, shared: frozenset[int]
    ) -> None:
        self._parameters = [parameter.detach().numpy() for parameter in parameters]
        self.parameter_gradients: list[Tensor | None] = [None] * len(parameters)
        self._workspace, self._shared, self.keeps = workspace, shared, keeps
        self.values: dict[int, Floats] = {}
        self.gradients: dict[int, Floats] = {}
        self._constants: dict[int, Constants] = {}
        # What steps remember for their own way back.
        self.kept: dict[int, Any] = {}
        self._taken: list[Floats] = []

    def parameter(self, number: int) -> Floats:
        """Return the values of a parameter."""
        return self._parameters[number]

    def constants_of(self, value: int) -> Constants:
        """Return the constant channels of a value."""
        if value not in self._constants:
            self._constants[value] = no_constants(len(self.values[value]))
        return self._constants[value]

    def add_parameter_gradient(self, number: int, gradient: Tensor) -> None:
        """Add to the gradient of a parameter, which several steps may share."""
        before = self.parameter_gradients[number]
        self.parameter_gradients[number] = gradient if before is None else before + gradient

    def take(self, shape: Sequence[int]) -> Floats:
        """Return an array with anything in it, which is this pass's until it ends."""
        found = self._workspace.take(shape)
        self._taken.append(found)
        return found

    def gradient_of(self, value: int, channels: NDArray[np.int64]) -> tuple[Floats, bool]:
        """Return the array of a value's gradient, and whether there is something in it already.

        channels: that the caller writes.
        """
        adds = value in self.gradients
        if not adds:
            self.gradients[value] = array = self.take(self.values[value].shape)
            if value in self._shared and len(channels) < len(array):
                array[np.setdiff1d(np.arange(len(array)), channels)] = 0
        return self.gradients[value], adds

    def add_gradient(self, value: int, gradient: Floats, channels: NDArray[np.int64]) -> None:
        """Add to the gradient of a value, in some channels."""
        target, adds = self.gradient_of(value, channels)
        if len(channels) < len(target):
            target[channels] = target[channels] + gradient[channels] if adds else gradient[channels]
        elif adds:
            target += gradient
        else:
            np.copyto(target, gradient)

    def forget(self, value: int) -> None:
        """Give the memory of a value back, in a pass that goes forward only."""
        array = self.values.pop(value)
        for i, taken in enumerate(self._taken):
            if taken is array:
                self._workspace.give(self._taken.pop(i))
                return

    def end(self) -> None:
        """Give all memory back."""
        for array in self._taken:
            self._workspace.give(array)
        self._taken.clear()
        self.values.clear()
        self.gradients.clear()
        self._constants.clear()
        self.kept.clear()
