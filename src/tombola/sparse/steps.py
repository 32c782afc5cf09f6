"""Steps: what a sparse network is made of, each with its way back.

A value has a number and lies as (C, H, W, N), channels first and samples last; features of a linear layer as
(F, 1, 1, N). Needed channels of a value are those that something reads: the others are neither computed nor followed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.sparse.run import Floats, Run

Channels = NDArray[np.int64]
NO_CHANNELS = np.zeros(0, np.int64)


class Step(Protocol):
    """One step of a network, from values to a value."""

    inputs: tuple[int, ...]
    output: int

    def forward(self, run: Run) -> None:
        """Put the output into the run's values."""

    def backward(self, run: Run, wanted: frozenset[int]) -> None:
        """Add to the gradients of those inputs that are `wanted`, and of parameters."""

    def settle(self, needed: NDArray[np.bool_], channels: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Settle on the channels of the output that are needed; return those of each input, whose number is given."""


def as_planes(array: Floats, dims: int) -> Tensor:
    """Show a value to PyTorch with its channels in the place of samples, and samples in that of channels.

    A tensor in channels_last, of which functions that treat all planes alike see no difference. dims: of the tensor
    that the value stands for: 4 (N, C, H, W), 3 (N, C, W) or 2 (N, C).
    """
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    return tensor if dims == 4 else tensor[:, :, 0] if dims == 3 else tensor[:, :, 0, 0]


def of_planes(tensor: Tensor) -> Floats:
    """Return the value that `as_planes` shows."""
    return _as_value(tensor, (0, 2, 3, 1))


def in_four(tensor: Tensor) -> Tensor:
    """Return (N, C), (N, C, W) or (N, C, H, W) as (N, C, H, W)."""
    return tensor[:, :, None, None] if tensor.dim() == 2 else tensor[:, :, None] if tensor.dim() == 3 else tensor


def _as_value(tensor: Tensor, order: tuple[int, ...]) -> Floats:
    found: Floats = in_four(tensor).detach().permute(order).contiguous().numpy()
    return found


def as_samples(array: Floats, dims: int) -> Tensor:
    """Show a value to PyTorch as the tensor that it stands for: (N, C, H, W), (N, C, W) or (N, C)."""
    tensor = torch.from_numpy(array).permute(3, 0, 1, 2)
    return tensor if dims == 4 else tensor[:, :, 0] if dims == 3 else tensor[:, :, 0, 0]


def of_samples(tensor: Tensor) -> Floats:
    """Return the value that `as_samples` shows."""
    return _as_value(tensor, (1, 2, 3, 0))


def _all(channels: int) -> NDArray[np.bool_]:
    return np.ones(channels, bool)


def _cleared(gradient: Floats, needed: Channels) -> Floats:
    """Return a gradient that is zero in channels that nothing reads, where anything may lie."""
    if len(needed) < len(gradient):
        gradient[np.setdiff1d(np.arange(len(gradient)), needed)] = 0
    return gradient


def _apart(tensor: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return a tensor in memory of its own: what it was made from may be given back before it."""
    return tensor.clone() if any(tensor.data_ptr() == other.data_ptr() for other in others) else tensor


@dataclass
class Planewise:
    """A function of PyTorch's that treats all samples and all channels alike: activations, pooling, dropout, sums."""

    inputs: tuple[int, ...]
    output: int
    function: Callable[..., Tensor]
    dims: tuple[int, ...]
    needed: Channels = field(default_factory=lambda: NO_CHANNELS)

    def forward(self, run: Run) -> None:
        """Run the function, remembering what its way back needs."""
        with torch.set_grad_enabled(run.keeps):
            given = [
                as_planes(run.values[value], dims).requires_grad_(run.keeps)
                for value, dims in zip(self.inputs, self.dims, strict=True)
            ]
            found = self.function(*given)
        run.values[self.output] = of_planes(_apart(found, given))
        if run.keeps:
            run.kept[self.output] = given, found

    def backward(self, run: Run, wanted: frozenset[int]) -> None:
        """Follow the gradient through the function."""
        given, found = run.kept[self.output]
        gradient = as_planes(_cleared(run.gradients[self.output], self.needed), found.dim())
        for value, each in zip(self.inputs, torch.autograd.grad(found, given, gradient), strict=True):
            if value in wanted:
                array = of_planes(each)
                run.add_gradient(value, array, self.needed if len(array) == len(gradient) else np.arange(len(array)))

    def settle(self, needed: NDArray[np.bool_], channels: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Need of an input what is needed of the output, or all of one that is broadcast."""
        self.needed = np.flatnonzero(needed)
        return [needed if count == len(needed) else _all(count) for count in channels]


@dataclass
class Dense:
    """A layer that is faster dense, in PyTorch and in PyTorch's layout; numbers of its parameters."""

    inputs: tuple[int, ...]
    output: int
    function: Callable[..., Tensor]
    dims: int
    parameters: tuple[int, ...]
    needed: Channels = field(default_factory=lambda: NO_CHANNELS)

    def forward(self, run: Run) -> None:
        """Run the layer, remembering what its way back needs."""
        with torch.set_grad_enabled(run.keeps):
            given = [as_samples(run.values[self.inputs[0]], self.dims).requires_grad_(run.keeps)]
            given += [torch.from_numpy(run.parameter(each)).requires_grad_(run.keeps) for each in self.parameters]
            found = self.function(*given)
        run.values[self.output] = of_samples(found)
        if run.keeps:
            run.kept[self.output] = given, found

    def backward(self, run: Run, wanted: frozenset[int]) -> None:
        """Follow the gradient through the layer."""
        given, found = run.kept[self.output]
        gradient = as_samples(_cleared(run.gradients[self.output], self.needed), found.dim())
        first = 0 if self.inputs[0] in wanted else 1
        gradients = list(torch.autograd.grad(found, given[first:], gradient))
        if not first:
            array = of_samples(gradients.pop(0))
            run.add_gradient(self.inputs[0], array, np.arange(len(array)))
        for number, each in zip(self.parameters, gradients, strict=True):
            run.add_parameter_gradient(number, each)

    def settle(self, needed: NDArray[np.bool_], channels: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Need all channels."""
        self.needed = np.flatnonzero(needed)
        return [_all(count) for count in channels]


@dataclass
class Flatten:
    """(N, C, H, W) as (N, C*H*W): the same memory. needed: of the channels; features: of C*H*W."""

    inputs: tuple[int, ...]
    output: int
    needed: Channels = field(default_factory=lambda: NO_CHANNELS)
    features: Channels = field(default_factory=lambda: NO_CHANNELS)

    def forward(self, run: Run) -> None:
        """Look at the value as features."""
        x = run.values[self.inputs[0]]
        run.values[self.output] = x.reshape(-1, 1, 1, x.shape[3])

    def backward(self, run: Run, wanted: frozenset[int]) -> None:
        """Look at the gradient as planes."""
        if self.inputs[0] in wanted:
            gradient = _cleared(run.gradients[self.output], self.features)
            run.add_gradient(self.inputs[0], gradient.reshape(run.values[self.inputs[0]].shape), self.needed)

    def settle(self, needed: NDArray[np.bool_], channels: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Need the channels that have a needed feature."""
        found = np.any(needed.reshape(channels[0], -1), axis=1)
        self.needed, self.features = np.flatnonzero(found), np.flatnonzero(needed)
        return [found]


@dataclass
class Concatenation:
    """Values one behind another, channel-wise."""

    inputs: tuple[int, ...]
    output: int
    needed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def forward(self, run: Run) -> None:
        """Copy the values."""
        run.values[self.output] = np.concatenate([run.values[value] for value in self.inputs])

    def _pieces(self, run: Run) -> list[slice]:
        ends = np.cumsum([0, *(len(run.values[value]) for value in self.inputs)])
        return [slice(first, last) for first, last in pairwise(ends)]

    def backward(self, run: Run, wanted: frozenset[int]) -> None:
        """Hand each value its piece of the gradient."""
        for value, piece in zip(self.inputs, self._pieces(run), strict=True):
            if value in wanted:
                run.add_gradient(value, run.gradients[self.output][piece], np.flatnonzero(self.needed[piece]))

    def settle(self, needed: NDArray[np.bool_], channels: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Need of each input what is needed of its piece."""
        self.needed = needed
        return np.split(needed, np.cumsum(channels)[:-1])
