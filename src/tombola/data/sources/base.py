"""What sources have in common."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tombola.core.parts import Part, option, written_name
from tombola.data.splits import Raw, Splits, Wanted, split
from tombola.data.targets import outputs_for
from tombola.errors import UsageError, in_words, shown


@dataclass(frozen=True)
class Source(Part):
    """A dataset with a name; its fields are its options, on which its samples do not depend."""

    def read(self, image_size: int | None) -> Raw:
        """Return all images, where a size is given resized to so many pixels in height and width."""
        raise NotImplementedError

    def splits(self, wanted: Wanted) -> Splits:
        """Return training data, a share of every class of it held out, and test data.

        Raises UsageError for data that do not have the targets that are wanted.
        """
        found = split(self.read(wanted.image_size), wanted.held_out, wanted.normalisation)
        return replace(found, classes=outputs_for(wanted.targets, found.classes, written_name(self)))


def data_dir_option(unset: str = "none") -> Any:
    """Declare the folder with a dataset's files."""
    return option(None, "folder with the dataset's files", flag="data-dir", unset=unset, group="data", named=False)


def download_option() -> Any:
    """Declare that a dataset's files may be fetched."""
    words = "fetch the dataset's files into --data-dir if they are not there"
    return option(False, words, flag="download", group="data", named=False)


# What is to be done where files are missing that can be fetched.
OR_DOWNLOAD = "or have them fetched into the folder that you give, with --download"


def needed(data_dir: str | None, what: str, hint: str = "") -> Path:
    """Return the folder with the files of a dataset; raises UsageError where none was given."""
    if data_dir is None:
        raise UsageError(f"{what} needs the folder with its files{hint and ', '}{hint}", option="data_dir")
    return Path(data_dir)


def existing(data_dir: str | None, what: str) -> Path:
    """Return the same, or one file with all; raises UsageError where it was not given, or is not there."""
    place = needed(data_dir, what)
    if not place.exists():
        raise UsageError(f"there is no file or folder {shown(place)}", option="data_dir")
    return place


def fetched(what: str, data_dir: str | None) -> None:
    """Let torchvision fetch a dataset's files; raises UsageError where it cannot."""
    import torchvision.datasets

    folder = needed(data_dir, what)
    try:
        getattr(torchvision.datasets, what)(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        raise UsageError(f"{what} cannot be fetched ({in_words(error)})", option="download") from error
