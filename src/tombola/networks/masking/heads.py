"""Heads of attention: which channels of which weights belong to one head."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

# What modules call their number of heads or the width of one, their projections into heads, several in one, and the
# projection out of them.
_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")
_WIDTHS = ("head_dim", "attention_head_size")
_SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("to_q", "to_k", "to_v"),
    ("q", "k", "v"),
)
_FUSED = ("qkv", "in_proj", "c_attn", "to_qkv")
_OUT = ("proj", "out_proj", "o_proj", "out_lin", "c_proj", "to_out", "o", "dense")
# Where BERT and its like have it: in the module beside the one of the heads.
_OUT_BESIDE = "output.dense"
# What projections of attention are called otherwise, whose heads might lie in any order.
_LIKE_ATTENTION = re.compile(r"query|key|value|qkv|^[qkv]$|[qkv]_(proj|lin|head)|^to_[qkv]|c_attn|^in_proj|[wW]_?pack")


@dataclass(frozen=True)
class Heads:
    """The heads of a weight's outputs, or of its inputs where it reads them, by their numbers in the whole network.

    unknown: the module of attention of which that is not known; no numbers then.
    """

    numbers: tuple[int, ...] = ()
    reads: bool = False
    unknown: str = ""


@dataclass(frozen=True)
class _Projection:
    """A weight of a linear layer, and its numbers of channels."""

    weight: nn.Parameter
    outputs: int
    inputs: int


def heads_of(model: nn.Module) -> dict[int, Heads]:
    """Return the heads of weights, by the parameters' identities, of all that looks like attention."""
    found: dict[int, Heads] = {}
    modules = dict(model.named_modules())
    first = 0
    for path, module in modules.items():
        count, heads = _heads_in(module, modules.get(path.rpartition(".")[0]), first)
        if not heads:
            words = f"{path} ({type(module).__name__})".lstrip()
            heads = {id(each.weight): Heads(unknown=words) for each in _like_attention(module)}
        found |= heads
        first += count
    return found


def _heads_in(module: nn.Module, parent: nn.Module | None, first: int) -> tuple[int, Mapping[int, Heads]]:
    """Return the number of a module's heads, and those of its weights; first: the number of the first.

    Heads that share a key and a value (Ainslie et al. 2023, arXiv 2305.13245) are one.
    """
    into, parts = _into(module)
    out = _first(module, _OUT) or (None if parent is None else _child(parent, _OUT_BESIDE))
    if not into or out is None:
        return 0, {}
    query, key, value = into[0], into[len(into) // 2], into[-1]
    widths = [each.outputs // parts for each in (query, key, value)]
    count = _count(module, widths)
    if count < 1 or any(width % count for width in widths) or out.inputs not in (widths[0], widths[2]):
        return 0, {}

    def numbers(channels: int, times: int = 1) -> tuple[int, ...]:
        width = channels // times
        return tuple(first + channel // (width // count) for channel in range(width)) * times

    found = {id(each.weight): Heads(numbers(each.outputs, parts)) for each in into}
    return count, found | {id(out.weight): Heads(numbers(out.inputs), reads=True)}


def _into(module: nn.Module) -> tuple[list[_Projection], int]:
    """Return the projections into heads, and how many lie in each of them one after another: query, key and value."""
    if isinstance(module, nn.MultiheadAttention):
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        own = [module.in_proj_weight] if module.in_proj_weight is not None else [getattr(module, n) for n in names]
        return [_Projection(weight, *weight.shape) for weight in own], 3 if len(own) == 1 else 1
    for names in _SEPARATE:
        found = [each for name in names if (each := _child(module, name)) is not None]
        if len(found) == 3:
            return found, 1
    fused = _first(module, _FUSED)
    return ([fused], 3) if fused is not None and fused.outputs % 3 == 0 else ([], 1)


def _count(module: nn.Module, widths: list[int]) -> int:
    """Return how many heads have a key of their own, 0 where that is not known. widths: of query, key and value."""
    heads, width = _number(module, _COUNTS), _number(module, _WIDTHS)
    if not heads and not width:
        return 0
    width = width if not heads else widths[0] // heads
    known = width > 0 and not widths[1] % width and not widths[0] % widths[1]
    return widths[1] // width if known else 0


def _number(module: nn.Module, names: Iterable[str]) -> int:
    """Return the first of several attributes that is a number above zero; zero without."""
    return next((n for name in names if isinstance(n := getattr(module, name, None), int) and n > 0), 0)


def _first(module: nn.Module, names: Iterable[str]) -> _Projection | None:
    return next((found for name in names if (found := _child(module, name)) is not None), None)


def _child(module: nn.Module, path: str) -> _Projection | None:
    """Return a linear layer of a module, also where it stands first in a sequence (before a dropout)."""
    found: object = module
    for name in path.split("."):
        found = getattr(found, name, None)
    if isinstance(found, nn.Sequential) and len(found):
        found = found[0]
    return _projection(found)


def _projection(layer: object) -> _Projection | None:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 2:
        return None
    if isinstance(layer, nn.Linear):
        return _Projection(weight, *weight.shape)
    # Named, not imported: transformers is an optional dependency, whose Conv1D has its inputs first.
    return _Projection(weight, *reversed(weight.shape)) if type(layer).__name__ == "Conv1D" else None


def _like_attention(module: nn.Module) -> Iterator[_Projection]:
    """Give the linear layers of a module whose names are those of projections of attention."""
    for name, child in module.named_children():
        found = _projection(child)
        if found is not None and _LIKE_ATTENTION.search(name):
            yield found
