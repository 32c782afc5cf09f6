"""How a dataset is split into training, held-out and test data."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tombola.core.seeds import generator
from tombola.data.arrays import Arrays, channel_statistics
from tombola.data.augmentation import Augmentation
from tombola.data.feeds import Feed
from tombola.data.resizing import resize
from tombola.data.targets import IGNORED_PIXEL, Targets
from tombola.errors import UsageError
from tombola.storage.identity import digest

# The split is the same for every run: what is compared over seeds is the method, not the split.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of inputs between 0 and 1; those of the training data where empty."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def settle(self, inputs: Tensor, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation for inputs (N, C, H, W); raises UsageError as `check` does."""
        self.check(inputs.shape[1])
        found = channel_statistics(inputs, scale)
        return self.mean or found[0], self.std or found[1]

    def check(self, channels: int) -> None:
        """Raise UsageError unless what is given is one number for each of so many channels, deviations above 0."""
        for name, given in (("mean", self.mean), ("std", self.std)):
            if given and len(given) != channels:
                raise UsageError(f"must have one number for each of {channels} channels, got {given}", option=name)
        if any(value <= 0 for value in self.std):
            raise UsageError(f"must be above 0, got {self.std}", option="std")


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a dataset.

    held_out: share of the training data that is held out, in [0, 1). normalisation: of images; by default by mean and
    standard deviation of the training data. image_size: images are resized to so many pixels in height and width.
    targets: of which kind they must be. ignored: the label of pixels that do not count.
    """

    held_out: float = 0.1
    normalisation: Normalisation = Normalisation()
    image_size: int | None = None
    targets: Targets = Targets.CLASSES
    ignored: int = IGNORED_PIXEL

    def refuse_image_options(self, why: str, why_no_size: str | None = None) -> None:
        """Raise UsageError where an option of images is given for data that take none.

        why: what the error says. why_no_size: what it says of image_size, where that is something else.
        """
        for name, given in (("mean", self.normalisation.mean), ("std", self.normalisation.std)):
            if given:
                raise UsageError(why, option=name)
        if self.image_size is not None:
            raise UsageError(why_no_size or why, option="image_size")


class Split(Protocol):
    """Samples of one part of a dataset.

    at_once: how many are evaluated at once.
    """

    at_once: ClassVar[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def fingerprint(self) -> str:
        """Hash of what is in here."""

    def feed(
        self, batch_size: int, seed: int, purpose: str, shuffle: bool = True, augmentation: Augmentation | None = None
    ) -> Feed:
        """Return batches of the samples."""

    def take(self, rows: Tensor) -> "Split":
        """Return the samples of some rows."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Splits:
    """Training data, a held-out part (if any) for anything that is chosen, and test data for the end.

    classes: of the targets; of targets that are none, how many outputs a sample needs. padding: the token that pads
    texts; None of other data.
    """

    train: Split
    held_out: Split | None
    test: Split
    classes: int
    padding: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.train.shape

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the splits' own."""
        parts = {"train": self.train, "held_out": self.held_out, "test": self.test}
        return digest({name: part.fingerprint if part is not None else "" for name, part in parts.items()})

    def with_training(self, samples: int) -> "Splits":
        """Return the same with only so many of the training samples, a random choice that is the same for every run.

        Raises UsageError unless there are as many.
        """
        total = len(self.train)
        if not 1 <= samples <= total:
            raise UsageError(f"must lie between 1 and {total:,}, got {samples}", option="train_samples")
        rows = torch.randperm(total, generator=generator(SPLIT_SEED, "train-samples"), device="cpu")[:samples]
        return replace(self, train=self.train.take(rows.sort().values))


def stratified(targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Split rows in two, the second with `share` of every class; both in increasing order."""
    from sklearn.model_selection import train_test_split

    fewest = int(targets.bincount().min())
    if fewest < 2:
        label = int(targets.bincount().argmin())
        raise UsageError(
            f"class {label} has {fewest} training samples; each needs two, one to be held out", option="data"
        )
    if min(share, 1 - share) * len(targets) < len(targets.unique()):
        raise UsageError(
            f"held_out {share} of {len(targets)} training samples leaves a side without one of each class",
            option="held_out",
        )

    first, second = train_test_split(
        torch.arange(len(targets), device="cpu").numpy(),
        test_size=share,
        stratify=targets.numpy(),
        random_state=SPLIT_SEED,
    )
    return torch.from_numpy(first).sort().values, torch.from_numpy(second).sort().values


def cut_off(count: int, share: float, name: str) -> tuple[Tensor, Tensor]:
    """Split rows in two at random, the second with a share of all; both in increasing order.

    name: of the data, for errors. Raises UsageError where a side would be empty.
    """
    order = torch.randperm(count, generator=generator(SPLIT_SEED, "held-out"), device="cpu")
    second = round(share * count)
    if not 0 < second < count:
        raise UsageError(f"held_out {share} of {count} samples of {name} leaves a side empty", option="held_out")
    return order[second:].sort().values, order[:second].sort().values


def held_out_rows(count: int, share: float, classes: Tensor | None, name: str = "") -> tuple[Tensor, Tensor | None]:
    """Return the rows to train on and those that are held out, None where the share is 0; both in increasing order.

    classes: (N,), of each of which the share is held out; of data without any it is a random one of all. name: of such
    data, for errors. Raises UsageError where a side would be empty, or lack a class.
    """
    if not share:
        return torch.arange(count, device="cpu"), None
    return cut_off(count, share, name) if classes is None else stratified(classes, share)


@dataclass(frozen=True)
class Raw:
    """A dataset as its source gives it: inputs (N, C, H, W) uint8 and targets (N,), for training and for testing."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    scale: float = 255.0

    def resized(self, size: int | None) -> "Raw":
        """Return the same with images of size x size pixels."""
        if size is None:
            return self
        (train, labels), (test, test_labels) = self.train, self.test
        return replace(self, train=(resize(train, size), labels), test=(resize(test, size), test_labels))


def check_labels(part: str, labels: Tensor, classes: int) -> None:
    """Raise UsageError naming a label of some part of the data that is none of the training data's classes."""
    if len(labels) and int(labels.max()) >= classes:
        raise UsageError(
            f"{part} has the label {int(labels.max())}; the classes of train are 0 to {classes - 1}", option="data"
        )


def split(raw: Raw, held_out: float, normalisation: Normalisation) -> Splits:
    """Cut a share of every class off the training data, in [0, 1); 0 holds nothing out."""
    for part, (images, _) in (("train", raw.train), ("test", raw.test)):
        if not images.numel():
            raise UsageError(f"{part} holds no images", option="data")
    inputs, targets = raw.train
    classes = int(targets.max()) + 1
    check_labels("test", raw.test[1], classes)
    rows, held = held_out_rows(len(targets), held_out, targets)
    mean, std = normalisation.settle(inputs[rows], raw.scale)
    whole = Arrays(inputs, targets, mean, std, raw.scale)
    test = Arrays(*raw.test, mean, std, raw.scale)
    return Splits(whole.take(rows), None if held is None else whole.take(held), test, classes)
