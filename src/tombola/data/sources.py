"""Where images come from, and how they are split into training, held-out and test data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from tombola.data.arrays import Arrays, channel_statistics
from tombola.data.folder import load_part
from tombola.data.idx import find_idx, read_idx
from tombola.errors import UsageError
from tombola.identity import digest, digest_tensors

# Where Debian's dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
# The split is the same for every run: what is compared over seeds is the method, not the split.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Splits:
    """Training data, a held-out part for anything that is chosen, and test data for the end."""

    train: Arrays
    held_out: Arrays
    test: Arrays
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the splits."""
        parts = {"train": self.train, "held_out": self.held_out, "test": self.test}
        return digest(
            {
                name: [
                    digest_tensors({"inputs": part.inputs, "targets": part.targets}),
                    part.mean,
                    part.std,
                    part.scale,
                ]
                for name, part in parts.items()
            }
        )


def _stratified(targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Split rows in two, the second with `share` of every class; both in increasing order."""
    first, second = train_test_split(
        torch.arange(len(targets)).numpy(),
        test_size=share,
        stratify=targets.numpy(),
        random_state=_SPLIT_SEED,
    )
    return torch.from_numpy(first).sort().values, torch.from_numpy(second).sort().values


@dataclass(frozen=True)
class Raw:
    """A dataset as its source gives it: inputs (N, C, H, W) uint8 and targets (N,), for training and for testing."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    scale: float = 255.0


def _split(raw: Raw, held_out: float) -> Splits:
    inputs, targets = raw.train
    fewest = int(targets.bincount().min())
    if fewest < 2:
        label = int(targets.bincount().argmin())
        raise UsageError(f"--data: class {label} has {fewest} training images; each needs two, one to be held out")
    if min(held_out, 1 - held_out) * len(targets) < len(targets.unique()):
        raise UsageError(
            f"--held-out {held_out} of {len(targets)} training images leaves a side without one of each class"
        )
    rows, held = _stratified(targets, held_out)
    mean, std = channel_statistics(inputs[rows], raw.scale)
    whole = Arrays(inputs, targets, mean, std, raw.scale)
    test = Arrays(*raw.test, mean, std, raw.scale)
    return Splits(whole.take(rows), whole.take(held), test, int(targets.max()) + 1)


@dataclass(frozen=True)
class Place:
    """Where a source finds its files. download: whether it may fetch them."""

    data_dir: Path | None = None
    download: bool = False

    def folder(self, name: str) -> Path:
        """Return the folder; raises UsageError where none was given."""
        if self.data_dir is None:
            raise UsageError(f"--data-dir: {name} needs the folder with its files")
        return self.data_dir


def digits(place: Place) -> Raw:
    """scikit-learn's bundled digits: 1,797 images of 8x8, values 0 to 16, a fifth of them for testing."""
    from sklearn.datasets import load_digits as bundled

    if place.data_dir is not None:
        raise UsageError("--data-dir: digits come with scikit-learn and take no folder")
    source = bundled()
    inputs = torch.from_numpy(source.images).to(torch.uint8).unsqueeze(1)
    targets = torch.from_numpy(source.target).long()
    train, test = _stratified(targets, 0.2)
    return Raw((inputs[train], targets[train]), (inputs[test], targets[test]), scale=16.0)


def _idx(place: Place, name: str, default: Path | None) -> Raw:
    """Read a dataset of the MNIST family from its idx files, or download them as torchvision does."""
    if place.download:
        import torchvision.datasets

        getattr(torchvision.datasets, name)(str(place.folder(name)), download=True)
    root = place.data_dir or default
    if root is None or (place.data_dir is None and not root.is_dir()):
        hint = ", or install Debian's dataset-fashion-mnist" if default else ""
        raise UsageError(f"--data-dir: give the folder with {name}'s idx files{hint}")
    folders = [root, root / name / "raw"]

    def read(part: str) -> tuple[Tensor, Tensor]:
        images = find_idx(f"{part}-images-idx3-ubyte", folders)
        labels = find_idx(f"{part}-labels-idx1-ubyte", folders)
        inputs, targets = read_idx(images), read_idx(labels)
        if inputs.dim() != 3 or targets.shape != inputs.shape[:1]:
            raise UsageError(f"{images} and {labels} do not belong together")
        return inputs.unsqueeze(1), targets.long()

    return Raw(read("train"), read("t10k"))


def fashion_mnist(place: Place) -> Raw:
    """Fashion-MNIST: 60,000 and 10,000 grey images of 28x28, by default where Debian's package puts them."""
    return _idx(place, "FashionMNIST", DEBIAN_FASHION_MNIST)


def mnist(place: Place) -> Raw:
    """MNIST: 60,000 and 10,000 grey images of 28x28."""
    return _idx(place, "MNIST", None)


def _cifar(place: Place, name: str) -> Raw:
    """Read CIFAR in torchvision's files: 50,000 and 10,000 colour images of 32x32."""
    import torchvision.datasets

    def read(train: bool) -> tuple[Tensor, Tensor]:
        try:
            source = getattr(torchvision.datasets, name)(str(place.folder(name)), train=train, download=place.download)
        except RuntimeError as error:
            raise UsageError(
                f"--data-dir: {place.data_dir} does not hold torchvision's files of {name} ({error}); "
                "give the right folder, or --download"
            ) from error
        return torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets)

    return Raw(read(True), read(False))


def cifar10(place: Place) -> Raw:
    """CIFAR-10 in torchvision's files."""
    return _cifar(place, "CIFAR10")


def cifar100(place: Place) -> Raw:
    """CIFAR-100 in torchvision's files."""
    return _cifar(place, "CIFAR100")


def folder(place: Place) -> Raw:
    """Images in class folders: `train` and `test` in --data-dir, each a folder or a tar file."""
    train, labels, classes = load_part(place.folder("folder"), "train")
    test, test_labels, test_classes = load_part(place.folder("folder"), "test")
    if classes != test_classes:
        differing = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise UsageError(f"--data-dir: train and test differ in the classes {differing}")
    if train.shape[1:] != test.shape[1:]:
        raise UsageError(f"--data-dir: images of train are {list(train.shape[1:])}, of test {list(test.shape[1:])}")
    return Raw((train, labels), (test, test_labels))


DATASETS: dict[str, Callable[[Place], Raw]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "folder": folder,
}


def load(name: str, data_dir: Path | None = None, held_out: float = 0.1, download: bool = False) -> Splits:
    """Return a dataset by name, its training data split by classes into training and a `held_out` share."""
    if name not in DATASETS:
        raise UsageError(f"--data {name!r} is unknown; allowed are {', '.join(DATASETS)}")
    return _split(DATASETS[name](Place(data_dir, download)), held_out)
