"""Where images come from, and how they are split into training, held-out and test data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from tombola.data.arrays import Arrays, channel_statistics
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


def _split(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], held_out: float, scale: float) -> Splits:
    inputs, targets = train
    rows, held = _stratified(targets, held_out)
    mean, std = channel_statistics(inputs[rows], scale)
    whole = Arrays(inputs, targets, mean, std, scale)
    return Splits(whole.take(rows), whole.take(held), Arrays(*test, mean, std, scale), int(targets.max()) + 1)


def load_digits(data_dir: Path | None, held_out: float) -> Splits:
    """scikit-learn's bundled digits: 1,797 images of 8x8, values 0 to 16, a fifth of them for testing."""
    from sklearn.datasets import load_digits as bundled

    if data_dir is not None:
        raise UsageError("--data-dir: digits come with scikit-learn and take no folder")
    source = bundled()
    inputs = torch.from_numpy(source.images).to(torch.uint8).unsqueeze(1)
    targets = torch.from_numpy(source.target).long()
    train, test = _stratified(targets, 0.2)
    return _split((inputs[train], targets[train]), (inputs[test], targets[test]), held_out, scale=16.0)


def load_fashion_mnist(data_dir: Path | None, held_out: float) -> Splits:
    """Fashion-MNIST: 60,000 and 10,000 grey images of 28x28.

    data_dir: the folder with the idx files, plain or .gz, or torchvision's root; by default where Debian's
    dataset-fashion-mnist puts them.
    """
    if data_dir is None and not DEBIAN_FASHION_MNIST.is_dir():
        raise UsageError(
            "--data-dir: give the folder with Fashion-MNIST's idx files, or install Debian's dataset-fashion-mnist"
        )
    root = data_dir or DEBIAN_FASHION_MNIST
    folders = [root, root / "FashionMNIST" / "raw"]

    def load(part: str) -> tuple[Tensor, Tensor]:
        images = find_idx(f"{part}-images-idx3-ubyte", folders)
        labels = find_idx(f"{part}-labels-idx1-ubyte", folders)
        inputs, targets = read_idx(images), read_idx(labels)
        if inputs.dim() != 3 or targets.shape != inputs.shape[:1]:
            raise UsageError(f"{images} and {labels} do not belong together")
        return inputs.unsqueeze(1), targets.long()

    return _split(load("train"), load("t10k"), held_out, scale=255.0)


DATASETS: dict[str, Callable[[Path | None, float], Splits]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
}


def load(name: str, data_dir: Path | None = None, held_out: float = 0.1) -> Splits:
    """Return a dataset by name, its training data split by classes into training and a `held_out` share."""
    if name not in DATASETS:
        raise UsageError(f"--data {name!r} is unknown; allowed are {', '.join(DATASETS)}")
    return DATASETS[name](data_dir, held_out)
