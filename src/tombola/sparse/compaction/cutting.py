"""Layers cut down to the units that stay."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tombola.sparse.compaction.plan import Flags, Follower, Layer, Plan


def cut(model: nn.Module, plan: Plan) -> None:
    """Cut every layer of a model, in place."""
    needed = plan.needed()
    kept = plan.kept(needed)
    for layer in plan.layers:
        if not (needed[layer.units].all() and needed[layer.value.units].all()):
            _cut_layer(model.get_submodule(layer.module), layer, needed, kept)
    for follower in plan.followers:
        if not kept[follower.units].all():
            _cut_follower(model.get_submodule(follower.module), follower, kept[follower.units])


def _cut_layer(module: Any, layer: Layer, needed: Flags, kept: Flags) -> None:
    """Keep the rows and columns that stay; what stays only to have a shape is zero and read by nobody."""
    rows, columns = kept[layer.units], kept[layer.value.units]
    dead_rows, dead_columns = ~needed[layer.units], ~needed[layer.value.units]
    weight = module.weight.detach().clone()
    weight[_flags(dead_rows, weight)] = 0
    weight[:, _flags(dead_columns, weight)] = 0
    weight = weight[_flags(rows, weight)][:, _flags(columns, weight)]
    folded = layer.bias_for(dead_columns & layer.folds)
    folded[dead_rows] = 0
    own = module.bias
    if isinstance(own, Tensor) or folded.any():
        whole = folded + (own.detach().double().cpu().numpy() if isinstance(own, Tensor) else 0.0)
        whole[dead_rows] = 0
        bias = torch.from_numpy(whole[rows]).to(weight)
        module.bias = nn.Parameter(bias, requires_grad=module.weight.requires_grad)
    _replace(module, "weight", weight)
    counts = ("out_features", "in_features") if isinstance(module, nn.Linear) else ("out_channels", "in_channels")
    for attribute, flags in zip(counts, (rows, columns), strict=True):
        setattr(module, attribute, int(flags.sum()))


def _cut_follower(module: nn.Module, follower: Follower, flags: Flags) -> None:
    for name in follower.tensors:
        tensor = getattr(module, name)
        if tensor is not None:
            _replace(module, name, tensor.detach()[_flags(flags, tensor)])
    for attribute in follower.counts:
        setattr(module, attribute, int(np.count_nonzero(flags)))


def _replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor into the place of a parameter or buffer."""
    before = getattr(module, name)
    is_parameter = isinstance(before, nn.Parameter)
    setattr(module, name, nn.Parameter(tensor, requires_grad=before.requires_grad) if is_parameter else tensor)


def _flags(flags: Flags, tensor: Tensor) -> Tensor:
    return torch.from_numpy(flags).to(tensor.device)
