"""Accelerated: a ticket's network for use, on a CPU, at the cost of its kept weights."""

import copy
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tombola.core.compiling import shared_threads
from tombola.core.numeric import distance
from tombola.errors import TicketWarning, UsageError
from tombola.networks.masking import named_parameters
from tombola.networks.network import uses_batch_statistics
from tombola.sparse import kernels
from tombola.sparse.compaction import compact
from tombola.sparse.network import TOLERANCE
from tombola.sparse.program import Program, as_value
from tombola.sparse.run import Run, Workspace
from tombola.sparse.steps import Flatten, Step, as_samples, in_four
from tombola.sparse.tracing import Untraceable, check_tensors, trace
from tombola.sparse.units import Unit

# Bytes of activations that a block of samples may take at its largest layer: what stays in the cache of one core.
CACHE = 2**22
WIDEST = 64


class Accelerated(nn.Module):
    """Runs a masked model in evaluation, without gradients, by its kept weights alone; outputs equal to rounding.

    A model that cannot run sparse runs dense, and the first call says why by a TicketWarning. Weights are those of the
    time when this was made. Several threads may call it at once.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._model = [model.eval()]
        self._masks = dict(masks)
        # By the shape of a sample; where the model runs dense, why.
        self._programs: dict[tuple[int, ...], Program | str] = {}
        self._called_otherwise = False
        self._plans = threading.local()
        self._lock = threading.Lock()
        self.eval()

    def __reduce__(self) -> Any:
        return Accelerated, (self._model[0], self._masks)

    def dense(self) -> nn.Module:
        """Return a plain copy of the masked model, of the class that it was made from."""
        return copy.deepcopy(self._model[0])

    @torch.no_grad()
    def forward(self, *given: Any, **named: Any) -> Any:
        """Return the model's output for inputs (N, ...); called with anything but one tensor, the model runs dense."""
        if named or len(given) != 1 or not isinstance(given[0], Tensor):
            return self._as_called(*given, **named)
        (inputs,) = given
        # Programs are of float32, also within an autocast of the caller's, under which a dense model runs as any other.
        floats = inputs.float() if inputs.dtype in (torch.bfloat16, torch.float16) else inputs
        with torch.autocast("cpu", enabled=False):
            with self._lock:
                if floats.shape[1:] not in self._programs:
                    self._programs[floats.shape[1:]] = self._trace(floats[:1])
            program = self._programs[floats.shape[1:]]
            if len(floats) and isinstance(program, Program):
                return self._in_blocks(program, floats)
        return self._model[0](inputs)

    def _in_blocks(self, program: Program, inputs: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        # As many samples at once as fit, or fewer, so that every thread has some.
        size = max(1, min(_most_samples(program), -(-len(inputs) // threads)))
        if len(inputs) <= size:
            return self._run(program, inputs)
        run, pieces = partial(self._run, program), inputs.split(size)
        return torch.cat(list(shared_threads(threads).map(run, pieces) if threads > 1 else map(run, pieces)))

    def _as_called(self, *given: Any, **named: Any) -> Any:
        with self._lock:
            first, self._called_otherwise = not self._called_otherwise, True
        if first:
            why = "the model runs dense: it is called with something else than one tensor"
            warnings.warn(why, TicketWarning, stacklevel=5)
        return self._model[0](*given, **named)

    def extra_repr(self) -> str:
        """Return what `print` shows: the weights kept, and how the model runs on the samples that it was given."""
        kept = sum(int(mask.sum()) for mask in self._masks.values())
        total = sum(mask.numel() for mask in self._masks.values())
        runs = [
            f"{list(shape)}: {f'dense: {found}' if isinstance(found, str) else 'by its kept weights'}"
            for shape, found in self._programs.items()
        ]
        how = "; ".join(f"runs samples of {words}" for words in runs) or "the first call says whether it can run sparse"
        return f"{type(self._model[0]).__name__}, {kept:,} of {total:,} weights kept; {how}"

    def _trace(self, example: Tensor) -> Program | str:
        try:
            check_tensors(self._model[0])
            model, masks = self._compacted(example)
            if uses_batch_statistics(model):
                raise Untraceable("BatchNorm without running statistics normalises by each batch as a whole")
            program = _folded(trace(model, masks, {}, example, False))
            self._check(program, example.shape[1:])
        except Untraceable as error:
            warnings.warn(f"the model runs dense: {error}", TicketWarning, stacklevel=4)
            return str(error)
        return program

    def _check(self, program: Program, shape: torch.Size) -> None:
        """Raise Untraceable where a program does something else than the model: torch.fx need not show all of it."""
        chance = torch.Generator().manual_seed(0)
        example = torch.randn(2, *shape, generator=chance, device="cpu", dtype=torch.float32)
        off = distance(self._model[0](example.clone()), _Plan(program, example.shape)(example))
        if not off < TOLERANCE:
            raise Untraceable(f"its outputs would be off by {off:.1g}")

    def _compacted(self, example: Tensor) -> tuple[nn.Module, dict[str, NDArray[np.bool_]]]:
        """Return the model without its dead units, where they can be removed, and what is kept of its weights."""
        model = self._model[0]
        try:
            model = compact(model, self._masks, example)
        except UsageError:  # their channels cannot be followed; whether its steps can is another question
            return model, {own: self._masks[name].numpy() for name, own in self._own_names(model)}
        return model, {own: (model.get_parameter(own) != 0).numpy() for _, own in self._own_names(model)}

    def _own_names(self, model: nn.Module) -> list[tuple[str, str]]:
        """Return the names of masks, with the model's own."""
        return [(name, own) for name, own, _ in named_parameters(model) if name in self._masks]

    def _run(self, program: Program, inputs: Tensor) -> Tensor:
        plans: dict[Any, _Plan] = self._plans.__dict__.setdefault("plans", {})
        key = id(program), inputs.shape
        if key not in plans:
            plans[key] = _Plan(program, inputs.shape)
        return plans[key](inputs)


def _most_samples(program: Program) -> int:
    """Return how many samples go through the network together."""
    largest = max((cost.outputs * cost.positions for cost in program.costs), default=1) * 4
    return max(1, min(WIDEST, CACHE // largest))


def _folded(program: Program) -> Program:
    """Return a program whose normalisation by running statistics lies in values and biases."""
    parameters = list(program.parameters)
    steps: list[Step] = []
    run = Run(parameters, Workspace(), False, frozenset())
    for step in program.steps:
        if isinstance(step, Unit) and step.links is not None and step.norm is not None and not step.norm.moves:
            mean, _, inverse = step.norm.statistics()
            gamma, beta, _ = step.norm.parameters(run)
            scale = gamma * inverse
            values = run.parameter(step.weight) * scale[step.links.target]  # type: ignore[arg-type]
            bias = (0 if step.bias is None else run.parameter(step.bias)) - mean
            added = [nn.Parameter(torch.from_numpy(each), False) for each in (values, bias * scale + beta)]
            step = replace(step, weight=len(parameters), bias=len(parameters) + 1, norm=None)
            parameters += added
        steps.append(step)
    return Program(**{**vars(program), "steps": steps, "parameters": parameters})


class _Plan:
    """A program on inputs of one shape: its memory, and calls with every argument in place."""

    def __init__(self, program: Program, shape: torch.Size) -> None:
        self._program = program
        self._run = Run(program.parameters, Workspace(), False, program.shared)
        self._calls: list[Callable[[], None]] = []
        self._inputs = as_value(self._run, torch.zeros(shape, device="cpu", dtype=torch.float32))
        for step in program.steps:
            step.forward(self._run)
            if isinstance(step, Flatten):
                continue  # the same memory
            if isinstance(step, Unit):
                self._calls.append(partial(kernels.unit_forward, *step.arguments(self._run)))
            else:
                self._calls.append(partial(self._forward, step, self._run.values[step.output]))
        self._outputs = self._run.values[program.output]

    def _forward(self, step: Step, place: Any) -> None:
        """Run a step that makes its output's memory anew, and put that where the next step looks."""
        step.forward(self._run)
        if self._run.values[step.output] is not place:
            np.copyto(place, self._run.values[step.output])
            self._run.values[step.output] = place

    def __call__(self, inputs: Tensor) -> Tensor:
        self._inputs.copy_(in_four(inputs).permute(1, 2, 3, 0))
        for call in self._calls:
            call()
        return as_samples(self._outputs, self._program.dims).clone(memory_format=torch.contiguous_format)
