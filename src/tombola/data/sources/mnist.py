"""The MNIST family, in idx files."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from tombola.data.idx import find_idx, read_idx
from tombola.data.sources.base import OR_DOWNLOAD, Source, data_dir_option, download_option, fetched
from tombola.data.splits import Raw
from tombola.errors import UsageError, shown

# Where Debian's dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_CLASSES = 10


@dataclass(frozen=True)
class Mnist(Source):
    """MNIST: 60,000 and 10,000 grey images of 28x28."""

    name: ClassVar[str] = "mnist"

    data_dir: str | None = data_dir_option()
    download: bool = download_option()

    def read(self, image_size: int | None) -> Raw:
        """Return the images of the idx files; raises UsageError naming what is at fault."""
        return _read("MNIST", self.data_dir, self.download, None).resized(image_size)


@dataclass(frozen=True)
class FashionMnist(Source):
    """Fashion-MNIST: 60,000 and 10,000 grey images of 28x28, by default where Debian's package puts them."""

    name: ClassVar[str] = "fashion-mnist"

    data_dir: str | None = data_dir_option("where Debian's package puts them")
    download: bool = download_option()

    def read(self, image_size: int | None) -> Raw:
        """Return the images of the idx files; raises UsageError naming what is at fault."""
        return _read("FashionMNIST", self.data_dir, self.download, DEBIAN_FASHION_MNIST).resized(image_size)


def _read(what: str, data_dir: str | None, download: bool, default: Path | None) -> Raw:
    """Read a dataset of the family from its idx files, fetched where it may be as torchvision does."""
    if download:
        fetched(what, data_dir)
    if data_dir is None and (default is None or not default.is_dir()):
        hint = ", or install Debian's dataset-fashion-mnist" if default else ""
        raise UsageError(f"give the folder with {what}'s idx files, {OR_DOWNLOAD}{hint}", option="data_dir")
    root = Path(data_dir) if data_dir is not None else default
    assert root is not None
    folders = [root, root / what / "raw"]
    return Raw(_part("train", folders), _part("t10k", folders))


def _part(part: str, folders: list[Path]) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, H, W) and labels (N,)."""
    images = find_idx(f"{part}-images-idx3-ubyte", folders)
    labels = find_idx(f"{part}-labels-idx1-ubyte", folders)
    inputs, targets = read_idx(images), read_idx(labels)
    if inputs.dim() != 3 or targets.shape != inputs.shape[:1]:
        raise UsageError(f"{shown(images)} and {shown(labels)} do not belong together")
    if int(targets.max()) >= _CLASSES:
        raise UsageError(f"{shown(labels)} holds the label {int(targets.max())}; allowed are 0 to {_CLASSES - 1}")
    return inputs.unsqueeze(1), targets.long()
