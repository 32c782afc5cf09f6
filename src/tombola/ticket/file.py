"""The ticket's file format: safetensors, masks as bits or indices, the rest as JSON in the metadata, with a digest."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from tombola.errors import UsageError
from tombola.storage.digests import check_digest
from tombola.storage.files import write_bytes
from tombola.ticket.bits import Bits
from tombola.ticket.provenance import Provenance
from tombola.ticket.sealed import check_seal, header_of, seal, unseal

FORMAT = 2
# A file may say that it covers this many weights, or, where it keeps many, this many for each. What is not in the file
# has to be in memory, a bit for each.
_COVERED, _COVERED_FOR_EACH = 2**30, 2**20
_MOST_DIMENSIONS = 64


def check_place(path: Path) -> None:
    """Raise UsageError where no file can be written."""
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}: it is {'a directory' if path.is_dir() else 'no file'}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: {path.parent} is not a directory")


def write(path: Path, masks: Mapping[str, Bits], provenance: Provenance | None) -> None:
    """Write masks and provenance, atomically."""
    check_place(path)
    if not masks:
        raise UsageError(f"cannot write {path}: the ticket has no mask")
    check_size(path, [mask.shape for mask in masks.values()], sum(mask.kept for mask in masks.values()))
    encoded = {name: mask.encode() for name, mask in masks.items()}
    header = {
        "format": FORMAT,
        "masks": {
            name: {"shape": mask.shape, "kept": mask.kept, "encoding": encoded[name][0]} for name, mask in masks.items()
        },
        "provenance": provenance.to_dict() if provenance else None,
    }
    tensors = {name: data for name, (_, data) in encoded.items()}
    write_bytes(path, seal(header, tensors))


def read(path: Path) -> tuple[dict[str, Bits], Provenance | None]:
    """Read masks and provenance, checked against the file's own header and digest.

    Files of format 1 have no digest: whether they are as they were written is not known.
    """
    text, tensors = unseal(path, "ticket")
    header = _header(path, text)
    masks = _masks(path, header, tensors)
    provenance = _provenance(path, header)
    if header["format"] > 1 or "digest" in header:
        check_seal(path, header, text, tensors)
    check_digest(path)
    return masks, provenance


def _header(path: Path, text: str) -> dict[str, Any]:
    """Return the header of a known format; raises UsageError for what is no ticket."""
    header = header_of(path, text)
    found = header.get("format")
    if found is None and "network" in header:
        raise UsageError(
            f"{path} holds a network and not its ticket alone: tombola evaluate reads it, and "
            "tombola.ticket.formats.load_network, whose ticket can be saved"
        )
    # Not isinstance: True is an int.
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise UsageError(
            f"{path} has ticket format {found!r}; this version of tombola reads format 1 and format {FORMAT} (or the "
            "file is damaged)"
        )
    return header


def _masks(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Bits]:
    described = header.get("masks")
    if not isinstance(described, dict) or not described:
        raise UsageError(f"{path} is damaged: its header has no masks")
    if set(tensors) != set(described):
        differing = ", ".join(sorted(set(tensors) ^ set(described)))
        raise UsageError(f"{path} is damaged: header and masks differ in {differing}")
    for name, facts in described.items():
        check_facts(path, name, facts)
    # What the data can keep at most; the header may say anything.
    kept = sum(min(facts["kept"], 8 * tensors[name].numel()) for name, facts in described.items())
    check_size(path, [facts["shape"] for facts in described.values()], kept)
    masks = {}
    for name, facts in described.items():
        try:
            mask = Bits.decode(name, facts["encoding"], tensors[name], tuple(facts["shape"]))
        except UsageError as error:
            raise UsageError(f"{path} is damaged: {error}") from None
        if mask.kept != facts["kept"]:
            raise UsageError(f"{path} is damaged: {name} keeps {mask.kept} weights, its header says {facts['kept']}")
        masks[name] = mask
    return masks


def check_facts(path: Path, name: str, facts: object) -> None:
    """Raise UsageError unless the header describes a mask by a shape, a count and an encoding."""
    if not isinstance(facts, dict):
        raise UsageError(f"{path} is damaged: its header does not describe the mask of {name}")
    shape, kept = facts.get("shape"), facts.get("kept")
    sizes = shape if isinstance(shape, list) else [None]
    if len(sizes) > _MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in sizes):
        raise UsageError(f"{path} is damaged: the shape of {name} must be a list of whole numbers from 0 on")
    if type(kept) is not int or kept < 0:
        raise UsageError(f"{path} is damaged: {name} must keep a whole number of weights")
    if not isinstance(facts.get("encoding"), str):
        raise UsageError(f"{path} is damaged: the encoding of {name} must be bits or indices")


def check_size(path: Path, shapes: list[Any], kept: int) -> None:
    """Raise UsageError for masks that would take much memory and are in no proportion to what they keep."""
    # Empty dimensions do not excuse the others.
    covered = sum(prod(max(size, 1) for size in shape) for shape in shapes)
    if covered > max(_COVERED, _COVERED_FOR_EACH * kept):
        raise UsageError(
            f"{path}: the shapes of its masks are damaged or too large: masks that keep {kept:,} weights may cover "
            f"{_COVERED:,}, or {_COVERED_FOR_EACH:,} times what they keep"
        )


def _provenance(path: Path, header: Mapping[str, Any]) -> Provenance | None:
    values = header.get("provenance")
    try:
        return None if values is None else Provenance.from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path} is damaged: {error}") from None
