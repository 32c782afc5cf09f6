"""Images in class folders."""

from dataclasses import dataclass
from typing import ClassVar

from tombola.data.folder import load_part
from tombola.data.sources.base import Source, data_dir_option, existing
from tombola.data.splits import Raw
from tombola.errors import UsageError


@dataclass(frozen=True)
class Folder(Source):
    """Images in class folders: `train` and `test` in data_dir, each a folder or a tar file."""

    name: ClassVar[str] = "folder"

    data_dir: str | None = data_dir_option(
        "needed: it holds train and test, each a folder or a tar file of class folders"
    )

    def read(self, image_size: int | None) -> Raw:
        """Return the images; raises UsageError naming what is at fault."""
        root = existing(self.data_dir, self.name)
        train, labels, classes = load_part(root, "train", image_size)
        test, test_labels, test_classes = load_part(root, "test", image_size)
        if classes != test_classes:
            differing = ", ".join(sorted(set(classes) ^ set(test_classes)))
            raise UsageError(f"train and test differ in the classes {differing}", option="data_dir")
        if train.shape[1:] != test.shape[1:]:
            shapes = f"images of train are {list(train.shape[1:])}, of test {list(test.shape[1:])}"
            raise UsageError(shapes, option="data_dir")
        return Raw((train, labels), (test, test_labels))


@dataclass(frozen=True)
class FolderAt(Source):
    """The same, written as the folder's path."""

    name: str = ""  # type: ignore[misc]

    def read(self, image_size: int | None) -> Raw:
        """Return the images; raises UsageError naming what is at fault."""
        return Folder(self.name).read(image_size)
