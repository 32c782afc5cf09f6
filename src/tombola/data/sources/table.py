"""Tables with named columns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tombola.core.parts import option
from tombola.data.arrays import Arrays
from tombola.data.encoding import Part, check_arrays, encode_inputs, encode_targets, named_columns
from tombola.data.resizing import resize
from tombola.data.rows import Rows
from tombola.data.saved import find_saved, is_saved
from tombola.data.sources.base import Source, data_dir_option, existing
from tombola.data.splits import SPLIT_SEED, Split, Splits, Wanted, held_out_rows
from tombola.data.tables import ENDINGS, USUAL_TARGETS, chosen, find_table, read_columns
from tombola.data.targets import Targets
from tombola.errors import UsageError, shown

# Of a table in one file, the share that is test data.
TEST_SHARE = 0.2


def targets_option() -> Any:
    """Declare the columns that are to be foretold."""
    return option(
        (),
        "columns to foretell, of data with named columns",
        flag="targets",
        unset="the one called target, label or y",
        group="data",
        named=False,
    )


@dataclass(frozen=True)
class Table(Source):
    """A table: train and test as .csv, .tsv, .jsonl, .parquet or .npz, or one such file, a fifth of which is test data.

    Or a folder that Hugging Face's datasets saved, in parts or as one.
    Numbers are standardised, texts told apart by a 0 or 1 for each. Arrays of an .npz are columns too; one of images,
    (samples, channels, height, width) uint8, is normalised as images are.
    """

    name: ClassVar[str] = "table"

    data_dir: str | None = data_dir_option("needed: a table file, or a folder with train and test")
    targets: tuple[str, ...] = targets_option()
    inputs: tuple[str, ...] = option(
        (), "columns to foretell from", flag="inputs", unset="all but the targets", group="data", named=False
    )

    def splits(self, wanted: Wanted) -> Splits:
        """Return the splits; raises UsageError naming what of the files or options is at fault."""
        train, test = self._parts()
        targets = named_columns(train.columns, self.targets, USUAL_TARGETS, train.path)
        inputs = list(self.inputs) or [name for name in train.columns if name not in targets]
        if not inputs or set(inputs) & set(targets):
            raise UsageError("must name a column that is no target", option="inputs")
        for part in (train, test):
            chosen(part.columns, targets, "targets", part.path)
            chosen(part.columns, inputs, "inputs", part.path)
        rows, held = _held_out(train, targets, wanted)
        parts = [train.taken(rows), *([] if held is None else [train.taken(held)]), test]
        found, outputs = encode_targets(parts[0], parts[1:], targets, wanted.targets, wanted.ignored)
        made = _samples(parts, inputs, found, wanted)
        return Splits(made[0], None if held is None else made[1], made[-1], outputs)

    def _parts(self) -> tuple[Part, Part]:
        place = existing(self.data_dir, self.name)
        if place.is_dir() and not (is_saved(place) and find_saved(place, "train") is None):
            train, test = (find_table(place, part) for part in ("train", "test"))
            return Part(train, read_columns(train)), Part(test, read_columns(test))
        if not is_saved(place) and (not place.is_file() or place.suffix not in ENDINGS):
            raise UsageError(
                f"must be a folder with train and test, or a file ending in {', '.join(ENDINGS)}, got {shown(place)}",
                option="data_dir",
            )
        whole = Part(place, read_columns(place))
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(SPLIT_SEED), device="cpu")
        count = round(TEST_SHARE * len(whole))
        if not 0 < count < len(whole):
            raise UsageError(f"{shown(place)} has {len(whole)} rows, too few for test data", option="data_dir")
        return whole.taken(order[count:].sort().values), whole.taken(order[:count].sort().values)


def _held_out(train: Part, targets: list[str], wanted: Wanted) -> tuple[Tensor, Tensor | None]:
    """Return the rows to train on, and those that are held out."""
    classes = None
    if wanted.held_out and wanted.targets.are_classes:
        (classes,), _ = encode_targets(train, [], targets, wanted.targets)
    return held_out_rows(len(train), wanted.held_out, classes, shown(train.path))


def _samples(parts: list[Part], inputs: list[str], targets: list[Tensor], wanted: Wanted) -> list[Split]:
    first = parts[0].columns[inputs[0]]
    if len(inputs) == 1 and first.ndim == 4 and first.dtype == np.uint8:
        check_arrays(parts[0], parts[1:], inputs, resized=wanted.image_size is not None)
        images = [torch.from_numpy(part.columns[inputs[0]]) for part in parts]
        if wanted.image_size is not None:
            if wanted.targets is Targets.PIXELS:
                raise UsageError("cannot be changed where there is a target for each pixel", option="image_size")
            images = [resize(each, wanted.image_size) for each in images]
        mean, std = wanted.normalisation.settle(images[0], 255.0)
        return [Arrays(each, target, mean, std) for each, target in zip(images, targets, strict=True)]
    wanted.refuse_image_options("is for images; this table has none")
    return [
        Rows(values, target) for values, target in zip(encode_inputs(parts[0], parts[1:], inputs), targets, strict=True)
    ]


def is_table(name: str) -> bool:
    """Whether a name is the path of a table file."""
    return Path(name).suffix in ENDINGS and Path(name).is_file()
