"""What a user gives as data in Python, made a feed."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from tombola.data.feeds import Feed, ListFeed, RowFeed, StreamFeed
from tombola.data.samples import SampleFeed, Samples
from tombola.errors import UsageError


def feed_of(data: Any, seed: int, batch_size: int, most: int | None = None, name: str = "data") -> Feed:
    """Return the feed for what a user gives: batches in a list or tuple, a map-style dataset, or any iterable.

    A torch Dataset is cut into shuffled batches of `batch_size`. What can be iterated only once (a generator) is read
    into a list: whole, which it must come to an end for, or `most` batches of it and no further. Whoever gives `most`
    must see to it that no more are asked for in an epoch: a finder's own number of steps. name: of the argument, for
    errors.
    """
    if isinstance(data, RowFeed | ListFeed | StreamFeed):
        return data
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        samples = Samples(data)
        if not len(samples):
            raise UsageError("is empty: the dataset has no samples", option=name)
        return SampleFeed(samples, batch_size, seed)
    if not isinstance(data, Iterable) or isinstance(data, Tensor | str | bytes | Mapping):
        raise UsageError(
            f"must be an iterable of (input, target) batches or a map-style dataset, got {type(data).__name__}",
            option=name,
        )
    if isinstance(data, tuple) and len(data) == 2 and _are_whole(*data):
        raise UsageError(
            "is a pair of tensors, where batches are wanted: give torch.utils.data.TensorDataset(inputs, targets)",
            option=name,
        )
    if isinstance(data, Iterator):
        data = list(itertools.islice(data, most))
    if isinstance(data, list | tuple):
        if not data:
            raise UsageError("is empty: it must give at least one batch", option=name)
        return ListFeed(data)
    return StreamFeed(data, seed)


def _are_whole(inputs: Any, targets: Any) -> bool:
    """Whether these are all inputs and all targets, and no two batches."""
    tensors = isinstance(inputs, Tensor) and isinstance(targets, Tensor)
    return tensors and bool(inputs.dim() and targets.dim()) and len(inputs) == len(targets)
