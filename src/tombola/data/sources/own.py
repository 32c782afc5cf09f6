"""Datasets of the user's own, by MODULE:FUNCTION."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola.core.plugins import explained, source
from tombola.core.seeds import seeded
from tombola.data.samples import Samples, labels_of, outputs_of
from tombola.data.sources.base import Source, data_dir_option
from tombola.data.splits import SPLIT_SEED, Splits, Wanted, check_labels, cut_off
from tombola.data.targets import Targets, outputs_for
from tombola.errors import UsageError


@dataclass(frozen=True)
class Own(Source):
    """A function of the user's own, MODULE:FUNCTION, which gives map-style datasets of (input tensor, target).

    The function takes the data directory (or nothing) and returns (train, test) or (train, held_out, test). Of two, a
    random share of the training data is held out. Targets are what the task asks for, whole numbers from 0 on where it
    is classification. The number of classes is the length of the training data's `classes`, where it has one, else the
    largest label plus one; of labels and numbers there are as many as the first sample has. What the function draws
    from the global generators is the same at every call.
    """

    name: str = ""  # type: ignore[misc]
    data_dir: str | None = data_dir_option("nothing is given to the function")
    function: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> "Own":
        """Return the source of a function and its MODULE:FUNCTION."""
        return cls(name=name, function=function)

    def splits(self, wanted: Wanted) -> Splits:
        """Return the splits; raises UsageError naming what of them cannot be used."""
        what = "is for the datasets with a name; one's own datasets"
        wanted.refuse_image_options(f"{what} normalise themselves", f"{what} resize themselves")
        return self._splits(wanted)

    def _splits(self, wanted: Wanted) -> Splits:
        name = self.name
        parts = self._parts()
        classes, labels = self._targets(parts, wanted.targets)
        code = source(name)
        samples = {part: Samples(dataset, code, labels.get(part)) for part, dataset in parts.items()}
        train, held = samples["train"], samples.get("held-out")
        for part in samples:
            if samples[part].shape != train.shape:
                shapes = f"inputs of train are {list(train.shape)}, of {part} {list(samples[part].shape)}"
                raise UsageError(f"data {name}: {shapes}", option="data")
        if held is None and wanted.held_out:
            kept, cut = cut_off(len(train), wanted.held_out, name)
            train, held = train.take(kept), train.take(cut)
        return Splits(train, held, samples["test"], classes)

    def _targets(self, parts: dict[str, Any], wanted: Targets) -> tuple[int, dict[str, Tensor]]:
        """Return how many outputs a sample needs, and the labels of each part, where targets are classes."""
        named, what = len(getattr(parts["train"], "classes", ())), f"data {self.name}, train"
        if not wanted.are_classes:
            with seeded(SPLIT_SEED, "labels"):
                return outputs_of(parts["train"], wanted, named, what), {}
        with seeded(SPLIT_SEED, "labels"):
            labels = {part: labels_of(dataset, f"data {self.name}, {part}") for part, dataset in parts.items()}
        classes = named or int(labels["train"].max()) + 1
        for part in parts:
            check_labels(part, labels[part], classes)
        return outputs_for(wanted, classes, self.name), labels

    def _parts(self) -> dict[str, Any]:
        """Return the datasets that the function gives, by their parts' names."""
        function = self.function
        assert function is not None
        takes = len(inspect.signature(function).parameters)
        with seeded(SPLIT_SEED, "datasets"), explained("data", self.name, "failed"):
            found = function(Path(self.data_dir) if self.data_dir is not None else None) if takes else function()
        if not isinstance(found, Sequence) or len(found) not in {2, 3}:
            raise UsageError(f"data {self.name} must return (train, test) or (train, held_out, test)", option="data")
        names = ("train", "held-out", "test") if len(found) == 3 else ("train", "test")
        parts = dict(zip(names, found, strict=True))
        for part, dataset in parts.items():
            with explained("data", self.name, f"failed in the first sample of {part}"):
                _check(f"data {self.name}, {part}", dataset)
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
