"""Networks on made-up images, set up as tombola sets them up, and the steps that are timed."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from tombola.controllers import GradBalance
from tombola.data import ArrayFeed, Arrays, FlipCrop, Item, forever
from tombola.finders.cts import drop
from tombola.finders.search import Plan, Search
from tombola.masking import survey
from tombola.models import build
from tombola.network import FrozenNetwork
from tombola.objectives import Objective, objective_named
from tombola.problem import Problem
from tombola.progress import Silent
from tombola.runtime import Runtime
from tombola.store import MemoryStore
from tombola.task import Task
from tombola.teacher import make_teacher
from tombola.training import Lesson, Recipe, State, fit


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

    def train(self, steps: int) -> None:
        """Take steps of the project's own dense training: augmentation, clipping, SGD."""
        rows = torch.arange(steps * self.batch) % len(self.arrays)
        feed = ArrayFeed(self.arrays.take(rows), self.batch, augmentation=FlipCrop())
        recipe = Recipe(epochs=1, learning_rate=0.01, clip_norm=2.0)
        lesson = Lesson(self.model, Task(), feed, None, recipe, self.runtime, 0, Silent())
        fit(lesson, State.of(self.model), 1, MemoryStore().stage("dense", {}), "dense training")

    def search(self, objective: Objective, density: float = 0.01) -> "Steps":
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
        plan = Plan(objective, GradBalance(), density, 1_000_000, 0.1, drop, 2 / 3, 1e-8, "concrete", ())
        return Steps(Search(problem, plan, network, teacher), forever(feed))

    def images(self) -> Tensor:
        """Return one batch, normalised, on the device."""
        return self.arrays.normalise(self.arrays.inputs[: self.batch]).to(self.runtime.device)


@dataclass
class Steps:
    """A search and where its batches come from."""

    search: Search
    items: Iterator[Item]

    def take(self, steps: int) -> None:
        """Take some steps."""
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


# An objective that runs no network: what is left of a step is sampling, balance and Adam.
ARITHMETIC = Objective("arithmetic", lambda view: _Given.apply(view.mask, view.network.weights), forward=0, backward=0)
REVERSE_KL, GRAD_NORM, GRAD_MATCH = map(objective_named, ("reverse-kl", "grad-norm", "grad-match"))
