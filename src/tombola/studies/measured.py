"""Pieces of the work of a study's tasks, measured on a few steps of each."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tombola.core.progress import Silent
from tombola.core.seeds import seeded
from tombola.data import Feed, Item
from tombola.data.feeds import Compute, OutputTable
from tombola.errors import UsageError
from tombola.finders import Finder, needs_of
from tombola.finders.problem import Problem
from tombola.networks.evaluation import evaluate
from tombola.networks.runtime import on_threads
from tombola.objectives import ReverseKL
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig
from tombola.storage.files import write_bytes
from tombola.storage.store import MemoryEntry, MemoryStore
from tombola.ticket import Ticket
from tombola.training import State, fit

# Steps that are measured, after one that is not; of steps longer than so many seconds, the first has to do.
MEASURED, LONG = 3, 5.0
# Where a step is as long as this, those of finders are not measured too, but taken in proportion to their samples.
TOO_LONG = 10.0


class Enough(BaseException):
    """Ends a piece of work of which enough was seen; no part's own errors, so that nobody explains it."""


class Stopwatch:
    """A feed that measures what is done between its batches, loading the next one included, and ends the work soon."""

    def __init__(self, feed: Feed, device: torch.device) -> None:
        self._feed, self._device = feed, device
        self._asked: list[float] = []
        self.teaching = 0.0

    @property
    def length(self) -> int | None:
        """Batches in an epoch, if known."""
        return self._feed.length

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give batches until enough was seen."""
        for item in self._feed.epoch(number, skip):
            yield item
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._asked.append(time.perf_counter())
            taken = [after - before for before, after in zip(self._asked, self._asked[1:], strict=False)]
            if len(taken) > MEASURED or (taken and taken[-1] > LONG):
                raise Enough

    def remember(self, compute: Compute) -> OutputTable | None:
        """Compute the first batch alone, twice, and give its outputs for all others."""
        first = next(iter(self._feed.epoch(0)), None)
        if first is None or not isinstance(first.key, torch.Tensor):
            return None
        compute(first.batch)
        since = time.perf_counter()
        values = compute(first.batch)
        self.teaching = (time.perf_counter() - since) / len(values)
        return _Everywhere(values)

    @property
    def step(self) -> float | None:
        """Seconds of a step; None where the work took fewer than two."""
        taken = [after - before for before, after in zip(self._asked, self._asked[1:], strict=False)]
        return median(taken[1:] or taken) if taken else None


class _Everywhere(OutputTable):
    """Gives the same outputs for any batch, over and over where it is longer."""

    def __call__(self, item: Item) -> Any:
        return self.values[torch.arange(len(item.key), device="cpu") % len(self.values)]


class Measured:
    """One cell, of which a few steps are measured when somebody asks.

    Everything is done as the cell's tasks do it, in memory, and ended after a few steps.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = resolve(config)
        with on_threads(self.config.threads):
            # A density that keeps no weight must not stand in the way.
            asked = replace(self.config, density=0.5)
            Cell.prepare(asked)  # what is loaded at first use is loaded once
            since = time.perf_counter()
            self.cell = Cell.prepare(asked)
            self.preparation = time.perf_counter() - since

    @property
    def batches(self) -> int:
        """Batches of an epoch of training."""
        return self.cell.splits.train.feed(self.config.batch_size, 0, "forecast").length or 0

    @cached_property
    def step(self) -> float:
        """Seconds of a step of the dense training: loading, forward, backward, the optimiser."""
        return self._training(None)

    def ticket_step(self, density: float) -> float:
        """Seconds of a step of a ticket's training, which may take its kept weights alone."""
        if self.step > TOO_LONG:
            return self.step
        with suppress(UsageError), on_threads(self.config.threads):  # of a density that keeps no weight
            cell = Cell.prepare(replace(self.config, density=density))
            return self._ticket_step(density) if cell.config.execution == "sparse" else self._ticket_step(0.5)
        return self._ticket_step(0.5)

    @cache  # noqa: B019 - as long as the measurement
    def _ticket_step(self, density: float) -> float:
        layout = self.cell.survey.layout
        draws = torch.Generator().manual_seed(0)
        chosen = torch.rand(layout.total, generator=draws, dtype=torch.float32, device="cpu") < density
        return self._training(Ticket(layout.views(chosen)), density)

    def _training(self, ticket: Ticket | None, density: float = 0.5) -> float:
        with on_threads(self.config.threads):
            cell = Cell.prepare(replace(self.config, density=density))
        trainer = cell.trainer(MemoryStore(), Silent())
        watch = Stopwatch(trainer.setup.feed, self.cell.runtime.device)
        setup = replace(trainer.setup, feed=watch, held_out=None)
        with on_threads(self.config.threads), suppress(Enough):
            fit(setup, State.of(self.cell.model), self.config.training.epochs, MemoryEntry(), "forecast", ticket)
        return watch.step or 0.0

    @cache  # noqa: B019 - as long as the measurement
    def search_step(self, finder: Any) -> tuple[float, float]:
        """Return the seconds of a step of a finder's own, and of a sample that its teacher sees."""
        samples = needs_of(finder).samples
        if self.step > TOO_LONG or not isinstance(finder, Finder):
            step = self.step * samples / self.config.batch_size
            return step, step / samples / 3  # forward alone
        problem, watch, trained = self._problem(finder)
        with on_threads(self.config.threads), seeded(0, "forecast", device=self.cell.search_runtime.device):
            since = time.perf_counter()
            with suppress(Enough):
                self._settled(finder, problem).draw(replace(problem, feed=watch), 0.5)
            taken = time.perf_counter() - since
        found = watch.step or trained.step
        # What is over before two batches were asked for is one step in all.
        return taken if found is None else found, watch.teaching

    def _problem(self, finder: Finder) -> tuple[Problem, Stopwatch, Stopwatch]:
        """Return the problem of a finder's draw, and what measures its batches and those of its trainings."""
        cell = self.cell
        trainer = cell.trainer(MemoryStore(), Silent())
        trained = Stopwatch(trainer.setup.feed, cell.runtime.device)
        trainer.setup = replace(trainer.setup, feed=trained, held_out=None)
        start = State.of(cell.model)
        problem = replace(cell.problem(start, MemoryStore(), Silent(), trainer), store=MemoryStore())
        feed = cell.splits.train.feed(needs_of(finder).samples, 0, "forecast")
        return problem, Stopwatch(feed, cell.search_runtime.device), trained

    def _settled(self, finder: Any, problem: Problem) -> Any:
        """Return a finder with what it minimises once the network has learned something."""
        if getattr(finder, "objective", ...) is None and self.config.draw_at != "init":
            finder = replace(finder, objective=ReverseKL())
        return finder.settled(problem) if hasattr(finder, "settled") else finder

    @cached_property
    def evaluation(self) -> float:
        """Seconds of evaluating one sample."""
        cell, split = self.cell, self.cell.splits.test
        samples = min(split.at_once, len(split))
        feed = split.feed(samples, 0, "evaluation", shuffle=False)
        since = time.perf_counter()
        with on_threads(self.config.threads):
            model = cell.runtime.place(cell.initial_model(0, "forecast"))
            evaluate(model, cell.task, _First(feed), cell.runtime)
        return (time.perf_counter() - since) / samples

    @cached_property
    def writing(self) -> float:
        """Seconds of writing a file as large as the network's weights through to the disk, a temporary one."""
        size = 4 * sum(parameter.numel() for parameter in self.cell.model.parameters())
        with tempfile.TemporaryDirectory() as place:
            since = time.perf_counter()
            write_bytes(Path(place) / "weights", bytes(size))
            return time.perf_counter() - since


class _First:
    """The first batch of a feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @property
    def length(self) -> int:
        """One."""
        return 1

    def epoch(self, number: int, skip: int = 0) -> Iterator[Item]:
        """Give it."""
        yield from islice(self._feed.epoch(number, skip), 1)

    def remember(self, compute: Compute) -> OutputTable | None:
        """Nothing."""
        return None
