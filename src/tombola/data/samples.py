"""Map-style datasets of the user's own: samples by number, batched one by one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset, default_collate

from tombola.core.seeds import seeded
from tombola.data.augmentation import Augmentation
from tombola.data.feeds import RowFeed
from tombola.data.targets import Targets
from tombola.errors import TicketWarning, UsageError, in_words
from tombola.storage.identity import digest, digest_tensors

# Samples of a dataset that its fingerprint looks at, evenly spaced: reading a large one whole would take hours.
FINGERPRINTED = 1000
# Said of data that a run which is stopped could not go on with.
UNREPEATABLE = (
    "the samples are others when they are read again, so that a run that is stopped and goes on comes to another "
    "result; draw what is random in them from torch's, numpy's or Python's global generator, not from one of the "
    "dataset's own"
)


@dataclass(frozen=True)
class Samples:
    """A map-style dataset.

    dataset: has a length and gives, by number, samples that torch's default_collate can batch. code: source text that
    the samples depend on. labels: (N,), where they are known.
    """

    dataset: Any
    code: str = ""
    labels: Tensor | None = None

    at_once: ClassVar[int] = 1000

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first sample's input."""
        return tuple(torch.as_tensor(self.dataset[0][0]).shape)

    def read(self, row: int) -> Any:
        """Return a sample; raises UsageError naming it where the dataset cannot."""
        try:
            return self.dataset[row]
        except Exception as error:  # the dataset is the user's: anything may come out of it
            raise UsageError(f"sample {row} cannot be read ({in_words(error)})", option="data") from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the code, the length, a thousand samples, all known labels, and a TensorDataset's tensors.

        Issues a TicketWarning where the first sample, read again, is another one.
        """
        rows = range(0, len(self), -(-len(self) // FINGERPRINTED) or 1)
        tensors = self._tensors(rows)
        again = self._tensors(rows[:1])
        if digest_tensors(again) != digest_tensors({name: tensors[name] for name in again if name in tensors}):
            warnings.warn(f"data: {UNREPEATABLE}", TicketWarning, stacklevel=2)
        known = {} if self.labels is None else {"labels": self.labels}
        return digest([self.code, len(self), digest_tensors(tensors | known | _in_memory(self.dataset))])

    def _tensors(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return all that some samples hold, always from the same state of the global generators."""
        with seeded(0, "fingerprint"):
            return {
                f"{row}.{part}": torch.as_tensor(value) for row in rows for part, value in enumerate(self.read(row))
            }

    def feed(
        self, batch_size: int, seed: int, purpose: str, shuffle: bool = True, augmentation: Augmentation | None = None
    ) -> "SampleFeed":
        """Return batches of these samples; raises UsageError for an augmentation, which is the dataset's own matter."""
        if augmentation is not None:
            raise UsageError(
                "is for the datasets with a name; one's own datasets augment themselves", option="augmentation"
            )
        return SampleFeed(self, batch_size, seed, purpose, shuffle)

    def take(self, rows: Tensor) -> "Samples":
        """Return the samples of some rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Samples(Subset(self.dataset, rows.tolist()), self.code, labels)


@dataclass(frozen=True)
class SampleFeed(RowFeed):
    """Batches cut from a map-style dataset; what its transforms draw from the global generators follows the seed."""

    samples: Samples

    def batch(self, rows: Tensor, number: int, position: int) -> Any:
        """Return the collated samples of some rows."""
        with seeded(self.seed, self.purpose, "samples", number, position):
            found = [self.samples.read(row) for row in rows.tolist()]
        try:
            return default_collate(found)
        except (TypeError, RuntimeError) as error:
            raise UsageError(f"samples cannot be batched ({str(error).splitlines()[0]})", option="data") from error

    @property
    def repeatable(self) -> bool:
        """Known of tensors only; any other dataset, and any subclass, may have random transforms."""
        dataset = self.samples.dataset
        while type(dataset) is Subset:
            dataset = dataset.dataset
        return type(dataset) is TensorDataset


def _in_memory(dataset: Any) -> dict[str, Tensor]:
    """Return the tensors of a TensorDataset, for a subset of one also its rows; nothing for other datasets."""
    found: dict[str, Tensor] = {}
    while isinstance(dataset, Subset):
        found[f"rows {len(found)}"] = torch.as_tensor(dataset.indices, dtype=torch.long)
        dataset = dataset.dataset
    if not isinstance(dataset, TensorDataset):
        return {}
    return found | {f"tensor {number}": tensor for number, tensor in enumerate(dataset.tensors)}


def _are_given(dataset: Any, labels: Sequence[Any]) -> bool:
    """Whether samples have these labels, as far as the first, the middle and the last one tell."""
    rows = {0, len(labels) // 2, len(labels) - 1} if labels else set()
    found = {row: Samples(dataset).read(row)[1] for row in rows}
    if not all(map(_is_label, found.values())):
        return True  # probabilities of classes, say, which the attribute numbers
    changed = getattr(dataset, "target_transform", None) is not None
    return not changed and all(_is_label(labels[row]) and found[row] == labels[row] for row in rows)


def labels_of(dataset: Any, what: str) -> Tensor:
    """Return the labels of a classification dataset; raises UsageError naming the sample whose label cannot be one.

    what: the dataset's name in errors. A `targets` attribute with one label a sample, as torchvision's datasets have
    it, saves reading samples, unless these have other labels, which a `target_transform` makes.
    """
    given = dataset.tensors[1] if isinstance(dataset, TensorDataset) else getattr(dataset, "targets", None)
    labels = list(given) if given is not None else []
    if len(labels) != len(dataset) or not _are_given(dataset, labels):
        labels = [Samples(dataset).read(row)[1] for row in range(len(dataset))]
    for row, label in enumerate(labels):
        if not _is_label(label):
            allowed = "labels must be whole numbers from 0 on"
            if _is_batch(Samples(dataset).read(row)[0], label):
                allowed = "single samples (input, label) are wanted, and this looks like batches"
            raise UsageError(f"{what}: sample {row} has the label {_shown(label)}; {allowed}", option="data")
    return torch.tensor([int(label) for label in labels])


def outputs_of(dataset: Any, wanted: Targets, classes: int, what: str) -> int:
    """Return how many outputs a sample of a dataset needs, by its first one and, of pixels, by its classes.

    classes: how many the dataset names, 0 where it names none. what: the dataset's name in errors. Raises UsageError
    where targets are not of the kind that is wanted.
    """
    shown = _shown(dataset[0][1])
    try:
        first = torch.as_tensor(dataset[0][1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{what}: the first sample has the target {shown}; {wanted} are needed", option="data"
        ) from error
    if wanted is Targets.PIXELS:
        if not classes or first.dim() != 2 or first.is_floating_point():
            raise UsageError(
                f"{what}: segmentation needs a mask of whole numbers (height, width) a sample, and a list `classes` of "
                "the dataset that names them",
                option="data",
            )
        return classes
    if wanted is Targets.ANY and not first.is_floating_point() and first.dim() == 0:
        return classes or int(labels_of(dataset, what).max()) + 1
    if first.dim() > 1 and wanted is not Targets.ANY:
        raise UsageError(
            f"{what}: the first sample has a target of shape {list(first.shape)}; {wanted} are needed", option="data"
        )
    return first.numel()


def _is_batch(inputs: Any, label: Any) -> bool:
    """Whether a sample has a label for each row of its input."""
    tensors = isinstance(inputs, Tensor) and isinstance(label, Tensor)
    return tensors and bool(inputs.dim() > label.dim() == 1 and len(inputs) == len(label))


def _shown(label: Any) -> str:
    """Return a label as an error shows it, on one line and not too long."""
    if isinstance(label, Tensor) and label.dim():
        return f"of shape {list(label.shape)}"
    text = " ".join(repr(label).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_label(label: Any) -> bool:
    try:
        value = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # a text, None: nothing that a tensor could hold
        return False
    return not (value.dim() or value.is_floating_point() or value.is_complex() or int(value) < 0)
