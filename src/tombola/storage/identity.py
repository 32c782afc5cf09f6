"""Identity: what a result is filed under is a hash of everything that it depends on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tombola.errors import UsageError


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON-like value, independent of the order of its keys; raises UsageError for another."""
    try:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    except TypeError as error:
        raise UsageError(f"options of parts must be numbers, texts, or lists and mappings of these: {error}") from None


def digest_tensors(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of named tensors: names, types, shapes and every byte.

    Entries that are no tensors (a module's extra state) enter by their representation.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if not isinstance(value, Tensor):
            total.update(f"{name}|{value!r}".encode())
            continue
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def differing_keys(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of all entries in which two nested mappings differ."""
    names: list[str] = []
    for key in sorted({*stored, *asked}):
        old, new = stored.get(key), asked.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += [f"{key}.{inner}" for inner in differing_keys(old, new)]
        elif old != new or (key in stored) != (key in asked):
            names.append(str(key))
    return names
