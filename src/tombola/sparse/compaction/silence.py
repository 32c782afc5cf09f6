"""Channels that pruning leaves without input, and what must be zero for them to be zero themselves."""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, fx, nn

from tombola.core.flat import Layout
from tombola.core.granularity import outputs_of
from tombola.networks.masking import named_parameters
from tombola.networks.network import private_copy
from tombola.sparse.compaction import operations as ops
from tombola.sparse.compaction.plan import Flags, Places, Value
from tombola.sparse.compaction.reading import Reader
from tombola.sparse.compaction.tracing import Traced, trace


@torch.no_grad()
def silence(model: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """Return masks of biases, and of BatchNorm's scales and shifts: False where a channel has no input left.

    With these at zero, every channel is zero that no path of kept weights joins to the network's inputs. What the
    network gives stays. By canonical name, those alone in which something is False; each is (C,), bool.

    masks: of weights, bool, by canonical name. example: a batch of inputs, (N, ...), on the model's device. Raises
    UsageError where torch.fx cannot trace the model, or for an operation that does something unknown to channels.
    """
    twin = private_copy(model).eval()
    names = {parameter: name for name, _, parameter in named_parameters(twin)}
    for module in twin.modules():
        _reduce_to_masks(module, masks, names)
    traced = trace(twin, example)
    silencer = _Silencer(traced, _given(traced))
    silencer.read()
    found = {names[parameter]: torch.from_numpy(alive) for parameter, alive in silencer.alive.items()}
    return {name: alive for name, alive in found.items() if not alive.all()}


@torch.no_grad()
def companions(model: nn.Module, layout: Layout, example: Tensor, coupled: bool) -> dict[str, Tensor]:
    """Return with which weights biases, and BatchNorm's scales and shifts, go: places in the flat vector of weights.

    By canonical name, (C,); at each channel's place there is a weight that writes the channel, -1 for channels that the
    network gives, that weights outside of the layout write too, or several weights do that are not coupled, and for
    those of modules that run behind several layers. Parameters without any such channel are left out. example, and
    what is raised: as in `silence`.
    """
    twin = private_copy(model).eval()
    names = {parameter: name for name, _, parameter in named_parameters(twin)}
    reader = _Noting(trace(twin, example))
    leaders, _ = reader.read().leaders()
    writers: dict[int, set[int]] = {}
    for weight, _, outputs in reader.weighted():
        for unit, place in zip(leaders[outputs].tolist(), _first_of_channels(layout, names[weight]), strict=False):
            writers.setdefault(unit, set()).add(place)
    for unit in leaders[sorted(reader.ends)].tolist():
        writers[unit] = {-1}

    def place_of(unit: int) -> int:
        places = writers.get(unit, {-1})
        return min(places) if coupled or len(places) == 1 else -1

    found: dict[str, Tensor] = {}
    for held, units in reader.held:
        places = torch.tensor([place_of(unit) for unit in leaders[units]])
        # Of a module that runs several times, those channels alone that have one gate everywhere.
        found[names[held]] = places.where(found.get(names[held], places) == places, -1)
    return {name: places for name, places in found.items() if (places >= 0).any()}


def _first_of_channels(layout: Layout, name: str) -> Iterable[int]:
    """Return where in the flat vector the first weight of each output channel of a layer lies; -1 outside of it."""
    if name not in layout.names:
        return itertools.repeat(-1)
    at = layout.names.index(name)
    shape = layout.shapes[at]
    channels = outputs_of(shape, layout.wiring(at)).expand(shape).reshape(-1)
    _, first = np.unique(channels.numpy(), return_index=True)
    found: list[int] = (sum(layout.counts[:at]) + first).tolist()
    return found


class _Noting(Reader):
    """Notes what would keep channels from being zero. held: parameters, and the units that each has a number for."""

    def __init__(self, traced: Traced) -> None:
        super().__init__(traced)
        self.held: list[tuple[nn.Parameter, Places]] = []

    def noted(self, node: fx.Node, found: Value) -> Value:
        if node.op == "call_module":
            self.held += [(parameter, found.units) for parameter in _held(self.module_of(node))]
        return found


def _reduce_to_masks(module: nn.Module, masks: Mapping[str, Tensor], names: Mapping[nn.Parameter, str]) -> None:
    """Make of a layer's weights what its mask is, one for those that are kept, and nothing of all that is added."""
    if type(module) in ops.LINEAR or type(module) in ops.CONVOLUTIONS:
        weight: nn.Parameter = module.weight  # type: ignore[assignment]
        weight.fill_(1.0)
        mask = masks.get(names.get(weight, ""))
        if mask is not None:
            weight.copy_(mask)
    for parameter in _held(module):
        parameter.zero_()


def _held(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a layer or normalisation that can keep a channel without input from being zero."""
    if type(module) in ops.LINEAR or type(module) in ops.CONVOLUTIONS:
        found = [module.bias]
    else:
        found = [module.weight, module.bias] if type(module) in ops.NORMS else []
    return [parameter for parameter in found if isinstance(parameter, nn.Parameter)]


def _given(traced: Traced) -> Flags:
    """Return which units the network gives, or are joined with one of those."""
    reader = Reader(traced)
    leaders, _ = reader.read().leaders()
    found: Flags = np.isin(leaders, leaders[sorted(reader.ends)])
    return found


class _Silencer(Reader):
    """Follows zeros alone: what other constants will be after a training is not known.

    given: units that stay what they are. alive: of each parameter, the channels that anything reaches.
    """

    def __init__(self, traced: Traced, given: Flags) -> None:
        super().__init__(traced)
        self._given = given
        self.alive: dict[nn.Parameter, Flags] = {}

    def noted(self, node: fx.Node, found: Value) -> Value:
        silent = (found.constant == 0) & ~self._given[found.units]
        for parameter in _held(self.module_of(node)) if node.op == "call_module" else ():
            # A module that runs several times has to pass on what reaches it any time.
            self.alive[parameter] = ~silent | self.alive.get(parameter, np.zeros_like(silent))
        return Value(found.units, np.where(silent, 0.0, np.nan))
