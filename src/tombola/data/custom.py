"""Datasets of the user's own, by MODULE:FUNCTION."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tombola.data.samples import Samples, labels_of
from tombola.data.splits import SPLIT_SEED, Splits, check_labels
from tombola.errors import UsageError
from tombola.plugins import explained, imported_function, source
from tombola.seeds import generator, seeded


def load_own(name: str, data_dir: Path | None, held_out: float) -> Splits:
    """Return the splits that a function of the user's own gives.

    The function takes the data directory (or nothing) and returns (train, test) or (train, held_out, test), map-style
    datasets of (input tensor, label). Of two, a random share of the training data is held out. The number of classes
    is the length of the training data's `classes`, where it has one, else the largest label plus one. What the function
    draws from the global generators is the same at every call.
    """
    function = imported_function("data", name)
    takes = len(inspect.signature(function).parameters)
    with seeded(SPLIT_SEED, "datasets"):
        found = function(data_dir) if takes else function()
    if not isinstance(found, Sequence) or len(found) not in {2, 3}:
        raise UsageError(f"--data {name} must return (train, test) or (train, held_out, test)")
    parts = dict(zip(("train", "held-out", "test") if len(found) == 3 else ("train", "test"), found, strict=True))
    for part, dataset in parts.items():
        with explained("data", name, f"failed in the first sample of {part}"):
            _check(f"--data {name}, {part}", dataset)
    with seeded(SPLIT_SEED, "labels"):
        labels = {part: labels_of(dataset, f"--data {name}, {part}") for part, dataset in parts.items()}
    code = source(name)
    samples = {part: Samples(dataset, code, labels[part]) for part, dataset in parts.items()}
    train, held = samples["train"], samples.get("held-out")
    for part in samples:
        if samples[part].shape != train.shape:
            shapes = f"inputs of train are {list(train.shape)}, of {part} {list(samples[part].shape)}"
            raise UsageError(f"--data {name}: {shapes}")
    classes = len(getattr(parts["train"], "classes", ())) or int(labels["train"].max()) + 1
    for part in parts:
        check_labels(part, labels[part], classes)
    if held is None and held_out:
        train, held = _cut(train, held_out, name)
    return Splits(train, held, samples["test"], classes)


def _check(what: str, dataset: Any) -> None:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
        raise UsageError(
            f"{what}: a map-style dataset with at least one sample is needed, got {type(dataset).__name__}"
        )
    first = dataset[0]
    if not isinstance(first, Sequence) or len(first) != 2 or not isinstance(first[0], torch.Tensor):
        raise UsageError(f"{what}: a sample must be a pair (input tensor, label), got {type(first).__name__}")


def _cut(train: Samples, share: float, name: str) -> tuple[Samples, Samples]:
    order = torch.randperm(len(train), generator=generator(SPLIT_SEED, "held-out"))
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise UsageError(f"--held-out {share} of {len(train)} samples of --data {name} leaves a side empty")
    return train.take(order[count:].sort().values), train.take(order[:count].sort().values)
