"""Safetensors files with a header of our own and a digest of everything in them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from tombola.errors import UsageError

# What the digest's place holds while the digest is computed.
_BLANK = "0" * 64


def seal(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return a file's content: tensors, and a header with the digest of both."""
    text = json.dumps({"digest": _BLANK, **header})
    # One metadata entry only: safetensors does not keep the order of several.
    return to_bytes(dict(tensors), {"tombola": text.replace(_BLANK, _digest(text, tensors), 1)})


def unseal(path: Path, kind: str) -> tuple[str, dict[str, Tensor]]:
    """Return the header's text and the tensors of a file; raises UsageError for one that is not of the kind."""
    if not path.is_file():
        raise UsageError(f"there is no {kind} file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tombola")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise UsageError(f"{path} is not a {kind} file, or damaged ({' '.join(str(error).split())})") from error
    if text is None:
        raise UsageError(f"{path} is damaged, or a safetensors file, but not a {kind}: it has no tombola header")
    return text, tensors


def header_of(path: Path, text: str) -> dict[str, Any]:
    """Return the header that a text is; raises UsageError where it is none."""
    try:
        header = json.loads(text, object_pairs_hook=_unrepeated)
        # Fails where an escape made half a character, which no terminal could be shown.
        json.dumps(header, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path} is damaged: its header is no JSON ({why})") from None
    if not isinstance(header, dict):
        raise UsageError(f"{path} is damaged: its tombola header is no JSON object")
    return header


def check_seal(path: Path, header: Mapping[str, Any], text: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise UsageError unless a file's content is what its digest says."""
    found = header.get("digest")
    if not isinstance(found, str) or len(found) != len(_BLANK):
        raise UsageError(f"{path} is damaged: its header has no digest")
    if found != _digest(text.replace(found, _BLANK, 1), tensors):
        raise UsageError(f"{path} is damaged: its content is not what its digest says")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header's text, its own digest blank, and of all tensors: names, types, shapes, data."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        data = tensors[name]
        total.update(f"|{name}|{data.dtype}|{tuple(data.shape)}|".encode())
        known = data.view(torch.int16) if data.dtype == torch.bfloat16 else data  # which numpy has not
        total.update(known.numpy().tobytes())
    return total.hexdigest()
