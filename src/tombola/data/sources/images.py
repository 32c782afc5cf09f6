"""Images in class folders that need not fit in memory."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from tombola.core.parts import NATURAL, option, written_name
from tombola.data.folder import classes_of, is_image
from tombola.data.photographs import Photographs
from tombola.data.sources.base import Source, data_dir_option, needed
from tombola.data.splits import Splits, Wanted, stratified
from tombola.data.targets import outputs_for
from tombola.data.tree import tree
from tombola.errors import UsageError, shown

# What the folder of test images is called; ImageNet's labelled one is val.
TEST_NAMES = ("test", "val")
MOST_WORKERS = 8


def usual_workers() -> int:
    """Return as many processes as there are cores beside the one that trains, at most eight."""
    return min(MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) - 1))


@dataclass(frozen=True)
class Images(Source):
    """Images of any size in class folders, `train` and `test` (or `val`, as ImageNet has it) in data_dir.

    They stay in their files: worker processes decode them batch by batch. What fits in memory at its size trains faster
    by `folder`.
    """

    name: ClassVar[str] = "images"

    data_dir: str | None = data_dir_option("needed: it holds train and test (or val), folders of class folders")
    workers: int | None = option(
        None,
        "processes that decode images; 0: the one that trains",
        must=NATURAL,
        flag="workers",
        unset="the cores but one, at most 8",
        group="data",
        named=False,
    )

    def splits(self, wanted: Wanted) -> Splits:
        """Return the splits; raises UsageError naming what of the folders or options is at fault."""
        root = needed(self.data_dir, self.name)
        if wanted.image_size is None:
            raise UsageError("must say how many pixels of images are shown, such as 224", option="image_size")
        cores = len(os.sched_getaffinity(0))
        if self.workers is not None and self.workers > cores:
            raise UsageError(f"must be at most {cores}, the cores that are there, got {self.workers}", option="workers")
        train, classes = self._part(root / "train", wanted.image_size)
        test, test_classes = self._part(_test_folder(root), wanted.image_size)
        if classes != test_classes:
            differing = ", ".join(sorted(set(classes) ^ set(test_classes)))
            raise UsageError(f"train and test differ in the classes {differing}", option="data_dir")
        rows, held = (torch.arange(len(train)), None)
        if wanted.held_out:
            rows, held = stratified(train.targets, wanted.held_out)
        for name, given in (("mean", wanted.normalisation.mean), ("std", wanted.normalisation.std)):
            if given and len(given) != 3:
                raise UsageError(f"must have one number for each of 3 channels, got {given}", option=name)
        seen = train.take(rows).normalised(wanted.normalisation)
        return Splits(
            seen,
            None if held is None else replace(train.take(held), mean=seen.mean, std=seen.std),
            replace(test, mean=seen.mean, std=seen.std),
            outputs_for(wanted.targets, len(classes), written_name(self)),
        )

    def _part(self, folder: Path, size: int) -> tuple[Photographs, list[str]]:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {shown(folder)}", option="data_dir")
        paths = [path for path in tree(folder, is_image)[1] if is_image(path.name)]
        names = [path.relative_to(folder).as_posix() for path in paths]
        if not names:
            raise UsageError(f"{shown(folder)} holds no images in class folders", option="data_dir")
        of = classes_of(folder, names)
        classes = sorted(set(of.values()))
        number = {name: at for at, name in enumerate(classes)}
        targets = torch.tensor([number[of[name]] for name in names])
        workers = usual_workers() if self.workers is None else self.workers
        return Photographs(folder, tuple(names), targets, size, (), (), workers), classes


def _test_folder(root: Path) -> Path:
    """Return the folder of test images: the first that has class folders, which ImageNet's own test has not."""
    found = [root / name for name in TEST_NAMES if (root / name).is_dir()]
    return next((each for each in found if any(entry.is_dir() for entry in each.iterdir())), root / TEST_NAMES[0])
