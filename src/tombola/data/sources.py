"""Where images come from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tombola.data.custom import load_own
from tombola.data.folder import load_part
from tombola.data.idx import find_idx, read_idx
from tombola.data.splits import Normalisation, Raw, Splits, split, stratified
from tombola.errors import UsageError

# Where Debian's dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Place:
    """Where a source finds its files. download: whether it may fetch them. image_size: of images that differ in it."""

    data_dir: Path | None = None
    download: bool = False
    image_size: int | None = None

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
    train, test = stratified(targets, 0.2)
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
    train, labels, classes = load_part(place.folder("folder"), "train", place.image_size)
    test, test_labels, test_classes = load_part(place.folder("folder"), "test", place.image_size)
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


def load(
    name: str,
    data_dir: Path | None = None,
    held_out: float = 0.1,
    download: bool = False,
    normalisation: Normalisation | None = None,
    image_size: int | None = None,
) -> Splits:
    """Return a dataset by name, its training data split by classes into training and a `held_out` share.

    name: one in DATASETS, or "package.module:function" (see `load_own`). held_out: in [0, 1). normalisation: of
    images; by default by mean and standard deviation of the training data. image_size: images are resized to so many
    pixels in height and width.
    """
    normalisation = normalisation or Normalisation()
    if ":" in name:
        if normalisation != Normalisation():
            raise UsageError(
                "--mean and --std are for the datasets with a name; one's own datasets normalise themselves"
            )
        if image_size is not None:
            raise UsageError("--image-size is for the datasets with a name; one's own datasets resize themselves")
        return load_own(name, data_dir, held_out)
    if name not in DATASETS:
        raise UsageError(f"--data {name!r} is unknown; allowed are {', '.join(DATASETS)}, or MODULE:FUNCTION")
    raw = DATASETS[name](Place(data_dir, download, image_size))
    return split(raw.resized(image_size), held_out, normalisation)
