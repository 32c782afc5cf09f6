"""Where images come from: every source is a part, a frozen dataclass whose fields are its options."""

import os
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tombola.data.folder import find_part
from tombola.data.sources.base import Source
from tombola.data.sources.cifar import Cifar10, Cifar100
from tombola.data.sources.digits import Digits
from tombola.data.sources.folder import Folder
from tombola.data.sources.mnist import FashionMnist, Mnist
from tombola.data.sources.own import Own
from tombola.data.splits import Normalisation, Splits, split
from tombola.errors import UsageError, shown

DATASETS: dict[str, type[Source]] = {
    kind.name: kind for kind in (Digits, Mnist, FashionMnist, Cifar10, Cifar100, Folder)
}
# Why an option is none of a source's.
_REFUSALS = {
    "data_dir": "{} come with scikit-learn and take no folder",
    "download": "there is nothing to fetch for {}",
}


def make_source(name: str, data_dir: Path | None = None, download: bool = False) -> Source | Own:
    """Return the source that a name means: one in DATASETS, the path of a folder with train and test, MODULE:FUNCTION.

    Raises UsageError where it means none, and for an option that the source does not have.
    """
    kind: type[Source | Own]
    given: dict[str, Any] = {"data_dir": None if data_dir is None else str(data_dir), "download": download}
    if name in DATASETS:
        kind = DATASETS[name]
    elif _is_folder(name):
        if data_dir is not None:
            raise UsageError(f"data {shown(name)} is a folder already; give one of them", option="data_dir")
        kind, given["data_dir"] = Folder, name
    elif ":" in name:
        kind, given["function"] = Own, name
    else:
        raise UsageError(_unknown(name), option="data")
    owned = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for option, value in given.items():
        if value and option not in owned:
            raise UsageError(_REFUSALS[option].format(shown(name)), option=option)
    return kind(**{option: value for option, value in given.items() if option in owned})


def _is_folder(name: str) -> bool:
    return name != "" and all(find_part(Path(name), part) is not None for part in ("train", "test"))


def _unknown(name: str) -> str:
    near = get_close_matches(name.lower(), DATASETS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if os.path.isdir(name):
        hint = f"; the folder {shown(name)} does not hold train and test"
    allowed = f"{', '.join(DATASETS)}, a folder with train and test, or MODULE:FUNCTION"
    return f"data '{shown(name)}' is unknown; allowed are {allowed}{hint}"


def load(
    name: str,
    data_dir: Path | None = None,
    held_out: float = 0.1,
    download: bool = False,
    normalisation: Normalisation | None = None,
    image_size: int | None = None,
) -> Splits:
    """Return a dataset by name, its training data split by classes into training and a `held_out` share.

    name: see `make_source`. held_out: in [0, 1). normalisation: of images; by default by mean and standard deviation
    of the training data. image_size: images are resized to so many pixels in height and width.
    """
    normalisation = normalisation or Normalisation()
    source = make_source(name, data_dir, download)
    if not isinstance(source, Own):
        return split(source.read(image_size), held_out, normalisation)
    for option, given in (("mean", normalisation.mean), ("std", normalisation.std)):
        if given:
            raise UsageError("is for the datasets with a name; one's own datasets normalise themselves", option=option)
    if image_size is not None:
        raise UsageError("is for the datasets with a name; one's own datasets resize themselves", option="image_size")
    return source.splits(held_out)
