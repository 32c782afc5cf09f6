"""Datasets of the user's own, by MODULE:FUNCTION."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from tombola.data.samples import Samples, labels_of
from tombola.data.sources.base import option
from tombola.data.splits import SPLIT_SEED, Splits, check_labels
from tombola.errors import UsageError
from tombola.own import explained, imported, source
from tombola.seeds import generator, seeded


@dataclass(frozen=True)
class Own:
    """A function of the user's own, which gives map-style datasets of (input tensor, label).

    The function takes the data directory (or nothing) and returns (train, test) or (train, held_out, test). Of two, a
    random share of the training data is held out. The number of classes is the length of the training data's
    `classes`, where it has one, else the largest label plus one. What the function draws from the global generators is
    the same at every call.
    """

    name: ClassVar[str] = "own"
    version: ClassVar[int] = 1

    function: str = option("", "MODULE:FUNCTION")
    data_dir: str | None = option(None, "folder that is given to the function")

    def splits(self, held_out: float) -> Splits:
        """Return the splits; raises UsageError naming what of them cannot be used. held_out: in [0, 1)."""
        name = self.function
        parts = self._parts()
        with seeded(SPLIT_SEED, "labels"):
            labels = {part: labels_of(dataset, f"data {name}, {part}") for part, dataset in parts.items()}
        code = source(name)
        samples = {part: Samples(dataset, code, labels[part]) for part, dataset in parts.items()}
        train, held = samples["train"], samples.get("held-out")
        for part in samples:
            if samples[part].shape != train.shape:
                shapes = f"inputs of train are {list(train.shape)}, of {part} {list(samples[part].shape)}"
                raise UsageError(f"data {name}: {shapes}", option="data")
        classes = len(getattr(parts["train"], "classes", ())) or int(labels["train"].max()) + 1
        for part in parts:
            check_labels(part, labels[part], classes)
        if held is None and held_out:
            train, held = _cut(train, held_out, name)
        return Splits(train, held, samples["test"], classes)

    def _parts(self) -> dict[str, Any]:
        """Return the datasets that the function gives, by their parts' names."""
        function = imported("data", self.function)
        takes = len(inspect.signature(function).parameters)
        with seeded(SPLIT_SEED, "datasets"):
            found = function(Path(self.data_dir) if self.data_dir is not None else None) if takes else function()
        if not isinstance(found, Sequence) or len(found) not in {2, 3}:
            raise UsageError(
                f"data {self.function} must return (train, test) or (train, held_out, test)", option="data"
            )
        names = ("train", "held-out", "test") if len(found) == 3 else ("train", "test")
        parts = dict(zip(names, found, strict=True))
        for part, dataset in parts.items():
            with explained("data", self.function, f"failed in the first sample of {part}"):
                _check(f"data {self.function}, {part}", dataset)
        return parts


def _check(what: str, dataset: Any) -> None:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
        raise UsageError(
            f"{what}: a map-style dataset with at least one sample is needed, got {type(dataset).__name__}",
            option="data",
        )
    first = dataset[0]
    if not isinstance(first, Sequence) or len(first) != 2 or not isinstance(first[0], torch.Tensor):
        raise UsageError(
            f"{what}: a sample must be a pair (input tensor, label), got {type(first).__name__}", option="data"
        )


def _cut(train: Samples, share: float, name: str) -> tuple[Samples, Samples]:
    order = torch.randperm(len(train), generator=generator(SPLIT_SEED, "held-out"))
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise UsageError(f"held_out {share} of {len(train)} samples of {name} leaves a side empty", option="held_out")
    return train.take(order[count:].sort().values), train.take(order[:count].sort().values)
