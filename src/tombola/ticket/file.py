"""The ticket's file format: safetensors, masks as bits or indices, the rest as JSON in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from tombola.errors import UsageError
from tombola.store import write_bytes
from tombola.ticket.bits import Bits
from tombola.ticket.provenance import Provenance

FORMAT = 1


def write(path: Path, masks: Mapping[str, Bits], provenance: Provenance | None) -> None:
    """Write masks and provenance, atomically."""
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}: it is {'a directory' if path.is_dir() else 'no file'}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: {path.parent} is not a directory")
    encoded = {name: mask.encode() for name, mask in masks.items()}
    header = {
        "format": FORMAT,
        "masks": {
            name: {"shape": mask.shape, "kept": mask.kept, "encoding": encoded[name][0]} for name, mask in masks.items()
        },
        "provenance": provenance.to_dict() if provenance else None,
    }
    # One metadata entry only: safetensors does not keep the order of several.
    tensors = {name: data for name, (_, data) in encoded.items()}
    write_bytes(path, to_bytes(tensors, {"tombola": json.dumps(header)}))


def read(path: Path) -> tuple[dict[str, Bits], Provenance | None]:
    """Read masks and provenance, checked against the file's own header."""
    header, tensors = _open(path)
    if header.get("format") != FORMAT:
        raise UsageError(
            f"{path} has ticket format {header.get('format')}; this version of tombola reads format {FORMAT}"
        )
    if set(tensors) != set(header["masks"]):
        differing = ", ".join(sorted(set(tensors) ^ set(header["masks"])))
        raise UsageError(f"{path} is damaged: header and masks differ in {differing}")
    masks = {}
    for name, facts in header["masks"].items():
        mask = Bits.decode(name, facts["encoding"], tensors[name], tuple(facts["shape"]))
        if mask.kept != facts["kept"]:
            raise UsageError(f"{path} is damaged: {name} keeps {mask.kept} weights, its header says {facts['kept']}")
        masks[name] = mask
    provenance = header["provenance"]
    return masks, Provenance.from_dict(provenance) if provenance else None


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        raise UsageError(f"there is no ticket file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("tombola", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{path} is not a ticket file ({error})") from error
    if not isinstance(header, dict):
        raise UsageError(f"{path} is a safetensors file, but not a ticket: it has no tombola header")
    return header, tensors
