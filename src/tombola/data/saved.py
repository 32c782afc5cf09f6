"""Data sets as Hugging Face's datasets saves them (save_to_disk): folders of Arrow files, read by pyarrow alone."""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tombola.errors import TombolaError, UsageError, in_words, shown
from tombola.storage.files import read_json_object

if TYPE_CHECKING:
    import pyarrow as pa

# What says that a folder is a data set, or one of several parts, and what the part to test on may be called.
_STATE, _PARTS = "state.json", "dataset_dict.json"
_NAMES = {"train": ("train",), "test": ("test", "validation", "val")}


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that datasets saved, whole or in parts."""
    # Of any path, also one that is too long for a file.
    return os.path.isfile(folder / _STATE) or os.path.isfile(folder / _PARTS)


def find_saved(folder: Path, part: str) -> Path | None:
    """Return the folder of a part, train or test, where datasets saved one; the first of test and validation."""
    return next((folder / name for name in _NAMES[part] if (folder / name / _STATE).is_file()), None)


def opened(folder: Path) -> "pa.Table":
    """Return a data set as a table, which is mapped into memory and read where it is looked at.

    Raises UsageError where pyarrow is missing, and naming a file that cannot be read.
    """
    try:
        return _opened(folder, (folder / _STATE).stat().st_mtime_ns)
    except OSError as error:
        raise UsageError(f"{shown(folder)} cannot be read ({in_words(error)})", option="data_dir") from error


@lru_cache(maxsize=8)
def _opened(folder: Path, written: int) -> "pa.Table":
    """Return the table, which is kept until the folder is written anew."""
    try:
        import pyarrow as pa
    except ImportError:
        raise UsageError(
            f"{shown(folder)} holds Arrow files, which need pyarrow: pip install 'tombola[parquet]'", option="data_dir"
        ) from None
    tables = []
    for path in _files(folder):
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{shown(path)} cannot be read ({in_words(error)})", option="data_dir") from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise UsageError(f"the files of {shown(folder)} differ ({in_words(error)})", option="data_dir") from error


def _files(folder: Path) -> Iterator[Path]:
    """Give the files of a data set, in order; raises UsageError where its state does not say them."""
    path = folder / _STATE
    try:
        state = read_json_object(path)
    except TombolaError as error:
        raise UsageError(str(error), option="data_dir") from None
    if state.get("_indices_data_files"):
        words = "was saved with rows chosen beside its files, by an old version of datasets; save it again"
        raise UsageError(f"{shown(folder)} {words}", option="data_dir")
    files = state.get("_data_files")
    names = [each.get("filename") if isinstance(each, dict) else None for each in files or ()]
    if not isinstance(files, list) or not names:
        raise UsageError(f"{shown(path)} names no data files", option="data_dir")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UsageError(f"{shown(path)} names {name!r}, which is no file in its folder", option="data_dir")
        yield folder / name


def columns(folder: Path) -> dict[str, np.ndarray]:
    """Return the columns of numbers, texts and lists of numbers; others are left out.

    Lists of a fixed length without gaps are an array (N, k), all others an object for each row.
    """
    table, found = opened(folder), {}

    import pyarrow as pa

    for field in table.schema:
        kind, values = field.type, table[field.name].combine_chunks()
        if pa.types.is_fixed_size_list(kind) and not values.null_count and pa.types.is_primitive(kind.value_type):
            numbers = values.flatten().to_numpy(zero_copy_only=False)
            found[field.name] = numbers.reshape(len(values), kind.list_size)
        elif _is_plain(kind) or _is_list(kind):
            found[field.name] = values.to_numpy(zero_copy_only=False)
    return found


def _is_plain(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_primitive(kind))


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def images_in(folder: Path) -> str:
    """Return the column that holds images; raises UsageError where there is none, or several."""
    kinds: dict[str, Any] = {field.name: field.type for field in opened(folder).schema}

    import pyarrow as pa

    found = [name for name, kind in kinds.items() if pa.types.is_struct(kind) and {"bytes", "path"} <= _fields(kind)]
    if len(found) != 1:
        what = f"{len(found)} columns of images ({', '.join(found)})" if found else "no column of images"
        raise UsageError(f"{shown(folder)} has {what}; its columns are {', '.join(kinds)}", option="data_dir")
    return found[0]


def _fields(kind: "pa.StructType") -> set[str]:
    return {kind.field(place).name for place in range(kind.num_fields)}


def sizes(folder: Path, column: str) -> Tensor:
    """Return how many bytes each image of a column has, (N,) int64; 0 of those that lie in files beside it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks: Sequence[Any] = opened(folder)[column].chunks
    lengths = [pc.fill_null(pc.binary_length(chunk.field("bytes")), 0).cast(pa.int64()) for chunk in chunks]
    return torch.cat([torch.from_numpy(each.to_numpy(zero_copy_only=False).copy()) for each in lengths])
