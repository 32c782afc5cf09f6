"""Images that need not fit in memory."""

import os
from dataclasses import dataclass, replace
from typing import ClassVar

from tombola.core.parts import NATURAL, option, written_name
from tombola.data.image_parts import labelled
from tombola.data.photographs import Photographs
from tombola.data.sources.base import Source, data_dir_option, existing
from tombola.data.sources.table import targets_option
from tombola.data.splits import Splits, Wanted, held_out_rows
from tombola.data.targets import outputs_for
from tombola.errors import UsageError

MOST_WORKERS = 8


def usual_workers() -> int:
    """Return as many processes as there are cores beside the one that trains, at most eight."""
    return min(MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) - 1))


@dataclass(frozen=True)
class Images(Source):
    """Images of any size, `train` and `test` (or `val`) in data_dir.

    Each is a folder of class folders, or shards of WebDataset (NAME/*.tar or NAME-0001.tar), or what Hugging Face's
    datasets saved. They stay in their files: worker processes decode them batch by batch. What fits in memory at its
    size trains faster by `folder`.
    """

    name: ClassVar[str] = "images"

    data_dir: str | None = data_dir_option("needed: it holds train and test (or val), folders or shards")
    targets: tuple[str, ...] = targets_option()
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
        root = existing(self.data_dir, self.name)
        if wanted.image_size is None:
            raise UsageError("must say how many pixels of images are shown, such as 224", option="image_size")
        cores = len(os.sched_getaffinity(0))
        if self.workers is not None and self.workers > cores:
            raise UsageError(f"must be at most {cores}, the cores that are there, got {self.workers}", option="workers")
        parts, classes = labelled(root, self.targets)
        workers = usual_workers() if self.workers is None else self.workers
        train, test = (Photographs(*part, wanted.image_size, (), (), workers) for part in parts)
        rows, held = held_out_rows(len(train), wanted.held_out, train.targets)
        wanted.normalisation.check(train.shape[0])
        seen = train.take(rows).normalised(wanted.normalisation)
        return Splits(
            seen,
            None if held is None else replace(train.take(held), mean=seen.mean, std=seen.std),
            replace(test, mean=seen.mean, std=seen.std),
            outputs_for(wanted.targets, classes, written_name(self)),
        )
