"""Feeds: batches, epoch after epoch. What a feed gives depends on the epoch and the position alone, where it can."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tombola.core.seeds import GlobalState, generator, preserved, seeded_state
from tombola.errors import UsageError


class RowRange(NamedTuple):
    """Some samples of a batch, from one on up to another, of how many."""

    begin: int
    end: int
    of: int

    def of_output(self, output: Tensor) -> Tensor:
        """Return these samples' part of what was computed of the batch; raises UsageError where it has no such rows."""
        if output.shape[:1] != (self.of,):
            raise UsageError(
                f"outputs of shape {tuple(output.shape)} have no row for each of {self.of} samples, and cannot be "
                "divided over processes; take one"
            )
        return output[self.begin : self.end]


class Item(NamedTuple):
    """A batch, and what it can be recognised by: row numbers, its place in a list, or nothing.

    rows: which samples of what the key means, where a batch is divided.
    """

    batch: Any
    key: Any = None
    rows: RowRange | None = None


_END = object()
Compute = Callable[[Any], Any]


@dataclass(frozen=True)
class OutputTable:
    """Looks up what was computed once. values: a tensor with one row a sample, or a list with one entry a batch."""

    values: Any

    def __call__(self, item: Item) -> Any:
        """Return what was computed of an item's samples."""
        if isinstance(self.values, Tensor):
            return self.values[item.key.to(self.values.device)]
        found = self.values[item.key]
        return found if item.rows is None else item.rows.of_output(found)


class Feed(Protocol):
    """A source of batches."""

    @property
    def length(self) -> int | None:
        """Batches in an epoch, if known."""

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give the batches of one epoch, from the one at position `skip` on."""

    def remember(self, compute: Compute) -> OutputTable | None:
        """Apply `compute` once to every sample; return the look-up of its results, or None where impossible."""


def forever(feed: Feed, position: int = 0) -> Iterator[Item]:
    """Give batches epoch after epoch, from the `position`-th on; raises UsageError for an epoch without any."""
    length = feed.length
    first, skip = divmod(position, length) if length else (0, position)
    for number in itertools.count(first):
        empty = True
        # Where the length is unknown, what passes tells how many epochs lie before the position.
        items, skip = (feed.epoch(number, skip), 0) if length else (feed.epoch(number), skip)
        for item in items:
            empty = False
            if skip:
                skip -= 1
            else:
                yield item
        if empty:
            raise UsageError(f"the data gave no batch in epoch {number}; they must give at least one in every epoch")


@dataclass(frozen=True)
class RowFeed:
    """Batches cut from samples that are addressed by number, reshuffled for each epoch by the seed unless in order."""

    samples: Sized
    batch_size: int
    seed: int = 0
    purpose: str = "order"
    shuffle: bool = True

    @property
    def length(self) -> int:
        """Batches in an epoch, the short last one included."""
        return -(-len(self.samples) // self.batch_size)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give the batches of one epoch from position `skip` on."""
        for position, chosen in enumerate(self.rows(number)[skip:], start=skip):
            yield Item(self.batch(chosen, number, position), chosen)

    def rows(self, number: int) -> Sequence[Tensor]:
        """Return the rows of each batch of an epoch."""
        rows = torch.arange(len(self.samples), device="cpu")
        if self.shuffle:
            rows = torch.randperm(len(rows), generator=generator(self.seed, self.purpose, number), device="cpu")
        parts: Sequence[Tensor] = rows.split(self.batch_size)
        return parts[: self.length]  # of no rows, torch makes one empty part

    def batch(self, rows: Tensor, number: int, position: int) -> Any:
        """Return the samples of some rows, as the given epoch shows them at the given position."""
        raise NotImplementedError

    @property
    def repeatable(self) -> bool:
        """Whether a row is the same sample whenever it is asked for."""
        raise NotImplementedError

    def remember(self, compute: Compute) -> OutputTable | None:
        """Compute once per sample, in order; impossible when samples change or results have no row for each."""
        if not self.repeatable:
            return None
        ordered = replace(self, shuffle=False)
        # Of another size than batches have: an axis that is none of samples can be as long as one batch, not as two.
        few = next(replace(ordered, batch_size=3 if self.batch_size == 2 else 2).epoch(0))
        results: list[Tensor] = []
        for item in itertools.chain([few], ordered.epoch(0)):
            result = compute(item.batch)
            if not isinstance(result, Tensor) or result.shape[:1] != item.key.shape:
                return None
            results.append(result)
        if len({len(result) for result in results}) == 1:
            return None
        return OutputTable(torch.cat(results[1:]))


@dataclass(frozen=True)
class ListFeed:
    """Batches that the user holds in a list or tuple, given in their order."""

    batches: Sequence[Any]

    @property
    def length(self) -> int:
        """Number of batches."""
        return len(self.batches)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give the batches from position `skip` on."""
        for position in range(skip, len(self.batches)):
            yield Item(self.batches[position], position)

    def remember(self, compute: Compute) -> OutputTable:
        """Compute once per batch."""
        return OutputTable([compute(batch) for batch in self.batches])


def _generators(stream: object) -> list[torch.Generator]:
    """Return the generators that a loader and its samplers draw from, where they have any of their own."""
    batches = getattr(stream, "batch_sampler", None)
    places = (stream, getattr(stream, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(place, "generator", None) for place in places]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


@contextmanager
def _preserved_too(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Put generators back after the block."""
    states = [each.get_state() for each in generators]
    try:
        yield
    finally:
        for each, state in zip(generators, states, strict=True):
            each.set_state(state)


def _with_new_workers(stream: Iterable[Any]) -> Iterable[Any]:
    """Return a stream that draws nothing from what workers drew before: they would keep the generators of that time."""
    if not isinstance(stream, DataLoader) or not stream.persistent_workers:
        return stream
    found = copy.copy(stream)
    found._iterator = None
    return found


@dataclass(frozen=True)
class StreamFeed:
    """Batches from anything that can be iterated anew for each epoch, such as a DataLoader.

    A loader shuffles, and its transforms draw, from the global generators or from one of its own: every batch is
    fetched under states of theirs that belong to the epoch, and the caller's are left alone.
    """

    stream: Iterable[Any]
    seed: int = 0

    @property
    def length(self) -> int | None:
        """Batches in an epoch, if the stream says so."""
        try:
            return len(self.stream)  # type: ignore[arg-type]
        except TypeError:
            return None

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give the stream's batches, the first `skip` left out."""
        iterator: Iterator[Any] | None = None
        state = seeded_state(self.seed, "stream", number)
        own = _generators(self.stream)
        states = [generator(self.seed, "stream", number, place).get_state() for place in range(len(own))]
        for position in itertools.count():
            with preserved(), _preserved_too(own):
                state.restore()
                for each, its_state in zip(own, states, strict=True):
                    each.set_state(its_state)
                iterator = iter(_with_new_workers(self.stream)) if iterator is None else iterator
                batch = next(iterator, _END)
                state, states = GlobalState.now(), [each.get_state() for each in own]
            if batch is _END:
                return
            if position >= skip:
                yield Item(batch)

    def remember(self, compute: Compute) -> None:
        """Impossible: batches cannot be recognised."""
