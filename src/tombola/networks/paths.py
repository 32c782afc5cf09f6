"""Effective nodes, weights and paths of a masked network: what of it lies between its inputs and its outputs.

Source: Pham et al. 2023, Towards Data-Agnostic Pruning at Initialization: What Makes a Good Sparse Mask? (NPB).
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.core.seeds import generator
from tombola.errors import UsageError
from tombola.networks.masking import check_masks, named_parameters
from tombola.networks.network import explained_run, private_copy, statistics_modules

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Twice the input must give twice the output, relative to its size.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Paths:
    """What a mask leaves of a network's ways from inputs to outputs.

    nodes: units (features, channels) of masked layers that lie on a path of kept weights from an input to an output, of
    `of` in all. weights: kept weights that do. log_paths: natural logarithm of the number of such paths for an input of
    one everywhere, -infinity where there is none. What pools by averages takes a path by its share, and of a maximum
    the most.
    """

    nodes: int
    of: int
    weights: int
    log_paths: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; no path is None."""
        return {
            "nodes": self.nodes,
            "of": self.of,
            "weights": self.weights,
            "log_paths": self.log_paths if math.isfinite(self.log_paths) else None,
        }


def effective_paths(model: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> Paths:
    """Return effective nodes, weights and paths of a model under masks, by name.

    Weights become their masks, all other weights of layers one, biases zero, and normalisation does nothing; an input
    of ones then adds up paths, and how its sum depends on a unit, times that unit, those through it. example: inputs
    (N, ...), of which the shape counts. Raises UsageError where masks are of other layers than linear ones and
    convolutions, or where the network is not homogeneous: twice the input must give twice the output.
    """
    if not isinstance(example, Tensor):
        raise UsageError(f"paths cannot be counted: the model is given {type(example).__name__}, not one tensor")
    counted = _counting(model, masks)
    layers = _layers(counted, masks)
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}
    handles = [
        module.register_forward_hook(lambda _m, _i, found, name=name: outputs[name].append(found))
        for name, module in layers.items()
    ]
    # On the CPU, as the copy, wherever the example lies.
    ones = torch.ones(example[:1].shape, dtype=torch.float64, device="cpu")
    with torch.enable_grad(), explained_run("paths cannot be counted"):
        found = counted(ones.requires_grad_())
        total = _sum(found)
        flat = [each for parts in outputs.values() for each in parts]
        kept = [parameter for parameter in counted.parameters() if parameter.requires_grad]
        slopes = torch.autograd.grad(total, [*flat, *kept], allow_unused=True)
    for handle in handles:
        handle.remove()
    _check_homogeneous(counted, ones.shape)
    total = total.detach()
    # What a sum of products depends on through a factor, times that factor, are the products with it.
    weights = sum(
        int((weight * slope > 0).sum())
        for weight, slope in zip(kept, slopes[len(flat) :], strict=True)
        if slope is not None
    )
    nodes, places = 0, iter(slopes)
    for name, parts in outputs.items():
        through = sum((_by_unit(layers[name], each, next(places)) for each in parts), torch.zeros((), device="cpu"))
        nodes += int((through > 0).sum())
    count = sum(masks[name].shape[0] for name in layers)
    return Paths(nodes, count, weights, math.log(float(total)) if total > 0 else -math.inf)


@torch.no_grad()
def _check_homogeneous(counting: nn.Module, shape: torch.Size) -> None:
    """Raise UsageError unless twice the input gives twice the output, also where no two weights are equal."""
    draws, uneven = generator(0, "paths"), copy.deepcopy(counting)
    for parameter in uneven.parameters():
        parameter.mul_(0.5 + torch.rand(parameter.shape, generator=draws, dtype=torch.float64, device="cpu"))
    inputs = 0.5 + torch.rand(shape, generator=draws, dtype=torch.float64, device="cpu")
    once, twice = uneven(inputs), uneven(2 * inputs)
    if not float((twice - 2 * once).abs().max()) <= ROUNDING * float(once.abs().max()):
        raise UsageError(
            "paths are counted in networks whose output doubles with their input, such as those of linear layers, "
            "convolutions, ReLU and pooling"
        )


def _sum(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise UsageError("paths are counted in networks whose output is one tensor")
    return output.sum()


def _by_unit(layer: nn.Module, output: Tensor, slope: Tensor | None) -> Tensor:
    """Return the paths through each unit of a layer, (units,)."""
    axis = output.dim() - 1 if isinstance(layer, nn.Linear) else 1
    product = torch.zeros_like(output) if slope is None else output * slope
    return product.detach().transpose(0, axis).flatten(1).sum(dim=1)


def _layers(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Return the layer of each mask, by the mask's name."""
    owns = {name: own for name, own, _ in named_parameters(model)}
    found: dict[str, nn.Module] = {}
    for name in masks:
        owner, _, last = owns[name].rpartition(".")
        if last != "weight" or not isinstance(module := model.get_submodule(owner), LAYERS):
            raise UsageError(f"paths are counted in networks of linear layers and convolutions; {name} is of another")
        found[name] = module
    return found


@torch.no_grad()
def _counting(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model that counts, in float64."""
    counting = private_copy(model).cpu().double().eval().requires_grad_(False)
    for module in statistics_modules(counting):
        module.track_running_stats = True
        module.running_mean = torch.zeros(module.num_features, dtype=torch.float64, device="cpu")
        # So that nothing is divided by anything.
        module.running_var = torch.full((module.num_features,), 1 - module.eps, dtype=torch.float64, device="cpu")
    for name, parameter in counting.named_parameters():
        parameter.fill_(0.0 if name.rpartition(".")[2] == "bias" else 1.0)
    for name, parameter in check_masks(counting, masks).items():
        parameter.copy_(masks[name]).requires_grad_()
    return counting
