"""Columns made tensors: numbers standardised, texts told apart, targets as a task needs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tombola.data.tables import Columns, check_numbers, check_whole, holds_numbers, numbers_of
from tombola.data.targets import IGNORED_PIXEL, Targets
from tombola.errors import UsageError, shown

# A column with more different texts than this is hardly one of categories.
MOST_CATEGORIES = 100
# From here on float64 does not hold every whole number, so that two classes could be one.
_NOT_TOLD_APART = 2**53


@dataclass(frozen=True)
class Part:
    """The columns of one part of the data, and the file that they come from; rows: which of its rows, None for all."""

    path: Path
    columns: Columns
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def taken(self, rows: Tensor) -> "Part":
        """Return some of the rows."""
        chosen = rows.numpy()
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Part(self.path, columns, chosen if self.rows is None else self.rows[chosen])

    def check_whole(self, name: str) -> None:
        """Raise UsageError naming the first row of the file in which a column has no value, or an infinite number."""
        check_whole(self.columns[name], name, self.path, self.rows)

    def check_numbers(self, name: str) -> None:
        """Raise UsageError naming the first row of the file that has no number in a column of numbers."""
        check_numbers(self.columns[name], name, self.path, self.rows)


def encode_inputs(train: Part, others: Sequence[Part], names: Sequence[str]) -> list[Tensor]:
    """Return inputs (N, D) float32 of training data and of other parts: numbers, then a 0 or 1 for each known text.

    Numbers are standardised by the training data's mean and deviation; a text that training data do not have is 0 in
    all its places. One array of more axes than two stands alone, as it is. Raises UsageError naming a column.
    """
    parts = [train, *others]
    for part in parts:
        for name in names:
            _check_kind(part, name)
            part.check_whole(name)
    _check_numbers(parts, names)
    if any(part.columns[name].ndim > 2 for part in parts for name in names):
        check_arrays(train, others, names)
        return [_alone(part, names) for part in parts]
    kinds = {name: numbers_of(train.columns[name]) is not None for name in names}
    pieces = [_numbers(parts, [name for name in names if kinds[name]])]
    pieces += [_categories(parts, name) for name in names if not kinds[name]]
    return [
        torch.from_numpy(np.concatenate([piece[at] for piece in pieces], axis=1).astype(np.float32))
        for at in range(len(parts))
    ]


def _check_numbers(parts: Sequence[Part], names: Sequence[str]) -> None:
    """Raise UsageError naming the first row without a number in a column that holds numbers in the first part."""
    for name in names:
        if holds_numbers(parts[0].columns[name]):
            for part in parts:
                part.check_numbers(name)


def _check_kind(part: Part, name: str) -> None:
    values = part.columns[name]
    is_complex = values.dtype.kind == "c"
    if is_complex or (values.ndim > 1 and values.dtype.kind not in "biuf"):
        what = "complex numbers" if is_complex else "several values a row that are no numbers"
        raise UsageError(
            f"{shown(part.path)}: column {name} holds {what}; allowed are real numbers, or one text a row",
            option="inputs",
        )


def check_arrays(train: Part, others: Sequence[Part], names: Sequence[str], resized: bool = False) -> None:
    """Raise UsageError unless arrays are of one type and shape in all parts, (N, ...).

    Bytes and fractions, say, are hardly the same images; fractions of 32 and 64 bits are, and so are whole numbers with
    a sign. resized: the arrays (N, C, H, W) will be, and may have any height and width.
    """
    for name in names:
        first = train.columns[name]
        for part in others:
            values = part.columns[name]
            same_type = values.dtype == first.dtype or values.dtype.kind == first.dtype.kind in "if"
            places = slice(1, 2) if resized else slice(1, None)
            if not same_type or values.ndim != first.ndim or values.shape[places] != first.shape[places]:
                here, there = (f"{each.dtype} {list(each.shape[1:])}" for each in (values, first))
                what = f"column {name} is {here} a row, and {there} in train"
                raise UsageError(f"{shown(part.path)}: {what}", option="data_dir")


def _alone(part: Part, names: Sequence[str]) -> Tensor:
    if len(names) > 1:
        raise UsageError(
            f"must name one array where it has more than two axes, got {', '.join(names)}", option="inputs"
        )
    return torch.from_numpy(part.columns[names[0]].astype(np.float32))


def _numbers(parts: Sequence[Part], names: Sequence[str]) -> list[np.ndarray]:
    from sklearn.preprocessing import StandardScaler

    if not names:
        return [np.zeros((len(part), 0)) for part in parts]
    found = [_side_by_side(part, names, "inputs") for part in parts]
    _check_widths(parts, names, found)
    scaler = StandardScaler().fit(found[0])
    return [scaler.transform(values) for values in found]


def _check_widths(parts: Sequence[Part], names: Sequence[str], found: Sequence[np.ndarray]) -> None:
    width = found[0].shape[1]
    for part, values in zip(parts, found, strict=True):
        if values.shape[1] != width:
            what = f"{', '.join(names)}: {values.shape[1]} numbers a row here, and {width} in train"
            raise UsageError(f"{shown(part.path)}: {what}", option="data_dir")


def _categories(parts: Sequence[Part], name: str) -> list[np.ndarray]:
    from sklearn.preprocessing import OneHotEncoder

    texts = [part.columns[name].astype(str).reshape(-1, 1) for part in parts]
    known = len(np.unique(texts[0]))
    if known > MOST_CATEGORIES:
        raise UsageError(
            f"{shown(parts[0].path)}: column {name} holds {known} different texts; at most {MOST_CATEGORIES} are told "
            "apart, so name the columns without it",
            option="inputs",
        )
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(texts[0])
    return [encoder.transform(values) for values in texts]


def encode_targets(
    train: Part, others: Sequence[Part], names: Sequence[str], wanted: Targets, ignored: int = IGNORED_PIXEL
) -> tuple[list[Tensor], int]:
    """Return the targets of training data and of other parts, and how many outputs a sample needs.

    Classes are numbered in the order of their names; numbers are standardised by the training data's mean and
    deviation, column by column. ignored: the label of pixels that do not count. Raises UsageError naming a column that
    does not hold what is wanted.
    """
    parts = [train, *others]
    for part in parts:
        for name in names:
            part.check_whole(name)
    if wanted is Targets.PIXELS:
        return _pixels(parts, _only(names, wanted), ignored)
    _check_numbers(parts, names)
    if wanted.are_classes:
        return _classes(parts, _only(names, wanted), wanted)
    found = [_side_by_side(part, names, "targets") for part in parts]
    _check_widths(parts, names, found)
    if wanted is Targets.LABELS:
        for part, values in zip(parts, found, strict=True):
            if not np.isin(values, (0.0, 1.0)).all():
                strange = values[~np.isin(values, (0.0, 1.0))][0]
                raise UsageError(f"{shown(part.path)} has the label {strange:g}, where 0 or 1 is wanted", option="task")
    if wanted is Targets.NUMBERS:
        found = _standardised(found)
    return [torch.from_numpy(values.astype(np.float32)) for values in found], found[0].shape[1]


def _only(names: Sequence[str], wanted: Targets) -> str:
    if len(names) != 1:
        raise UsageError(f"must name one column, for {wanted}, got {', '.join(names)}", option="targets")
    return names[0]


def _classes(parts: Sequence[Part], name: str, wanted: Targets) -> tuple[list[Tensor], int]:
    column = parts[0].columns[name]
    numbers = numbers_of(column)
    if numbers is not None and (numbers.ndim > 1 or (numbers != np.round(numbers)).any()):
        raise UsageError(f"column {name} holds numbers, not classes; regression is for these", option="task")
    # Times are in ns, and classes hardly lie within some hundred of these; those with a zone are objects.
    are_times = column.dtype.kind in "mM" or isinstance(column.flat[0], datetime)
    if numbers is not None and not are_times and (np.abs(numbers) >= _NOT_TOLD_APART).any():
        raise UsageError(
            f"{shown(parts[0].path)}: column {name} has a class of 2**53 or more, where whole numbers are no longer "
            "told apart; allowed are smaller ones, or texts, such as these with a letter before them",
            option="targets",
        )
    if any(part.columns[name].ndim > 1 for part in parts):
        raise UsageError(f"column {name} holds several values a row, where one class is wanted", option="targets")
    values = [_class_names(part.columns[name], numbers is not None) for part in parts]
    classes = np.unique(values[0])
    if len(classes) < 2 or (wanted is Targets.TRUTHS and len(classes) != 2):
        least = "two classes" if wanted is Targets.TRUTHS else "two classes or more"
        raise UsageError(f"needs {least}, and column {name} holds {len(classes)}", option="task")
    found = []
    for part, own in zip(parts, values, strict=True):
        strange = own[~np.isin(own, classes)]
        if len(strange):
            what = f"column {name} has {strange[0]}, which is no class of train"
            raise UsageError(f"{shown(part.path)}: {what}", option="data_dir")
        found.append(torch.from_numpy(np.searchsorted(classes, own)).long())
    return found, 1 if wanted is Targets.TRUTHS else len(classes)


def _class_names(values: np.ndarray, are_numbers: bool) -> np.ndarray:
    numbers = numbers_of(values) if are_numbers else None
    return values.astype(str) if numbers is None else numbers


def _pixels(parts: Sequence[Part], name: str, ignored: int) -> tuple[list[Tensor], int]:
    """Return labels (N, H, W) of each part, which but for those to be ignored are classes of the training rows."""
    arrays = [part.columns[name] for part in parts]
    if any(values.ndim != 3 or values.dtype.kind not in "iu" for values in arrays):
        raise UsageError(f"needs an array {name} of whole numbers (samples, height, width)", option="task")
    found = [torch.from_numpy(values.astype(np.int64)) for values in arrays]
    counted = [labels[labels != ignored] for labels in found]
    if not counted[0].numel():
        what = f"column {name} has no pixel in the training rows but those to be ignored, {ignored}"
        raise UsageError(f"{shown(parts[0].path)}: {what}", option="data_dir")
    classes = int(counted[0].max()) + 1
    for part, labels in zip(parts, counted, strict=True):
        wrong = labels[(labels < 0) | (labels >= classes)]
        if wrong.numel():
            what = f"column {name} has the label {int(wrong[0])}; the classes of the training rows are 0 to"
            raise UsageError(f"{shown(part.path)}: {what} {classes - 1}", option="data_dir")
    return found, classes


def _side_by_side(part: Part, names: Sequence[str], option: str) -> np.ndarray:
    """Return columns of numbers as one array, (N, D) float64; raises UsageError naming the option for one of others."""
    columns = []
    for name in names:
        values = numbers_of(part.columns[name])
        if values is None:
            raise UsageError(f"{shown(part.path)}: column {name} does not hold numbers", option=option)
        columns.append(values.reshape(len(values), -1))
    return np.concatenate(columns, axis=1)


def _standardised(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values[0])
    return [scaler.transform(each) for each in values]


def named_columns(columns: Mapping[str, object], given: Sequence[str], usual: Sequence[str], path: Path) -> list[str]:
    """Return the columns that hold targets: those given, else the one with a usual name; raises UsageError for none."""
    if given:
        return list(given)
    found = [name for name in usual if name in columns][:1]
    if not found:
        raise UsageError(
            f"must name the columns to foretell, of those of {shown(path)}: {', '.join(map(str, columns))}",
            option="targets",
        )
    return found
