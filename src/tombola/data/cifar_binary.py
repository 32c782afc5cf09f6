"""CIFAR's official binary files: records of label bytes and 32x32 pixels in planes of red, green and blue."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tombola.data.packed import UNREADABLE, read_up_to, unpacked
from tombola.data.splits import Raw
from tombola.errors import UsageError, shown

_IMAGE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_ENDINGS = ("", ".xz", ".gz")
# Files of no more records are taken for samples, made by hand: such may have any number.
_SMALL = 1_000


@dataclass(frozen=True)
class FileFormat:
    """The binary files of a folder.

    train, test: how many records each file holds. classes: how many each of a record's label bytes tells apart; the
    last byte is the label.
    """

    folder: str
    train: Mapping[str, int]
    test: Mapping[str, int]
    classes: tuple[int, ...]


CIFAR10 = FileFormat(
    "cifar-10-batches-bin",
    {f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
    {"test_batch.bin": 10_000},
    (10,),
)
CIFAR100 = FileFormat("cifar-100-binary", {"train.bin": 50_000}, {"test.bin": 10_000}, (20, 100))


def find(file_format: FileFormat, root: Path) -> dict[str, Path] | None:
    """Return where each file lies, plain or compressed, in a folder or the official one within; None without any.

    Raises UsageError naming the first missing one of several.
    """
    for folder in (root, root / file_format.folder):
        paths = {name: _first(folder / name) for name in (*file_format.train, *file_format.test)}
        found = {name: path for name, path in paths.items() if path is not None}
        if len(found) == len(paths):
            return found
        if found:
            missing = next(name for name in paths if name not in found)
            endings = " or ".join(missing + ending for ending in _ENDINGS)
            raise UsageError(f"there is no {endings} in {shown(folder)}", option="data_dir")
    return None


def _first(path: Path) -> Path | None:
    candidates = (path.with_name(path.name + ending) for ending in _ENDINGS)
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def read(file_format: FileFormat, files: Mapping[str, Path]) -> Raw:
    """Return the images of all files; raises UsageError naming the one that does not hold what it should."""
    official = {**file_format.train, **file_format.test}
    records = {name: _records(files[name], most, len(file_format.classes)) for name, most in official.items()}
    if any(len(rows) > _SMALL for rows in records.values()):
        for name, rows in records.items():
            if len(rows) != official[name]:
                raise UsageError(f"{shown(files[name])} should hold {official[name]:,} records and holds {len(rows):,}")
    for name, rows in records.items():
        _check_labels(files[name], rows, file_format.classes)
    return Raw(
        _together([records[name] for name in file_format.train], file_format),
        _together([records[n] for n in file_format.test], file_format),
    )


def _records(path: Path, most: int, labels: int) -> np.ndarray:
    """Return a file's records (N, labels + 3072)."""
    length = labels + _PIXELS
    try:
        with unpacked(path) as file:
            content = read_up_to(file, most * length + 1)
    except UNREADABLE as error:
        raise UsageError(f"cannot read {shown(path)}: {error}") from error
    if len(content) > most * length:
        raise UsageError(f"{shown(path)} should hold {most:,} records of {length:,} bytes and holds more")
    if not content or len(content) % length:
        raise UsageError(f"{shown(path)} should hold records of {length:,} bytes and holds {len(content):,} bytes")
    return np.frombuffer(content, np.uint8).reshape(-1, length)


def _check_labels(path: Path, records: np.ndarray, classes: tuple[int, ...]) -> None:
    for column, count in enumerate(classes):
        wrong = np.flatnonzero(records[:, column] >= count)
        if len(wrong):
            label = records[wrong[0], column]
            raise UsageError(f"{shown(path)}: record {wrong[0]} has the label {label}; allowed are 0 to {count - 1}")


def _together(parts: list[np.ndarray], file_format: FileFormat) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 32, 32) and labels (N,)."""
    records = torch.from_numpy(np.concatenate(parts))
    labels = len(file_format.classes)
    return records[:, labels:].reshape(-1, *_IMAGE).contiguous(), records[:, labels - 1].long()
