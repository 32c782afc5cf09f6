"""What sources have in common."""

from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tombola.data.splits import Raw
from tombola.errors import UsageError, in_words


class Source(Protocol):
    """A dataset with a name: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    version: ClassVar[int]

    def read(self, image_size: int | None) -> Raw:
        """Return all images, where a size is given resized to so many pixels in height and width."""


def option(default: Any, help: str) -> Any:
    """Declare an option of a source."""
    return field(default=default, metadata={"help": help})


def data_dir_option() -> Any:
    """Declare the folder with a dataset's files."""
    return option(None, "folder with the dataset's files")


def download_option() -> Any:
    """Declare that a dataset's files may be fetched."""
    return option(False, "fetch the dataset's files into data_dir if they are not there")


def needed(data_dir: str | None, what: str) -> Path:
    """Return the folder with the files of a dataset; raises UsageError where none was given."""
    if data_dir is None:
        raise UsageError(f"{what} needs the folder with its files", option="data_dir")
    return Path(data_dir)


def fetched(what: str, data_dir: str | None) -> None:
    """Let torchvision fetch a dataset's files; raises UsageError where it cannot."""
    import torchvision.datasets

    folder = needed(data_dir, what)
    try:
        getattr(torchvision.datasets, what)(str(folder), download=True)
    except (RuntimeError, OSError) as error:
        raise UsageError(f"{what} cannot be fetched ({in_words(error)})", option="download") from error
