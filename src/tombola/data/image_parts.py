"""The images of a data set that stay in their files, and their classes, however they lie there."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tombola.data import saved
from tombola.data.encoding import named_columns
from tombola.data.folder import classes_of, is_image, listed
from tombola.data.shards import find_shards, read_shards
from tombola.data.stored import InFiles, InTable, Stored
from tombola.data.tables import USUAL_TARGETS, check_whole, chosen
from tombola.errors import UsageError, shown

# What the folder of test images is called; ImageNet's labelled one is val.
TEST_NAMES = ("test", "val", "validation")


class _Part(NamedTuple):
    """Images, and what the class of each is called."""

    images: Stored
    classes: list[str]


def labelled(root: Path, targets: Sequence[str]) -> tuple[list[tuple[Stored, Tensor]], int]:
    """Return the images of train and test with the numbers of their classes, (N,) int64, and how many there are.

    targets: the column, or the ending or field in shards, that says the class; the usual one where it is empty. Raises
    UsageError where there is no such part, and naming what in it is at fault.
    """
    if len(targets) > 1:
        raise UsageError(f"must name one column, for a class a sample, got {', '.join(targets)}", option="targets")
    target = targets[0] if targets else None
    found = _in_shards(root, target) or _in_tables(root, targets)
    if found is None:
        if target is not None:
            raise UsageError("is for shards and columns; class folders say their classes", option="targets")
        found = _in_folders(root)
        names = sorted(set(found[0].classes))
    else:
        names = _ordered(found[0].classes)
    number = {name: at for at, name in enumerate(names)}
    strange = next((name for name in found[1].classes if name not in number), None)
    if strange is not None:
        raise UsageError(f"test has the class {shown(strange)}, which train has not", option="data_dir")
    return [(images, torch.tensor([number[name] for name in classes])) for images, classes in found], len(names)


def _ordered(classes: Sequence[str]) -> list[str]:
    """Return the classes in order: as numbers where all of them are, else by name."""
    names = set(classes)
    return sorted(names, key=int) if all(name.lstrip("-").isdecimal() for name in names) else sorted(names)


def _in_shards(root: Path, target: str | None) -> tuple[_Part, _Part] | None:
    train, test = find_shards(root, ("train",)), find_shards(root, TEST_NAMES)
    if not train:
        return None
    if not test:
        names = ", ".join(f"{name}-*.tar" for name in TEST_NAMES)
        raise UsageError(f"{shown(root)} holds shards of train, and none of {names}", option="data_dir")
    target = target.removeprefix(".") if target else None
    return _Part(*read_shards(train, target)), _Part(*read_shards(test, target))


def _in_tables(root: Path, targets: Sequence[str]) -> tuple[_Part, _Part] | None:
    train, test = (saved.find_saved(root, part) for part in ("train", "test"))
    if train is None and not saved.is_saved(root):
        return None
    if train is None or test is None:
        raise UsageError(f"{shown(root)} must hold train and test (or validation), as a DatasetDict", option="data_dir")
    found = _in_table(train, targets), _in_table(test, targets)
    if set(found[0].classes) != {"-1", "1"}:  # of which it is one
        for folder, part in zip((train, test), found, strict=True):
            _check_labelled(folder, part.classes)
    return found


def _in_table(folder: Path, targets: Sequence[str]) -> _Part:
    column, columns = saved.images_in(folder), saved.columns(folder)
    (target,) = named_columns(columns, targets, USUAL_TARGETS, folder)
    chosen(columns, [target], "targets", folder)
    check_whole(columns[target], target, folder)
    images = InTable(folder, column, torch.arange(len(columns[target]), device="cpu"))
    return _Part(images, [str(value) for value in columns[target].tolist()])


def _check_labelled(folder: Path, classes: Sequence[str]) -> None:
    """Raise UsageError naming the first row with -1, with which datasets marks what has no label."""
    if "-1" in classes:
        row = classes.index("-1") + 1
        raise UsageError(f"{shown(folder)}: row {row} has no label (-1); leave out such rows", option="data_dir")


def _in_folders(root: Path) -> tuple[_Part, _Part]:
    train, test = _in_folder(root / "train"), _in_folder(_test_folder(root))
    differing = set(train.classes) ^ set(test.classes)
    if differing:
        raise UsageError(f"train and test differ in the classes {', '.join(sorted(differing))}", option="data_dir")
    return train, test


def _in_folder(folder: Path) -> _Part:
    if not folder.is_dir():
        raise UsageError(f"there is no folder {shown(folder)}", option="data_dir")
    paths = [path for path in listed(folder)[1] if is_image(path.name)]
    names = [path.relative_to(folder).as_posix() for path in paths]
    if not names:
        raise UsageError(f"{shown(folder)} holds no images in class folders", option="data_dir")
    of = classes_of(folder, names)
    return _Part(InFiles(folder, tuple(names)), [of[name] for name in names])


def _test_folder(root: Path) -> Path:
    """Return the folder of test images: the first that has class folders, which ImageNet's own test has not."""
    found = [root / name for name in TEST_NAMES if (root / name).is_dir()]
    return next((each for each in found if any(entry.is_dir() for entry in each.iterdir())), root / TEST_NAMES[0])
