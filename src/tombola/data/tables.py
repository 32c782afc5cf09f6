"""Named columns: files of .csv, .tsv, .jsonl, .parquet and .npz, and folders that Hugging Face's datasets saved."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tombola.data import saved
from tombola.data.saved import find_saved
from tombola.errors import UsageError, did_you_mean, in_words, shown

_FILL = "value in row {}; fill the gaps first"
# What is written where a number is missing.
_GAPS = {"", "-", "?", "n/a", "na", "nan", "none", "null"}

if TYPE_CHECKING:
    import pandas as pd

TEXT_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
ENDINGS = (*TEXT_ENDINGS, ".npz")
# What columns of targets are called that need not be named.
USUAL_TARGETS = ("target", "targets", "label", "labels", "y")
# Columns by name, all of one length along their first axis; texts as objects, of files of text everything is one.
Columns = Mapping[str, np.ndarray]


def find_table(folder: Path, part: str, endings: Sequence[str] = ENDINGS) -> Path:
    """Return the file of a part, train or test, or the folder in which Hugging Face's datasets saved it.

    Raises UsageError where there is none, or more than one.
    """
    found = [path for ending in endings if (path := folder / f"{part}{ending}").is_file()]
    kept = find_saved(folder, part)
    found += [] if kept is None else [kept]
    if not found:
        names = ", ".join(f"{part}{ending}" for ending in endings)
        words = f"{shown(folder)} holds none of {names}, and no {part} that datasets saved"
        raise UsageError(words, option="data_dir")
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UsageError(f"{shown(folder)} holds {names}, of which one must go", option="data_dir")
    return found[0]


def read_columns(path: Path) -> Columns:
    """Return the columns of a file; raises UsageError naming what is wrong with it."""
    try:
        columns = _read(path)
    except UsageError:
        raise
    except Exception as error:  # of a damaged file the libraries may raise anything
        raise UsageError(f"{shown(path)} cannot be read ({in_words(error)})", option="data_dir") from error
    lengths = {len(values) if values.ndim else 0 for values in columns.values()}
    if lengths in (set(), {0}):
        raise UsageError(f"{shown(path)} holds no rows", option="data_dir")
    if len(lengths) > 1:
        sizes = ", ".join(f"{name} {len(v) if v.ndim else 0}" for name, v in columns.items())
        raise UsageError(f"{shown(path)}: its arrays must have one row a sample, got {sizes}", option="data_dir")
    return columns


def _read(path: Path) -> Columns:
    if path.is_dir():
        return {name: _in_rows(values) for name, values in saved.columns(path).items()}
    return _arrays(path) if path.suffix == ".npz" else _of_frame(_frame(path))


def _frame(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    # In files with tabs quotes are part of texts.
    kind: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    # Texts such as "NA" and "null" are texts.
    frame: pd.DataFrame = pd.read_csv(path, dtype=str, keep_default_na=False, **kind)
    # pandas takes the first field for rows' names, which R writes without a header, and all others one to the left.
    named, last = not isinstance(frame.index, pd.RangeIndex), frame.iloc[:, -1]
    if named and (not frame.index.is_unique or (last == "").any() or last.isna().any()):
        words = "its rows have more fields than the header names, as a comma or tab at their end makes them"
        raise UsageError(f"{shown(path)}: {words}", option="data_dir")
    return frame


def _of_frame(frame: "pd.DataFrame") -> Columns:
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise UsageError(f"two columns are called {repeated[0]}; each needs a name of its own", option="data_dir")
    return {str(name): _in_rows(frame[name].to_numpy()) for name in frame.columns}


def _in_rows(values: np.ndarray) -> np.ndarray:
    """Return lists of as many numbers in each row as an array (N, k), all else as it is."""
    if values.dtype != object or not all(_is_list(value) for value in values):
        return values
    try:
        found = np.stack([np.asarray(value) for value in values])
    except ValueError:  # of other lengths, which is said where the column is used
        return values
    return found if found.ndim == 2 and found.shape[1] and found.dtype.kind in "biuf" else values


def _arrays(path: Path) -> Columns:
    with np.load(path, allow_pickle=False) as file:
        return {name: _decoded(file[name]) for name in file.files}


def _decoded(values: np.ndarray) -> np.ndarray:
    """Return texts kept as bytes as texts, all else as it is."""
    if values.dtype.kind != "S":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:  # pictures, say, which is said where the column is used
        return values


def chosen(columns: Columns, names: Sequence[str], option: str, path: Path) -> None:
    """Raise UsageError naming the option where a file has no such column."""
    for name in names:
        if name not in columns:
            hint = did_you_mean(name, columns)
            raise UsageError(f"{shown(path)} has no column {name}, but {', '.join(columns)}{hint}", option=option)


def numbers_of(values: np.ndarray) -> np.ndarray | None:
    """Return a column as float64, None where it does not hold numbers alone; a missing one is NaN in none of them.

    Times are in ns, whatever unit a file keeps them in.
    """
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.ndim > 1 or values.dtype.kind == "c":
        return None
    found = _parsed(values)
    return None if np.isnan(found).any() else found


def holds_numbers(values: np.ndarray) -> bool:
    """Whether a column holds numbers alone, but for words such as NaN that stand for gaps among them."""
    if values.dtype.kind in "biuf":
        return True
    others = values[~_gaps(values)]
    return len(others) > 0 and numbers_of(others) is not None


def _parsed(values: np.ndarray) -> np.ndarray:
    """Return texts, times or objects (N,) as float64, NaN where one is no number."""
    import pandas as pd

    series = pd.Series(values)
    found: np.ndarray = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if series.dtype.kind in "mM":
        # As floats: the year 9999 has more ns than an int64 holds.
        found = found * (np.timedelta64(1, series.dt.unit) / np.timedelta64(1, "ns"))
    return found


def check_whole(values: np.ndarray, name: str, path: Path, rows: np.ndarray | None = None) -> None:
    """Raise UsageError naming the first row in which a column has no value, or an infinite number.

    rows: which ones of the file the values are of; None: all. Of lists, only those that were made an array are whole,
    and of bytes none that are no UTF-8.
    """
    if values.dtype.kind == "S":
        raise UsageError(
            f"{shown(path)}: column {name} holds bytes that are no UTF-8; make them texts, or leave it out (inputs)",
            option="data_dir",
        )
    if values.dtype == object and any(_is_list(value) for value in values):
        raise UsageError(
            f"{shown(path)}: column {name} holds lists, but not of as many numbers in each row; leave it out (inputs)",
            option="data_dir",
        )
    _refuse(_missing(values), _FILL, name, path, rows)
    _refuse(_infinite(values), "finite number in row {}; put one there first", name, path, rows)


def check_numbers(values: np.ndarray, name: str, path: Path, rows: np.ndarray | None = None) -> None:
    """Raise UsageError naming the first row that has a word for a gap, or another text, in a column of numbers.

    rows: which ones of the file the values are of; None: all. Several values a row are not looked at.
    """
    if values.dtype.kind not in "biufc" and values.ndim == 1:
        _refuse(_gaps(values), f"{_FILL} (a class needs another word for its name)", name, path, rows)
        what = "number in row {}, as training rows have; put one there first"
        _refuse(np.isnan(_parsed(values)), what, name, path, rows)


def _refuse(found: np.ndarray, what: str, name: str, path: Path, rows: np.ndarray | None) -> None:
    wrong = np.flatnonzero(found.reshape(len(found), -1).any(axis=1))
    if len(wrong):
        row = wrong[0] if rows is None else rows[wrong[0]]
        raise UsageError(
            f"{shown(path)}: column {name} has no {what.format(row + 1)}, or leave the column out (inputs)",
            option="data_dir",
        )


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf" and values.ndim == 1:
        import pandas as pd

        # pd.NA, which is neither true nor false where it is compared, goes first.
        return np.array([value is pd.NA or _is_missing(value) for value in values])
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _gaps(values: np.ndarray) -> np.ndarray:
    """Return which texts stand for a gap where all others are numbers: elsewhere such words are texts as any."""
    return np.array([isinstance(value, str) and value.strip().casefold() in _GAPS for value in values], bool)


def _infinite(values: np.ndarray) -> np.ndarray:
    numbers = values if values.dtype.kind in "biuf" else numbers_of(values)
    return np.zeros(len(values), bool) if numbers is None else np.isinf(numbers)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN


def _is_list(value: Any) -> bool:
    return isinstance(value, list | np.ndarray)
