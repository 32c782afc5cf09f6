"""CIFAR-10 and CIFAR-100: 50,000 and 10,000 colour images of 32x32."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tombola.data import cifar_binary
from tombola.data.cifar_binary import FileFormat
from tombola.data.sources.base import OR_DOWNLOAD, Source, data_dir_option, download_option, needed
from tombola.data.splits import Raw
from tombola.errors import UsageError, in_words, shown


@dataclass(frozen=True)
class Cifar10(Source):
    """CIFAR-10 in its binary files or torchvision's."""

    name: ClassVar[str] = "cifar10"

    data_dir: str | None = data_dir_option()
    download: bool = download_option()

    def read(self, image_size: int | None) -> Raw:
        """Return the images; raises UsageError naming what is at fault."""
        return _read("CIFAR10", cifar_binary.CIFAR10, self.data_dir, self.download).resized(image_size)


@dataclass(frozen=True)
class Cifar100(Source):
    """CIFAR-100 in its binary files or torchvision's, with its 100 fine labels."""

    name: ClassVar[str] = "cifar100"

    data_dir: str | None = data_dir_option()
    download: bool = download_option()

    def read(self, image_size: int | None) -> Raw:
        """Return the images; raises UsageError naming what is at fault."""
        return _read("CIFAR100", cifar_binary.CIFAR100, self.data_dir, self.download).resized(image_size)


def _read(what: str, file_format: FileFormat, data_dir: str | None, download: bool) -> Raw:
    root = needed(data_dir, what, OR_DOWNLOAD)
    files = cifar_binary.find(file_format, root)
    if files is not None:
        return cifar_binary.read(file_format, files)
    train, test = (_pickled(what, file_format, root, train, download) for train in (True, False))
    return Raw(train, test)


def _pickled(what: str, file_format: FileFormat, root: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Read torchvision's files, which it knows by their checksums before it opens them."""
    import torchvision.datasets

    try:
        source = getattr(torchvision.datasets, what)(str(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        names = ", ".join((*file_format.train, *file_format.test))
        raise UsageError(
            f"{shown(root)} does not hold torchvision's files of {what} ({in_words(error)}), nor the binary ones "
            f"({names}; plain, .xz or .gz); give the right folder, {OR_DOWNLOAD}",
            option="data_dir",
        ) from error
    return torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets)
