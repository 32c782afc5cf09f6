"""SparseNetwork: a masked model that runs and trains at the cost of its kept weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tombola.core.numeric import distance
from tombola.networks.masking import named_parameters
from tombola.sparse.program import Program
from tombola.sparse.rules import LayerCost
from tombola.sparse.run import Run, Workspace
from tombola.sparse.tracing import Untraceable, in_mode, trace

# How far outputs may lie from the dense network's, over their size: far above rounding, far below a wrong operation.
TOLERANCE = 1e-3


class _Pass(torch.autograd.Function):
    """A whole network as one function of its input and parameters."""

    @staticmethod
    def forward(ctx: Any, program: Program, run: Run, inputs: Tensor, *parameters: Tensor) -> Tensor:
        ctx.program, ctx.run, ctx.shape = program, run, inputs.shape
        return program.forward(run, inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        run, of_inputs = ctx.run, ctx.needs_input_grad[2]
        ctx.program.backward(run, gradient, of_inputs)
        to_inputs = None
        if of_inputs and 0 in run.gradients:
            to_inputs = torch.from_numpy(run.gradients[0]).permute(3, 0, 1, 2).reshape(ctx.shape).clone()
        run.end()
        return None, None, to_inputs, *run.parameter_gradients


class SparseNetwork(nn.Module):
    """Runs a model under masks, forward and backward, by its kept weights alone; the model lies in `dense`.

    Biases, normalisation and layers that run dense are shared with the model. Of the other layers the kept values are
    parameters here; `write_back` puts them into the model, `read` takes them from there. Running statistics of channels
    that nothing reads stay as they are. Gradients of gradients are refused by PyTorch. The model's attributes
    can be read here, but for layers, weights and methods: they would compute with other weights than those that train.

    model: float32, on the CPU. masks: bool tensors by canonical name. example: a batch of inputs, (N, ...). Raises
    Untraceable, which says why, for a model that cannot run sparse.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> None:
        super().__init__()
        own = {name: own for name, own, _ in named_parameters(model)}
        arrays = {own[name]: mask.cpu().numpy() for name, mask in masks.items()}
        self.dense = model
        self._workspace = Workspace()
        self._values: dict[str, nn.Parameter] = {}
        self._programs = {mode: trace(model, arrays, self._values, example, mode) for mode in (True, False)}
        self._check_modes()
        self._places = {
            name: torch.from_numpy(links.places) for name, (_, links) in self._programs[True].sparse.items()
        }
        self.left_dense = {name for name, mine in own.items() if name in masks and mine not in self._values}

    def _check_modes(self) -> None:
        """Raise Untraceable where a layer runs sparse at one place and not at another, or only in evaluation."""
        training, evaluation = self._programs[True], self._programs[False]
        sparse = training.sparse.keys()
        apart = (evaluation.sparse.keys() - sparse) | (sparse & {*training.dense, *evaluation.dense})
        if apart:
            raise Untraceable(f"{min(apart)} runs otherwise in training than in evaluation, or than at another place")

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(super().__getattr__("dense"), name)
        if callable(found) or getattr(found, "requires_grad", False):
            raise AttributeError(f"a network that trains sparse can be called and gives its settings, but not {name}")
        return found

    @property
    def sparse_names(self) -> list[str]:
        """The weights whose kept values train here, in place of those of the model in `dense`."""
        return list(self._values)

    @property
    def costs(self) -> list[LayerCost]:
        """What the layers' costs depend on."""
        return self._programs[True].costs

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the model's output for inputs (N, ...), in its mode, training or evaluation."""
        program = self._programs[self.dense.training]
        keeps = torch.is_grad_enabled()
        run = Run(program.parameters, self._workspace, keeps, program.shared)
        if keeps:
            found: Tensor = _Pass.apply(program, run, inputs, *program.parameters)
            return found
        found = program.forward(run, inputs)
        run.end()
        return found

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters in the model's order, kept values (k,) in the place of their weights."""
        return [self._values.get(name, parameter) for name, parameter in self.dense.named_parameters()]

    @torch.no_grad()
    def write_back(self) -> nn.Module:
        """Put the kept values into the model, zeros beside them, and return it."""
        for name, parameter in self.dense.named_parameters():
            if name in self._values:
                parameter.copy_(self.spread(name, self._values[name]))
        return self.dense

    @torch.no_grad()
    def read(self) -> None:
        """Take the kept values from the model."""
        for name, parameter in self.dense.named_parameters():
            if name in self._values:
                self._values[name].copy_(self.gather(name, parameter))

    def spread(self, name: str, values: Tensor) -> Tensor:
        """Return values (k,) of a layer's kept weights in the weight's shape, zeros beside them."""
        weight = self.dense.get_parameter(name)
        return values.new_zeros(weight.numel()).index_copy(0, self._places[name], values).view_as(weight)

    def gather(self, name: str, weight: Tensor) -> Tensor:
        """Return the kept ones (k,) of numbers in the shape of a layer's weight."""
        return weight.reshape(-1)[self._places[name]]

    def dense_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of an optimiser of `trained_parameters` as one of the dense model's parameters."""
        return self._converted(state, lambda name: self._values[name].shape, self.spread)

    def sparse_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `dense_state` was made from."""
        return self._converted(state, lambda name: self.dense.get_parameter(name).shape, self.gather)

    def _converted(self, state: Mapping[str, Any], shape_of: Any, convert: Any) -> dict[str, Any]:
        entries = {number: dict(entry) for number, entry in state["state"].items()}
        for number, (name, _) in enumerate(self.dense.named_parameters()):
            for key, value in entries.get(number, {}).items():
                if name in self._values and isinstance(value, Tensor) and value.shape == shape_of(name):
                    entries[number][key] = convert(name, value)
        return {**state, "state": entries}


def error_of(network: SparseNetwork, example: Tensor) -> float:
    """Return the largest difference between the outputs of a sparse network and its model, over their size."""
    with in_mode(network.dense, False), torch.no_grad():
        wanted, found = network.dense(example.clone()), network(example)
    return distance(wanted, found)
