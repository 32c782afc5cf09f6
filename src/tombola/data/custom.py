"""Datasets of the user's own, by MODULE:FUNCTION."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from tombola.data.samples import Samples, labels_of
from tombola.data.splits import SPLIT_SEED, Splits, check_labels
from tombola.errors import UsageError
from tombola.own import explained, imported, source
from tombola.seeds import generator


def load_own(name: str, data_dir: Path | None, held_out: float) -> Splits:
    """Return the splits that a function of the user's own gives.

    The function takes the data directory (or nothing) and returns (train, test) or (train, held_out, test), map-style
    datasets of (input tensor, label). Of two, a random share of the training data is held out. The number of classes
    is the length of the training data's `classes`, where it has one, else the largest label plus one.
    """
    function = imported("data", name)
    takes = len(inspect.signature(function).parameters)
    found = function(data_dir) if takes else function()
    if not isinstance(found, Sequence) or len(found) not in {2, 3}:
        raise UsageError(f"--data {name} must return (train, test) or (train, held_out, test)")
    parts = dict(zip(("train", "held-out", "test") if len(found) == 3 else ("train", "test"), found, strict=True))
    for part, dataset in parts.items():
        with explained("data", name, f"failed in the first sample of {part}"):
            _check(f"--data {name}, {part}", dataset)
    labels = {part: labels_of(dataset, f"--data {name}, {part}") for part, dataset in parts.items()}
    shapes = {part: Samples(dataset).shape for part, dataset in parts.items()}
    for part, shape in shapes.items():
        if shape != shapes["train"]:
            raise UsageError(f"--data {name}: inputs of train are {list(shapes['train'])}, of {part} {list(shape)}")
    classes = len(getattr(parts["train"], "classes", ())) or int(labels["train"].max()) + 1
    for part in parts:
        check_labels(labels[part], classes)
    code = source(name)
    train, held = parts["train"], parts.get("held-out")
    if held is None and held_out:
        train, held = _cut(train, held_out, name)
    return Splits(Samples(train, code), held and Samples(held, code), Samples(parts["test"], code), classes)


def _check(what: str, dataset: Any) -> None:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
        raise UsageError(
            f"{what}: a map-style dataset with at least one sample is needed, got {type(dataset).__name__}"
        )
    first = dataset[0]
    if not isinstance(first, Sequence) or len(first) != 2 or not isinstance(first[0], torch.Tensor):
        raise UsageError(f"{what}: a sample must be a pair (input tensor, label), got {type(first).__name__}")


def _cut(train: Any, share: float, name: str) -> tuple[Any, Any]:
    order = torch.randperm(len(train), generator=generator(SPLIT_SEED, "held-out")).tolist()
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise UsageError(f"--held-out {share} of {len(train)} samples of --data {name} leaves a side empty")
    return Subset(train, sorted(order[count:])), Subset(train, sorted(order[:count]))
