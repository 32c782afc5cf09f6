"""Weights in files: safetensors, or what torch.save wrote, read without running its code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from tombola.errors import UsageError, the_first
from tombola.networks.masking import state_names
from tombola.networks.values import put_values, unsaved_buffers
from tombola.storage.archives import load_archive, save_archive
from tombola.storage.digests import check_digest
from tombola.storage.files import write_atomically, write_bytes

ENDINGS = (".safetensors", ".pt", ".pth")


def _check_ending(option: str, path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UsageError(f"{option} {path} must end in {', '.join(ENDINGS)}", option=option)


def read_weights(path: Path, option: str = "weights") -> dict[str, Any]:
    """Return the state_dict in a file; raises UsageError naming the option and the file.

    A run directory's own must be as it was written; a foreign file is taken as it is.
    """
    _check_ending(option, path)
    if not path.is_file():
        raise UsageError(f"{option}: there is no file {path}", option=option)
    check_digest(path)
    try:
        found = load_tensors(path) if path.suffix == ".safetensors" else load_archive(path)
    except ValueError as error:
        raise UsageError(f"{option} {path} cannot be read: {error}", option=option) from error
    if not isinstance(found, dict):
        raise UsageError(f"{option} {path} must hold a state_dict, got {type(found).__name__}", option=option)
    strange = [key for key in found if not isinstance(key, str)]
    if strange:
        raise UsageError(f"{option} {path} must hold tensors by name, got the key {strange[0]!r}", option=option)
    return found


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises ValueError for anything else."""
    try:
        return load_file(path)
    except (SafetensorError, LookupError, TypeError, RuntimeError, MemoryError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def load_into(model: nn.Module, tensors: Mapping[str, Any], path: Path) -> None:
    """Put a state_dict into a model; raises UsageError that says what differs.

    The model may have been wrapped (torch.compile, DDP, AveragedModel) when its state_dict was made.
    """
    own = model.state_dict()
    entries = state_names(tensors, own)
    if entries.keys() >= own.keys():
        taken = {*entries.values()}
        beside = {name: tensors[name] for name in tensors if name not in taken and not name.endswith("n_averaged")}
        tensors = {name: tensors[entry] for name, entry in entries.items()} | beside
    missing = [name for name in own if name not in tensors]
    own |= unsaved_buffers(model)
    unknown = [name for name in tensors if name not in own]
    both = [name for name in own if name in tensors and isinstance(own[name], Tensor)]
    others = [name for name in both if not isinstance(tensors[name], Tensor)]
    shapes = [name for name in both if name not in others and own[name].shape != tensors[name].shape]
    for names, what in (
        (missing, "lacks"),
        (unknown, "has beyond the model"),
        (others, "has no tensor for"),
        (shapes, "has in another shape"),
    ):
        if names:
            raise UsageError(f"weights {path} {what} {the_first(names)}", option="weights")
    try:
        put_values(model, tensors)
    except RuntimeError as error:
        # Sparse or quantised tensors, say, which have the right names and shapes.
        raise UsageError(
            f"weights {path} does not fit the model: {' '.join(str(error).split())}", option="weights"
        ) from None


def write_weights(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write a plain state_dict, atomically."""
    _check_ending("out", path)
    if path.exists() and not path.is_file():
        raise UsageError(f"out {path} is there already and is no file", option="out")
    if not path.parent.is_dir():
        raise UsageError(f"out {path}: {path.parent} is not a directory", option="out")
    if path.suffix == ".safetensors":
        try:
            content = tensors_as_bytes(tensors)
        except ValueError as error:
            raise UsageError(f"out {path} must end in .pt: {error}", option="out") from None
        write_bytes(path, content)
    else:
        write_atomically(path, lambda sink: save_archive(dict(tensors), sink))


def tensors_as_bytes(tensors: Mapping[str, Any]) -> bytes:
    """Return the content of a safetensors file; raises ValueError for what it cannot hold, such as sparse tensors."""
    try:
        return tensors_to_bytes(_unshared(tensors))
    except (SafetensorError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _unshared(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies: safetensors refuses tensors that share storage, as tied weights do."""
    return {name: value.detach().clone().contiguous() for name, value in tensors.items() if isinstance(value, Tensor)}
