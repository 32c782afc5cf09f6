"""fit(): the one training loop, resumable at any step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tombola.cost import Cost, Meter
from tombola.data import Feed
from tombola.errors import SearchError, UsageError
from tombola.evaluation import evaluate
from tombola.identity import digest_tensors
from tombola.network import load_weights
from tombola.progress import Progress
from tombola.runtime import Runtime
from tombola.seeds import seeded
from tombola.store import Stage
from tombola.task import Task, batch_size
from tombola.ticket import Ticket


@dataclass(frozen=True)
class Recipe:
    """How networks are trained: SGD, the learning rate divided by ten at each milestone.

    epochs: of the whole training. milestones: epochs after which the learning rate drops.
    """

    epochs: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("epochs", isinstance(self.epochs, int) and self.epochs >= 1, "a whole number of at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "not negative"),
        ):
            if not holds:
                raise UsageError(f"recipe: {name} must be {allowed}, got {getattr(self, name)!r}")

    def learning_rate_in(self, epoch: int) -> float:
        """Return the learning rate of one epoch, counted from 0."""
        return self.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class State:
    """A network's values at some point of training.

    tensors: its state_dict. epoch: how many epochs of training are behind it. cost: what it took from θ₀ on.
    """

    tensors: Mapping[str, Any]
    epoch: int = 0
    cost: Cost = Cost()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors."""
        return digest_tensors(self.tensors)

    @classmethod
    def of(cls, model: nn.Module, epoch: int = 0, cost: Cost | None = None) -> "State":
        """Copy a model's values."""
        values = {
            name: value.detach().clone().cpu() if isinstance(value, torch.Tensor) else value
            for name, value in model.state_dict().items()
        }
        return cls(values, epoch, cost or Cost())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for the store."""
        return {"tensors": dict(self.tensors), "epoch": self.epoch, "cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "State":
        """Read what `to_dict` wrote."""
        return cls(values["tensors"], values["epoch"], Cost(**values["cost"]))


@dataclass(frozen=True)
class Lesson:
    """Everything that trainings of one network on one set of data share."""

    model: nn.Module
    task: Task
    feed: Feed
    held_out: Feed | None
    recipe: Recipe
    runtime: Runtime
    seed: int
    progress: Progress


def fit(lesson: Lesson, start: State, until: int, stage: Stage, title: str, ticket: Ticket | None = None) -> State:
    """Train from a state to the end of epoch `until`, dense or under a ticket, and return the new state.

    The stage keeps checkpoints and one row of metrics an epoch; a checkpoint found there is continued, bit for bit.
    Raises SearchError when the loss is no longer finite.
    """
    if until > lesson.recipe.epochs:
        raise UsageError(f"epoch {until} lies beyond the training's {lesson.recipe.epochs} epochs")
    with seeded(lesson.seed, "training"):
        loop = _Loop(lesson, start, ticket)
        loop.restore(stage.resume())
        with lesson.progress.track(title, until - start.epoch, loop.epoch - start.epoch) as tracker:
            while loop.epoch < until:
                loop.run_epoch(stage)
                row = loop.finish_epoch(title)
                stage.record(row)
                tracker.update(loop.epoch - start.epoch, _note(row))
        stage.checkpoint(loop.state())
        return State.of(loop.model, until, start.cost + loop.meter.read())


def _note(row: Mapping[str, Any]) -> str:
    held_out = row["held_out_metric"]
    return f"loss {row['loss']:.3f}" + ("" if held_out is None else f", held-out {100 * held_out:.1f} %")


class _Loop:
    """The state of one training, all of it in one place."""

    def __init__(self, lesson: Lesson, start: State, ticket: Ticket | None) -> None:
        self._lesson = lesson
        self.model = lesson.runtime.place(load_weights(lesson.model, start.tensors)).train()
        recipe = lesson.recipe
        self._optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        if ticket is not None:
            ticket.attach(self.model, self._optimizer)
        self.epoch = start.epoch
        self.meter = Meter()
        self._position = 0
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._samples = 0

    def state(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        cuda = self._lesson.runtime.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch": self.epoch,
            "position": self._position,
            "loss_sum": self._loss_sum,
            "samples": self._samples,
            "generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state() if cuda else None,
            "cost": self.meter.read().to_dict(),
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Continue from an earlier `state()`."""
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch, self._position = state["epoch"], state["position"]
        self._loss_sum, self._samples = state["loss_sum"].clone(), state["samples"]
        torch.set_rng_state(state["generator"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"])
        self.meter = Meter(Cost(**state["cost"]))

    def run_epoch(self, stage: Stage) -> None:
        """Take the steps that are left in the present epoch."""
        lesson = self._lesson
        for group in self._optimizer.param_groups:
            group["lr"] = lesson.recipe.learning_rate_in(self.epoch)
        for item in lesson.feed.epoch(self.epoch, self._position):
            batch = lesson.runtime.move(item.batch)
            with lesson.runtime.autocast():
                output = lesson.task.forward(self.model, batch)
            loss = lesson.task.loss(output, batch)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._count(batch_size(batch), loss)
            if stage.due():
                stage.checkpoint(self.state())

    def _count(self, samples: int, loss: torch.Tensor) -> None:
        self._position += 1
        self._samples += samples
        self._loss_sum += loss.detach().double().cpu() * samples
        self.meter.count(forward=samples, backward=samples)

    def finish_epoch(self, title: str) -> dict[str, Any]:
        """Close the epoch and return its row of metrics."""
        lesson = self._lesson
        if not self._samples:
            raise UsageError("training data gave no batch")
        loss = float(self._loss_sum) / self._samples
        if not math.isfinite(loss):
            raise SearchError(
                f"{title}: the loss is {loss} in epoch {self.epoch + 1}; lower the learning rate "
                f"(it is {lesson.recipe.learning_rate})"
            )
        held_out = None
        if lesson.held_out is not None:
            held_out = evaluate(self.model, lesson.task, lesson.held_out, lesson.runtime)
        row = {
            "stage": title,
            "epoch": self.epoch + 1,
            "learning_rate": lesson.recipe.learning_rate_in(self.epoch),
            "loss": loss,
            "held_out_loss": held_out and held_out.loss,
            "held_out_metric": held_out and held_out.metric,
        }
        self.epoch, self._position, self._samples = self.epoch + 1, 0, 0
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        return row
