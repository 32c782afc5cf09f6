"""Unit: a sparse layer with what follows it at once, the step that most of the time is spent in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from tombola.sparse import kernels
from tombola.sparse.links import Links
from tombola.sparse.run import Floats, Run, spread
from tombola.sparse.steps import NO_CHANNELS, Channels

NO_PLANES = np.zeros((1, 1, 1), np.float32)
NO_LINKS = (np.zeros(1, np.int64), np.zeros((1, 7), np.int64), *[np.zeros(1, np.float32)] * 2, np.ones(2, np.int64))


def planes(array: Floats) -> Floats:
    """Return (C, H, W, N) as (C, H, W*N)."""
    return array.reshape(*array.shape[:2], -1)


@dataclass
class Norm:
    """BatchNorm inside a unit; gamma, beta: numbers of its parameters, None where it has none."""

    module: _BatchNorm
    gamma: int | None
    beta: int | None

    @property
    def moves(self) -> bool:
        """Whether mean and variance are the batch's."""
        return self.module.training or self.module.running_mean is None

    def parameters(self, run: Run) -> tuple[Floats, Floats, np.float32]:
        """Return scale and shift, (C,) each, and epsilon."""
        count = self.module.num_features
        gamma = np.ones(count, np.float32) if self.gamma is None else run.parameter(self.gamma)
        beta = np.zeros(count, np.float32) if self.beta is None else run.parameter(self.beta)
        return gamma, beta, np.float32(self.module.eps)

    def statistics(self) -> Floats:
        """Return (3, C): running mean, running variance, 1/deviation; zeros where they are the batch's."""
        mean, variance = self.module.running_mean, self.module.running_var
        if self.moves or mean is None or variance is None:
            return np.zeros((3, self.module.num_features), np.float32)
        return torch.stack([mean, variance, (variance + self.module.eps).rsqrt()]).float().numpy()

    @torch.no_grad()
    def remember(self, found: Floats, channels: Channels, size: int) -> None:
        """Move the running statistics as BatchNorm does, of channels that were computed. size: numbers a channel."""
        module = self.module
        if not module.training or module.running_mean is None or module.running_var is None:
            return
        share = module.momentum
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.add_(1)
            share = 1 / float(module.num_batches_tracked) if share is None else share
        unbiased = found[1] * np.float32(size / (size - 1))
        for running, new in ((module.running_mean, found[0]), (module.running_var, unbiased)):
            values = running.numpy()  # the same memory: in torch's operations this took a tenth of a step
            values[channels] += np.float32(share or 0) * (new[channels] - values[channels])


@dataclass
class Unit:
    """The links of a convolution or linear layer, or none; BatchNorm, or none; a residual, or none; ReLU, or not.

    inputs: the links' input, and the residual. weight, bias: numbers of parameters; the weight's holds kept values in
    the order of the links. needed: channels of the output, reached: those of the input that count. may_fold: whether
    whatever reads the output takes constants; folded: needed channels without links, which are then one number each.
    """

    inputs: tuple[int, ...]
    output: int
    links: Links | None = None
    weight: int | None = None
    bias: int | None = None
    norm: Norm | None = None
    cuts: bool = False
    needed: Channels = field(default_factory=lambda: NO_CHANNELS)
    reached: Channels = field(default_factory=lambda: NO_CHANNELS)
    may_fold: bool = False
    folded: Channels = field(default_factory=lambda: NO_CHANNELS)

    def forward(self, run: Run) -> None:
        """Compute the needed channels of the output."""
        x = run.values[self.inputs[0]]
        out = run.values[self.output] = run.take(self._shape(x))
        apart = self.norm is not None and run.keeps
        before = x if self.links is None else run.take(out.shape) if apart else out
        norm = NO_PLANES[0] if self.norm is None else self.norm.statistics()
        moves = self.norm is not None and self.norm.moves
        if moves and out[0].size == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {[1, len(out)]}")
        self._fold(run, norm, moves)
        spread(kernels.unit_forward, *self._arguments(run, before, norm, moves))
        if self.norm is not None and moves:
            self.norm.remember(norm, np.concatenate([self.needed, self.folded]), out[0].size)
        if run.keeps:
            run.kept[self.output] = before, norm, moves

    def arguments(self, run: Run) -> tuple[Any, ...]:
        """Return what the kernel is called with in evaluation, whose output lies in the run already."""
        before = run.values[self.inputs[0] if self.links is None else self.output]
        return self._arguments(run, before, NO_PLANES[0] if self.norm is None else self.norm.statistics(), False)

    def _arguments(self, run: Run, before: Floats, norm: Floats, moves: bool) -> tuple[Any, ...]:
        x, out = run.values[self.inputs[0]], run.values[self.output]
        constants = run.constants_of(self.inputs[0])
        return (
            self.needed,
            planes(out),
            planes(before),
            before is out,
            planes(x),
            constants.folded,
            constants.numbers,
            *self._walk(run, x),
            self.norm is not None,
            moves,
            norm,
            *self._norm_parameters(run),
            *self._residual(run),
            self.cuts,
        )

    def _biases(self, run: Run, channels: Channels) -> Floats:
        """Return what channels without links hold before they are normalised."""
        return np.zeros(len(channels), np.float32) if self.bias is None else run.parameter(self.bias)[channels]

    def _fold(self, run: Run, norm: Floats, moves: bool) -> None:
        """Work out the folded channels' numbers, and the batch's statistics where those are wanted."""
        if not len(self.folded):
            return
        numbers = self._biases(run, self.folded)
        if self.norm is not None:
            gamma, beta, epsilon = self.norm.parameters(run)
            if moves:
                norm[0, self.folded], norm[1, self.folded], norm[2, self.folded] = numbers, 0, 1 / np.sqrt(epsilon)
            mean, _, inverse = norm[:, self.folded]
            numbers = gamma[self.folded] * inverse * (numbers - mean) + beta[self.folded]
        constants = run.constants_of(self.output)
        constants.folded[self.folded] = True
        constants.numbers[self.folded] = np.maximum(numbers, 0) if self.cuts else numbers

    def _shape(self, x: Floats) -> tuple[int, ...]:
        if self.links is None:
            return x.shape
        return (self.links.outputs, *self.links.on(*x.shape[1:3]).size, x.shape[3])

    def _walk(self, run: Run, x: Floats) -> tuple[Any, ...]:
        """Return what a kernel walks forward: how, pointers, links, values, bias, strides, samples."""
        if self.links is None or self.weight is None:
            return (kernels.NO_WALK, *NO_LINKS, 1)
        walk = self.links.on(*x.shape[1:3])
        bias = np.zeros(self.links.outputs, np.float32) if self.bias is None else run.parameter(self.bias)
        how = kernels.FEATURES if walk.features else kernels.ROWS
        return (how, walk.forward_pointers, walk.forward, run.parameter(self.weight), bias, walk.strides, x.shape[3])

    def _norm_parameters(self, run: Run) -> tuple[Floats, Floats, np.float32]:
        if self.norm is None:
            return NO_PLANES[0, 0], NO_PLANES[0, 0], np.float32(0)
        return self.norm.parameters(run)

    def _residual(self, run: Run) -> tuple[Floats, bool]:
        return (planes(run.values[self.inputs[1]]), True) if len(self.inputs) == 2 else (NO_PLANES, False)

    def backward(self, run: Run, wanted: frozenset[int]) -> None:
        """Follow the gradient from the output to the inputs and parameters."""
        gradient = run.gradients[self.output]
        before, norm, moves = run.kept[self.output]
        residual, mode = NO_PLANES, kernels.NO_RESIDUAL
        if len(self.inputs) == 2 and self.inputs[1] in wanted:
            target, adds = run.gradient_of(self.inputs[1], self.needed)
            residual, mode = planes(target), kernels.ADD if adds else kernels.WRITE
        sums = np.zeros((2, len(gradient)), np.float32)
        spread(
            kernels.unit_backward,
            self.needed,
            planes(gradient),
            planes(run.values[self.output]),
            planes(before),
            self.norm is not None,
            moves,
            norm,
            *self._norm_parameters(run)[:2],
            residual,
            mode,
            len(self.inputs) == 2,
            self.cuts,
            sums,
        )
        self._parameters_backward(run, gradient, sums, self._fold_backward(run, norm, moves, sums))
        if self.links is not None:
            self._links_backward(run, gradient, self.inputs[0] in wanted)
        elif self.inputs[0] in wanted:
            run.add_gradient(self.inputs[0], gradient, self.needed)

    def _fold_backward(self, run: Run, norm: Floats, moves: bool, sums: Floats) -> NDArray[np.float64]:
        """Put what the folded channels' numbers say of gamma and beta into `sums`; return what they say of the bias."""
        constants = run.constants_of(self.output)
        passed = constants.gradients[self.folded]
        if self.cuts:
            passed = np.where(constants.numbers[self.folded] > 0, passed, 0)
        sums[1, self.folded] = passed
        if self.norm is None:
            return passed
        if moves:  # which the bias, being its own mean, does not move
            return np.zeros_like(passed)
        mean, _, inverse = norm[:, self.folded]
        sums[0, self.folded] = passed * (self._biases(run, self.folded) - mean) * inverse
        found: NDArray[np.float64] = passed * self.norm.parameters(run)[0][self.folded] * inverse
        return found

    def _parameters_backward(self, run: Run, gradient: Floats, sums: Floats, of_biases: NDArray[np.float64]) -> None:
        if self.norm is None:
            numbers: dict[int | None, Floats] = {self.bias: sums[1]}
        else:
            numbers = {self.norm.gamma: sums[0], self.norm.beta: sums[1]}
            if self.bias is not None:
                numbers[self.bias] = np.zeros_like(sums[0])
                numbers[self.bias][self.needed] = gradient[self.needed].sum(axis=(1, 2, 3))
                numbers[self.bias][self.folded] = of_biases
        for number, found in numbers.items():
            if number is not None:
                run.add_parameter_gradient(number, torch.from_numpy(found))

    def _links_backward(self, run: Run, gradient: Floats, wanted: bool) -> None:
        assert self.links is not None
        assert self.weight is not None
        x = run.values[self.inputs[0]]
        walk = self.links.on(*x.shape[1:3])
        target, adds = run.gradient_of(self.inputs[0], self.reached) if wanted else (NO_PLANES[None], False)
        found = np.zeros(self.links.kept)
        constants = run.constants_of(self.inputs[0])
        spread(
            kernels.links_backward,
            self.reached,
            planes(target),
            wanted,
            adds,
            planes(x),
            constants.folded,
            constants.numbers,
            constants.gradients,
            planes(gradient),
            walk.backward_pointers,
            walk.order,
            walk.backward,
            run.parameter(self.weight),
            found,
            walk.strides,
            x.shape[3],
        )
        run.add_parameter_gradient(self.weight, torch.from_numpy(found.astype(np.float32)))

    def settle(self, needed: NDArray[np.bool_], channels: Sequence[int]) -> list[NDArray[np.bool_]]:
        """Compute the needed channels only, and follow only what leads to them."""
        folded = np.zeros_like(needed)
        if self.may_fold and self.links is not None and len(self.inputs) == 1:
            folded = needed & ~self.links.linked()
        self.needed, self.folded = np.flatnonzero(needed & ~folded), np.flatnonzero(folded)
        reached = needed if self.links is None else self.links.follow_to(needed)
        self.reached = np.flatnonzero(reached)
        return [reached, needed][: len(self.inputs)]
