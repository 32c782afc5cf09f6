"""Networks on made-up images, set up as tombola sets them up, and the steps that are timed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tombola.core.controllers import Controller, ProportionalBalance
from tombola.core.progress import Silent
from tombola.core.seeds import seeded
from tombola.core.selection import Selection
from tombola.data import ArrayFeed, Arrays, FlipCrop, Item, forever
from tombola.finders import CTS, steering
from tombola.finders.cts import Search
from tombola.finders.problem import Problem
from tombola.networks.masking import survey
from tombola.networks.models import build
from tombola.networks.network import FrozenNetwork
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.networks.teacher import make_teacher
from tombola.objectives import GradMatch, GradNorm, MaskedBatch, Objective, ReverseKL
from tombola.storage.store import MemoryStore
from tombola.training import Recipe, State, TrainingCallback, TrainingSetup
from tombola.training.loop import Loop

PROPORTIONAL = ProportionalBalance()


@contextmanager
def without_numba() -> Iterator[None]:
    """Set up searches inside the block as where numba is not installed."""
    with patch.object(steering, "numba_works", lambda: False):
        yield


@dataclass(frozen=True)
class Case:
    """A network and images. batch: samples a step. device: where tombola is to run it."""

    model: nn.Module
    arrays: Arrays
    batch: int
    device: str = "cpu"

    @classmethod
    def make(
        cls, name: str, shape: tuple[int, int, int], classes: int, batch: int, batches: int, device: str = "cpu"
    ) -> "Case":
        """Return a network by name on random images (channels, height, width), so many batches of them."""
        torch.manual_seed(0)
        count = batch * batches
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
        arrays = Arrays(images, torch.randint(classes, (count,)), (0.5,) * shape[0], (0.25,) * shape[0])
        return cls(build(name, shape, classes), arrays, batch, device)

    @classmethod
    def of_weights(cls, count: int) -> "Case":
        """Return a linear layer of so many weights, to be searched with ARITHMETIC, which never runs it."""
        classes = 10
        images = torch.zeros(1, 1, 1, count // classes, dtype=torch.uint8)
        model = nn.Sequential(nn.Flatten(), nn.Linear(count // classes, classes, bias=False))
        return cls(model, Arrays(images, torch.zeros(1, dtype=torch.int64), (0.5,), (0.25,)), 1)

    @property
    def runtime(self) -> Runtime:
        """Where tombola would run it here."""
        return Runtime.choose(self.model, self.device)

    def training(self) -> "TrainingSteps":
        """Return the project's own dense training under way: augmentation, clipping, SGD."""
        feed = ArrayFeed(self.arrays.take(torch.arange(self.batch)), self.batch, augmentation=FlipCrop())
        recipe = Recipe(epochs=1_000_000, learning_rate=0.01, clip_norm=2.0)
        setup = TrainingSetup(self.model, Task(), feed, None, recipe, self.runtime, 0, Silent())
        return TrainingSteps(Loop(setup, State.of(self.model), None, TrainingCallback()), self.runtime.device)

    def search(
        self, objective: Objective, density: float = 0.01, controller: Controller = PROPORTIONAL
    ) -> "SearchSteps":
        """Return a search under way."""
        layout = survey(self.model).layout
        feed = ArrayFeed(self.arrays, self.batch)
        problem = Problem(
            model=self.model,
            layout=layout,
            task=Task(),
            feed=feed,
            weights=State.of(self.model),
            seed=0,
            runtime=self.runtime,
        )
        network = FrozenNetwork(copy.deepcopy(self.model), layout, Task(), self.runtime)
        network.use_batch_statistics()
        asks = objective.asks_outputs or objective.asks_network
        teacher = make_teacher(self.model, layout, Task(), feed, self.runtime, objective.asks_outputs) if asks else None
        finder = CTS(objective=objective, steps=1_000_000, controller=controller, learning_rate=0.1, lr_schedule="drop")
        search = Search(finder, problem, Selection(layout, density), network, teacher)
        return SearchSteps(search, forever(feed), self.runtime.device)

    def images(self) -> Tensor:
        """Return one batch, normalised, on the device."""
        return self.arrays.normalise(self.arrays.inputs[: self.batch]).to(self.runtime.device)


@dataclass
class TrainingSteps:
    """A training whose epochs are one batch long, so that the set-up of a training is no part of a step."""

    loop: Loop
    device: torch.device

    def take(self, steps: int) -> None:
        """Take some steps, as `fit` does."""
        with seeded(0, "benchmark", device=self.device):
            for _ in range(steps):
                self.loop.run_epoch(MemoryStore().entry("dense", {}))
                self.loop.finish_epoch("dense training")


@dataclass
class SearchSteps:
    """A search and where its batches come from."""

    search: Search
    items: Iterator[Item]
    device: torch.device

    def take(self, steps: int) -> None:
        """Take some steps, as `run_steps` does."""
        with seeded(0, "benchmark", device=self.device):
            for item in islice(self.items, steps):
                self.search.advance(item)


class _Given(torch.autograd.Function):
    """A value whose gradient is there already."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return mask.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


@dataclass(frozen=True)
class Arithmetic(Objective):
    """Runs no network: what is left of a step is sampling, balance and Adam."""

    forward: ClassVar[int] = 0
    backward: ClassVar[int] = 0

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return 0, with a gradient that is there already."""
        value: Tensor = _Given.apply(masked.mask, masked.network.weights)
        return value


ARITHMETIC, REVERSE_KL, GRAD_NORM, GRAD_MATCH = Arithmetic(), ReverseKL(), GradNorm(), GradMatch()
