"""Heads of attention: which channels of which weights belong to one head."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

# What modules call their number of heads, their projections into heads, several in one, and out of them.
_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
_INTO = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin")
_FUSED = ("qkv", "in_proj", "c_attn")
_OUT = ("proj", "out_proj", "o_proj", "out_lin", "c_proj")


@dataclass(frozen=True)
class Heads:
    """The heads of a weight's outputs, or of its inputs where it reads them, by their numbers in the whole network."""

    numbers: tuple[int, ...]
    reads: bool


def heads_of(model: nn.Module) -> dict[int, Heads]:
    """Return the heads of weights, by the parameters' identities, of all attention that is known."""
    found: dict[int, Heads] = {}
    first = 0
    for module in model.modules():
        count = next((n for name in _COUNTS if isinstance(n := getattr(module, name, None), int)), 0)
        mine = {id(weight): heads for weight, heads in _weights(module, count, first)} if count > 0 else {}
        if mine:
            found |= mine
            first += count
    return found


def _weights(module: nn.Module, count: int, first: int) -> Iterator[tuple[nn.Parameter, Heads]]:
    """Give a module's weights that have heads; first: the number of its first head."""

    def numbers(width: int) -> tuple[int, ...]:
        return tuple(first + channel // (width // count) for channel in range(width))

    own = [(getattr(module, name, None), 1) for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")]
    own.append((getattr(module, "in_proj_weight", None), 3))
    own += [(_weight_of(module, name), 1) for name in _INTO] + [(_weight_of(module, name), 3) for name in _FUSED]
    width = next((len(weight) // parts for weight, parts in own if weight is not None), 0)
    if not width or width % count:
        return
    for weight, parts in own:
        if weight is not None and len(weight) == parts * width:
            yield weight, Heads(numbers(width) * parts, reads=False)
    for weight in (_weight_of(module, name) for name in _OUT):
        if weight is not None and weight.shape[1] == width:
            yield weight, Heads(numbers(width), reads=True)


def _weight_of(module: nn.Module, name: str) -> nn.Parameter | None:
    child = getattr(module, name, None)
    weight = child.weight if isinstance(child, nn.Linear) else None
    return weight if isinstance(weight, nn.Parameter) else None
