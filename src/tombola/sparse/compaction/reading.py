"""What every operation of a network does to channels: the rules by which a plan is made."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from tombola.sparse.compaction import operations as ops
from tombola.sparse.compaction.plan import Floats, Follower, Layer, Places, Plan, Value
from tombola.sparse.compaction.tracing import Traced, refusal
from tombola.sparse.operations import dims_of


@dataclass(frozen=True)
class Passage:
    """Where channels pass through a weight.

    inputs, outputs: the numbers of its channels. stays: whether these stay. fixed: why neither side can go, if so.
    """

    weight: nn.Parameter
    inputs: Places
    outputs: Places
    stays: bool
    fixed: str


def passages(traced: Traced) -> list[Passage]:
    """Return, for the weight of each layer, which of the network's channels it reads and writes.

    Channels that can only go together have one number, also those of all uses of a shared weight.
    """
    reader = Reader(traced)
    plan = reader.read()
    uses: dict[nn.Parameter, list[tuple[Places, Places]]] = {}
    for weight, inputs, outputs in reader.weighted():
        uses.setdefault(weight, []).append((inputs, outputs))
    for (first_in, first_out), *others in uses.values():
        for inputs, outputs in others:
            plan.join(first_in, inputs)
            plan.join(first_out, outputs)
    (leaders, pinned), reasons = plan.leaders(), plan.reasons()
    found = []
    for weight, ((inputs, outputs), *_) in uses.items():
        # Where neither side can go, the one is as good as the other, but for what the network gives.
        given, both = reader.ends >= set(outputs.tolist()), bool(pinned[inputs].all() and pinned[outputs].all())
        stays = bool(pinned[outputs].all() and (given or not both))
        fixed = reasons[int(leaders[outputs[0]])] if both and not given else ""
        found.append(Passage(weight, leaders[inputs], leaders[outputs], stays, fixed))
    return found


def read(traced: Traced) -> Plan:
    """Return what is known of a network's channels; raises UsageError naming an operation without a rule."""
    return Reader(traced).read()


class Reader:
    """Goes through a graph once, from inputs to outputs. ends: the units that the network gives."""

    def __init__(self, traced: Traced) -> None:
        self._traced, self._plan = traced, Plan()
        self._values: dict[fx.Node, Value] = {}
        self._shared = _shared_parameters(traced)
        self.ends: set[int] = set()

    def read(self) -> Plan:
        """Return what is known of the channels."""
        for node in self._traced.graph.nodes:
            if node.op == "output":
                for each in node.all_input_nodes:
                    self._pin(each, "the network gives them")
                    self.ends.update(self._values[each].units.tolist() if each in self._values else ())
            elif node in self._traced.tuples:
                raise self._unknown(node)
            elif node in self._traced.shapes and node.op != "get_attr":
                self._values[node] = (
                    self._fixed(node, "the network reads them") if node.op == "placeholder" else self._read(node)
                )
        return self._plan

    def weighted(self) -> Iterator[tuple[nn.Parameter, Places, Places]]:
        """Give the weights of layers, with the units that they read and write."""
        for node in self._traced.graph.nodes:
            kind = type(self.module_of(node)) if node.op == "call_module" else None
            if kind in ops.LINEAR or kind in ops.CONVOLUTIONS:
                source = self._values[node.all_input_nodes[0]]
                yield self.module_of(node).weight, source.units, self._values[node].units

    def _read(self, node: fx.Node) -> Value:
        """Return the channels of an operation's output."""
        rule = self._module_rule(node) if node.op == "call_module" else self._function_rule(node)
        if rule is not self._reshape:
            # Sizes of tensors, used as numbers.
            for each in node.all_input_nodes:
                if each not in self._traced.shapes:
                    self._pin(each, "their number is used")
        found = self.noted(node, rule(node))
        if self._is_in_place(node):
            self._values[node.all_input_nodes[0]] = found
        return found

    def _module_rule(self, node: fx.Node) -> Callable[[fx.Node], Value]:
        kind = type(self.module_of(node))
        if kind in ops.LINEAR or kind in ops.CONVOLUTIONS:
            return self._layer
        rules: list[tuple[Any, Callable[[fx.Node], Value]]] = [
            (ops.NORMS, self._norm),
            (ops.ELEMENTWISE_MODULES, self._elementwise),
            (ops.POOLING_MODULES, self._pool),
            ({nn.PReLU}, self._prelu),
            ({nn.Flatten}, self._reshape),
            (ops.MIXING_MODULES, self._mix),
        ]
        return next((rule for kinds, rule in rules if kind in kinds), self._refuse)

    def _function_rule(self, node: fx.Node) -> Callable[[fx.Node], Value]:
        name = self._traced.name_of(node)
        home = getattr(node.target, "__module__", None) or "torch"
        if node.op == "call_function" and home.split(".")[0] not in {"torch", "_operator"}:
            return self._refuse
        rules = [
            (ops.ELEMENTWISE, self._elementwise),
            (ops.POOLING | ops.AVERAGING, self._pool),
            (ops.REDUCTIONS, self._reduce),
            (ops.CONCATENATIONS, self._concatenate),
            (ops.RESHAPINGS, self._reshape),
            (ops.MIXING, self._mix),
        ]
        return next((rule for names, rule in rules if name in names), self._refuse)

    def noted(self, node: fx.Node, found: Value) -> Value:
        """Return what is known of the channels that an operation was found to give."""
        return found

    # Layers with weights

    def _layer(self, node: fx.Node) -> Value:
        module, source = self.module_of(node), self._source(node)
        if len(self._traced.shapes[node]) != ops.CONVOLUTIONS.get(type(module), 2):
            raise refusal(f"{self._traced.name_of(node)} is called on {len(self._traced.shapes[node])} dimensions")
        if getattr(module, "groups", 1) > 1:
            return self._grouped(node, module, source)
        weight = _array(module.weight)
        weight = weight.reshape(*weight.shape[:2], -1)
        units = self._plan.new(len(weight))
        layer = Layer(str(node.target), source, units, (weight != 0).any(axis=2), weight.sum(axis=2), _pads(module))
        if self._is_shared(module):
            for each in (source.units, units):
                self._plan.pin(each, f"{node.target} shares its weights")
        self._plan.layers.append(layer)
        folded = layer.bias_for(layer.folds) + (0.0 if module.bias is None else _array(module.bias))
        varies = (layer.reads & ~layer.folds).any(axis=1)
        return Value(units, np.where(varies, np.nan, folded))

    def _grouped(self, node: fx.Node, module: Any, source: Value) -> Value:
        """A depthwise convolution's channels go with those of its input; of other groups all stay."""
        if not module.groups == module.in_channels == module.out_channels:
            return self._mix(node)
        weight = _array(module.weight).reshape(module.groups, -1)
        bias = np.zeros(module.groups) if module.bias is None else _array(module.bias)
        reads, sums = (weight != 0).any(axis=1), weight.sum(axis=1)
        through = _zero_only(source.constant) if _pads(module) else source.constant
        constant = np.where(reads, sums * through, 0.0) + bias
        self._follow(node, source, ("weight", "bias"), ("in_channels", "out_channels", "groups"))
        return Value(source.units, constant)

    def _norm(self, node: fx.Node) -> Value:
        module, source = self.module_of(node), self._source(node)
        scale = 1.0 if module.weight is None else _array(module.weight)
        shift = 0.0 if module.bias is None else _array(module.bias)
        if module.running_mean is None:
            # A constant is its own mean, but only zero minus itself is zero whatever the rounding.
            normal = _zero_only(source.constant)
        else:
            spread = np.sqrt(_array(module.running_var) + module.eps)
            normal = (source.constant - _array(module.running_mean)) / spread
        self._follow(node, source, ("weight", "bias", "running_mean", "running_var"), ("num_features",))
        return Value(source.units, normal * scale + shift)

    def _prelu(self, node: fx.Node) -> Value:
        module, source = self.module_of(node), self._source(node)
        if module.num_parameters > 1:
            self._follow(node, source, ("weight",), ("num_parameters",))
        constant = source.constant
        return Value(source.units, np.where(constant < 0, constant * _array(module.weight), constant))

    def _follow(self, node: fx.Node, source: Value, tensors: tuple[str, ...], counts: tuple[str, ...]) -> None:
        if self._is_shared(self.module_of(node)):
            self._plan.pin(source.units, f"{node.target} is used more than once")
        self._plan.followers.append(Follower(str(node.target), source.units, tensors, counts))

    # Without weights

    def _elementwise(self, node: fx.Node) -> Value:
        """Channels of the operands at the same place become one unit; constants give what the operation gives of them.

        An operand of one channel, or a tensor of the model's own, stands beside all of the others', which then stay if
        it has several numbers.
        """
        shapes = self._traced.shapes
        operands = [each for each in node.all_input_nodes if each in self._values]
        others = [each for each in node.all_input_nodes if each in shapes and each not in self._values]
        count = shapes[node][1] if len(shapes[node]) > 1 else 0
        whole = [each for each in operands if len(self._values[each].units) == count]
        if not whole or any(len(shapes[each]) != len(shapes[node]) for each in operands):
            raise self._unknown(node)
        value = self._values[whole[0]]
        for each in operands:
            if each in whole:
                self._plan.join(value.units, self._values[each].units)
            else:
                self._pin(each, "they stand beside others of another number")
        if any(math.prod(shapes[each]) > 1 for each in others):
            self._plan.pin(value.units, "a tensor of the model's own stands beside them")
        if len(node.all_input_nodes) > len(operands):
            return Value(value.units, np.full(count, np.nan))
        return Value(value.units, self._applied(node, operands, count))

    def _applied(self, node: fx.Node, operands: list[fx.Node], count: int) -> Floats:
        """Return an operation's result for constants, (count,), NaN where an operand varies."""
        given = {each: self._values[each].constant for each in operands}
        after = [1] * (len(self._traced.shapes[node]) - 2)
        tensors = {each: torch.from_numpy(np.nan_to_num(given[each])).view(1, -1, *after) for each in operands}
        arguments = fx.map_arg(node.args, tensors.__getitem__)
        named = fx.map_arg(node.kwargs, tensors.__getitem__)
        if node.op == "call_module":
            result = self.module_of(node)(*arguments, **named)
        elif node.op == "call_method":
            result = getattr(arguments[0], str(node.target))(*arguments[1:], **named)
        else:
            result = node.target(*arguments, **named)  # type: ignore[operator]
        varies = np.any([np.broadcast_to(np.isnan(each), count) for each in given.values()], axis=0)
        return np.where(varies, np.nan, np.broadcast_to(result.reshape(-1).numpy(), count))

    def _pool(self, node: fx.Node) -> Value:
        source, name = self._source(node), self._traced.name_of(node)
        if dims_of(name) not in {None, len(self._traced.shapes[node.all_input_nodes[0]])}:
            raise self._unknown(node)  # it pools over the features, not within each
        module = self.module_of(node) if node.op == "call_module" else None
        if module is None:
            padding = node.kwargs.get("padding", node.args[3] if len(node.args) > 3 else 0)
            pads = name in ops.AVERAGING and padding not in (0, (0,), (0, 0), (0, 0, 0))
        else:
            pads = isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d) and _is_padded(module.padding)
        return Value(source.units, _zero_only(source.constant)) if pads else source

    def _reduce(self, node: fx.Node) -> Value:
        source, dims = self._source(node), len(self._traced.shapes[node.all_input_nodes[0]])
        over = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
        chosen = {each % dims for each in ([over] if isinstance(over, int) else list(over))}  # type: ignore[arg-type]
        if not chosen or chosen & {0, 1}:
            raise self._unknown(node)
        return source

    def _concatenate(self, node: fx.Node) -> Value:
        parts: Any = node.args[0] if node.args else ()
        dim: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if dim not in {1, 1 - len(self._traced.shapes[node])} or not all(each in self._values for each in parts):
            raise self._unknown(node)
        values = [self._values[each] for each in parts]
        return Value(np.concatenate([v.units for v in values]), np.concatenate([v.constant for v in values]))

    def _reshape(self, node: fx.Node) -> Value:
        """Channels stay what they are, or become blocks of features; sizes that are written out keep them all."""
        source = self._source(node)
        before, after = self._traced.shapes[node.all_input_nodes[0]], self._traced.shapes[node]
        if len(before) < 2 or len(after) < 2 or before[0] != after[0]:
            raise self._unknown(node)
        if _writes_sizes(self._traced.name_of(node), node):
            self._plan.pin(source.units, "sizes are written out")
        if before[1] == after[1]:
            return source
        if after[1] != math.prod(before[1:]):
            raise self._unknown(node)
        block = math.prod(before[2:])
        return Value(np.repeat(source.units, block), np.repeat(source.constant, block))

    def _mix(self, node: fx.Node) -> Value:
        why = f"{self._traced.name_of(node)} mixes them"
        for each in node.all_input_nodes:
            self._pin(each, why)
        return self._fixed(node, why)

    def _refuse(self, node: fx.Node) -> Value:
        raise self._unknown(node)

    # What they share

    def module_of(self, node: fx.Node) -> Any:
        """Return the module that a node calls."""
        return self._traced.modules[str(node.target)]

    def _source(self, node: fx.Node) -> Value:
        """Return the one tensor that an operation reads."""
        first, *others = node.all_input_nodes
        if first not in self._values or any(each in self._traced.shapes for each in others):
            raise self._unknown(node)
        return self._values[first]

    def _fixed(self, node: fx.Node, why: str) -> Value:
        """Return channels that vary and stay."""
        shape = self._traced.shapes[node]
        units = self._plan.new(shape[1] if len(shape) > 1 else 0)
        self._plan.pin(units, why)
        return Value(units, np.full(len(units), np.nan))

    def _pin(self, node: fx.Node, why: str) -> None:
        """Keep the channels of a tensor, or of those whose sizes a number comes from."""
        if node in self._values:
            self._plan.pin(self._values[node].units, why)
        elif node not in self._traced.shapes:
            for each in node.all_input_nodes:
                self._pin(each, why)

    def _is_shared(self, module: nn.Module) -> bool:
        return any(id(parameter) in self._shared for parameter in module.parameters())

    def _is_in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.module_of(node), "inplace", False))
        name = self._traced.name_of(node)
        return name.endswith("_") or name in {"iadd", "isub", "imul"} or bool(node.kwargs.get("inplace", False))

    def _unknown(self, node: fx.Node) -> Exception:
        return refusal(f"what {self._traced.name_of(node)} does to channels is not known")


def _shared_parameters(traced: Traced) -> set[int]:
    """Return the identities of parameters that several operations use."""
    used: Counter[int] = Counter()
    for node in traced.graph.nodes:
        if node.op == "call_module":
            used.update(id(parameter) for parameter in traced.modules[str(node.target)].parameters())
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            used[id(getattr(traced.modules[owner], name))] += 1
    return {parameter for parameter, count in used.items() if count > 1}


def _array(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().double().cpu().numpy()
    return found


def _zero_only(constant: Floats) -> Floats:
    """Return constants that are zero, and NaN for all others."""
    return np.where(constant == 0, 0.0, np.nan)


def _is_padded(padding: int | Iterable[int]) -> bool:
    return padding > 0 if isinstance(padding, int) else any(padding)


def _pads(module: nn.Module) -> bool:
    """Whether a layer puts zeros around its input."""
    if not isinstance(module, _ConvNd) or module.padding_mode != "zeros" or module.padding == "valid":
        return False
    return max(module.kernel_size) > 1 if module.padding == "same" else _is_padded(module.padding)  # type: ignore[arg-type]


def _writes_sizes(name: str, node: fx.Node) -> bool:
    """Whether the sizes that a reshaping gives its output are numbers, where fewer channels would need others."""
    if name == "squeeze":
        return len(node.args) + len(node.kwargs) < 2
    if name not in {"view", "reshape"}:
        return False
    sizes = node.args[1:] if len(node.args) > 2 else node.args[1] if len(node.args) == 2 else node.kwargs["shape"]
    sizes = sizes if isinstance(sizes, tuple | list) else (sizes,)
    return len(sizes) < 2 or (isinstance(sizes[1], int) and sizes[1] != -1)
