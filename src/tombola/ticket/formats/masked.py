"""A network under a ticket in one file: the values that the ticket keeps, and whatever it does not cover."""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola.errors import UsageError
from tombola.networks.masking import state_names
from tombola.storage.files import write_bytes
from tombola.ticket.bits import INT32_BELOW, Bits
from tombola.ticket.core import Ticket
from tombola.ticket.file import check_facts, check_place, check_size
from tombola.ticket.sealed import check_seal, header_of, seal, unseal

FORMAT = 1
# A gap of as many weights or more is written in several bytes, of which this one says that it goes on.
_LONG = 255

# Returns the name of an encoding, and what it makes of a mask.
Encode = Callable[[Bits], tuple[str, Tensor]]


def as_indices(mask: Bits) -> tuple[str, Tensor]:
    """Return the places of the kept weights in row-major order, (k,) of int32, or int64 in very large layers."""
    index = np.int32 if mask.total < INT32_BELOW else np.int64
    return "indices", torch.from_numpy(np.flatnonzero(mask.flags()).astype(index))


def as_gaps_or_bits(mask: Bits) -> tuple[str, Tensor]:
    """Return the smaller one: the gaps between kept weights, mostly a byte each, or a bit for every weight."""
    gaps = np.diff(np.flatnonzero(mask.flags()), prepend=-1) - 1
    lengths = gaps // _LONG + 1
    if lengths.sum() >= mask.packed.nbytes:
        return "bits", torch.from_numpy(mask.packed.copy())
    data = np.full(int(lengths.sum()), _LONG, np.uint8)
    data[np.cumsum(lengths) - 1] = gaps % _LONG
    return "gaps", torch.from_numpy(data)


def write(path: Path, ticket: Ticket, state: Mapping[str, Any], encode: Encode) -> None:
    """Write a state_dict under a ticket, atomically; raises UsageError where it holds what is no tensor."""
    check_place(path)
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise UsageError(f"cannot write {path}: {strange[0]} in the state_dict is no tensor")
    entries = {name: entry for name, entry in state_names(state, ticket).items() if name in ticket}
    tied = _tied(state, set(entries.values()))
    tensors, masks = {}, {}
    for name, entry in entries.items():
        mask = Bits.of(ticket[name])
        encoding, tensors[f"mask:{name}"] = encode(mask)
        tensors[f"values:{name}"] = state[entry].detach().cpu()[ticket[name]]
        masks[name] = {"entry": entry, "shape": mask.shape, "kept": mask.kept, "encoding": encoding}
    for entry in state.keys() - entries.values() - tied.keys():
        tensors[f"whole:{entry}"] = state[entry].detach().cpu().clone(memory_format=torch.contiguous_format)
    write_bytes(path, seal({"network": FORMAT, "masks": masks, "tied": tied}, tensors))


def _tied(state: Mapping[str, Tensor], entries: set[str]) -> dict[str, str]:
    """Return the other names of masked weights, which are written once."""
    found = {}
    for name in state.keys() - entries:
        for entry in sorted(entries):
            one, other = state[name], state[entry]
            if one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other):
                found[name] = entry
    return found


def read(path: str | Path) -> tuple[Ticket, dict[str, Tensor]]:
    """Return the ticket, its provenance not known, and the state_dict, pruned weights zero, of a file.

    Raises UsageError for a file that is damaged, or of another kind.
    """
    path = Path(path)
    text, tensors = unseal(path, "network")
    header = header_of(path, text)
    if header.get("network") != FORMAT:
        raise UsageError(
            f"{path} holds no network in format {FORMAT}, the one that this version of tombola reads (or is damaged)"
        )
    check_seal(path, header, text, tensors)
    masks = _checked(path, header, tensors)
    state = {name.removeprefix("whole:"): data for name, data in tensors.items() if name.startswith("whole:")}
    for name, mask in masks.items():
        values = tensors[f"values:{name}"]
        if values.shape != (mask.kept,):
            raise UsageError(f"{path} is damaged: {name} must have {mask.kept} values")
        dense = torch.zeros(mask.shape, dtype=values.dtype)
        dense[mask.unpack()] = values
        state[header["masks"][name]["entry"]] = dense
    state |= {name: state[entry].clone() for name, entry in header["tied"].items()}
    return Ticket({name: mask.unpack() for name, mask in masks.items()}), state


def is_network(path: Path) -> bool:
    """Whether a file's header says that it holds a network, whole or damaged."""
    try:
        return "network" in header_of(path, unseal(path, "network")[0])
    except UsageError:
        return False


def _checked(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Bits]:
    """Return the masks; raises UsageError where the header is not what `write` makes."""
    described, tied = header.get("masks"), header.get("tied")
    if not isinstance(described, dict) or not isinstance(tied, dict):
        raise UsageError(f"{path} is damaged: its header has no masks")
    for name, facts in described.items():
        check_facts(path, name, facts)
        if not isinstance(facts.get("entry"), str) or not {f"values:{name}", f"mask:{name}"} <= tensors.keys():
            raise UsageError(f"{path} is damaged: it lacks the values or the mask of {name}")
    if not set(tied.values()) <= {facts["entry"] for facts in described.values()}:
        raise UsageError(f"{path} is damaged: its header ties weights to others that it lacks")
    kept = sum(tensors[f"values:{name}"].numel() for name in described)
    check_size(path, [facts["shape"] for facts in described.values()], kept)
    return {
        name: _decoded(path, name, facts["encoding"], tensors[f"mask:{name}"], tuple(facts["shape"]))
        for name, facts in described.items()
    }


def _decoded(path: Path, name: str, encoding: str, data: Tensor, shape: tuple[int, ...]) -> Bits:
    try:
        if encoding == "gaps":
            return Bits.decode(name, "indices", _indices(name, data, prod(shape)), shape)
        return Bits.decode(name, encoding, data, shape)
    except UsageError as error:
        raise UsageError(f"{path} is damaged: {error}") from None


def _indices(name: str, data: Tensor, total: int) -> Tensor:
    """Return the places, (k,), that gaps stand for."""
    if data.dtype != torch.uint8 or data.dim() != 1 or (len(data) and data[-1] == _LONG):
        raise UsageError(f"the mask of {name} has gaps that are no bytes, or end too early")
    gaps = data.numpy()
    ends = np.flatnonzero(gaps < _LONG)
    places = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(len(ends))
    return torch.from_numpy(
        places.astype(np.int32 if total < INT32_BELOW and places.max(initial=0) < INT32_BELOW else np.int64)
    )
