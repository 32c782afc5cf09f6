"""Program: a network as a list of steps, and how it runs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from tombola.sparse.links import Links
from tombola.sparse.rules import LayerCost
from tombola.sparse.run import Run
from tombola.sparse.steps import Flatten, Step, as_samples, in_four, of_samples
from tombola.sparse.units import Unit


@dataclass
class Program:
    """A network as steps.

    parameters: what steps refer to by number; those of sparse layers are their kept values, (k,). sparse: of each such
    layer, by the name of its weight, the parameter's number and the links. dense: weights with a mask whose layers run
    dense. costs: of layers. output: the last value; dims: of the tensor that it stands for. shared: values that several
    steps read. last_use: by step, the values that nothing reads after it. wanted: whose gradients are needed.
    """

    steps: list[Step] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)
    sparse: dict[str, tuple[int, Links]] = field(default_factory=dict)
    dense: list[str] = field(default_factory=list)
    costs: list[LayerCost] = field(default_factory=list)
    output: int = 0
    dims: int = 2
    shared: frozenset[int] = frozenset()
    last_use: dict[int, list[int]] = field(default_factory=dict)
    wanted: frozenset[int] = frozenset()

    def forward(self, run: Run, inputs: Tensor) -> Tensor:
        """Run on inputs (N, ...) and return the output; what is not kept for a way back is given back on the way."""
        as_value(run, inputs.detach())
        for number, step in enumerate(self.steps):
            step.forward(run)
            for value in () if run.keeps else self.last_use.get(number, ()):
                run.forget(value)
        return as_samples(run.values[self.output], self.dims).clone(memory_format=torch.contiguous_format)

    def backward(self, run: Run, gradient: Tensor, of_inputs: bool) -> None:
        """Follow a gradient of the output to the parameters, and to the inputs if it is wanted `of_inputs`."""
        run.add_gradient(self.output, of_samples(gradient), np.arange(gradient.shape[1]))
        wanted = self.wanted | {0} if of_inputs else self.wanted
        for step in reversed(self.steps):
            if step.output in run.gradients and step.output in self.wanted:
                step.backward(run, wanted)


def as_value(run: Run, inputs: Tensor) -> Tensor:
    """Put inputs (N, ...) into a run as its first value, and return the memory, (C, H, W, N), as a tensor."""
    whole = in_four(inputs).permute(1, 2, 3, 0)
    run.values[0] = run.take(whole.shape)
    return torch.from_numpy(run.values[0]).copy_(whole)


def settle(program: Program, channels: Mapping[int, int]) -> None:
    """Find out what is needed of every value, who reads it, and which gradients are wanted. channels: of each value."""
    needed = {value: np.zeros(count, bool) for value, count in channels.items()}
    needed[program.output][:] = True
    as_planes = _read_as_planes(program)
    for step in reversed(program.steps):
        if isinstance(step, Unit):
            step.may_fold = step.output not in as_planes
        counts = [channels[value] for value in step.inputs]
        for value, found in zip(step.inputs, step.settle(needed[step.output], counts), strict=True):
            needed[value] = needed[value] | found
    reads = Counter([program.output, *(value for step in program.steps for value in step.inputs)])
    # The inputs' gradient is somebody's own: nothing of it may be left as it lay in memory.
    program.shared = frozenset(value for value, count in reads.items() if count > 1) | {0}
    # Flattened values lie in the memory of what they were: that is in use as long as they are.
    owners: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        for value in step.inputs:
            last[owners.get(value, value)] = number
        if isinstance(step, Flatten):
            owners[step.output] = owners.get(step.inputs[0], step.inputs[0])
    for value, number in last.items():
        if value != owners.get(program.output, program.output):
            program.last_use.setdefault(number, []).append(value)
    program.wanted = frozenset(step.output for step in program.steps)


def _read_as_planes(program: Program) -> set[int]:
    """Return the values of which something reads planes; links can do with a number where a channel is constant."""
    found = {program.output}
    for step in program.steps:
        found |= set(step.inputs[1:] if isinstance(step, Unit) and step.links is not None else step.inputs)
    return found
