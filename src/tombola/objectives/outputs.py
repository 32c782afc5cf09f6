"""Objectives that compare outputs: loss, delta-loss, reverse-kl, forward-kl."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tombola.objectives.base import Objective
from tombola.objectives.masked_batch import MaskedBatch


@dataclass(frozen=True)
class Loss(Objective):
    """The task's loss of f_z."""

    name: ClassVar[str] = "loss"

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return loss(f_z)."""
        return masked.task.loss(masked.sparse, masked.batch)


@dataclass(frozen=True)
class DeltaLoss(Objective):
    """How much the loss changes."""

    name: ClassVar[str] = "delta-loss"
    asks_outputs: ClassVar[bool] = True
    over: ClassVar[str] = "batch"

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return |loss(f_z) / loss(f) - 1|."""
        sparse, dense = (masked.task.loss(output, masked.batch) for output in (masked.sparse, masked.dense))
        return (masked.mean(sparse) / masked.mean(dense) - 1).abs()


@dataclass(frozen=True)
class ReverseKL(Objective):
    """How far f_z strays from f, where f_z is sure."""

    name: ClassVar[str] = "reverse-kl"
    asks_outputs: ClassVar[bool] = True
    asks_task: ClassVar[tuple[str, ...]] = ("divergence",)

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return KL( softmax f_z || softmax f ), batch mean."""
        return masked.task.divergence(masked.sparse, masked.dense, masked.batch)


@dataclass(frozen=True)
class ForwardKL(Objective):
    """How far f_z strays from f, where f is sure."""

    name: ClassVar[str] = "forward-kl"
    asks_outputs: ClassVar[bool] = True
    asks_task: ClassVar[tuple[str, ...]] = ("divergence",)

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return KL( softmax f || softmax f_z ), batch mean."""
        return masked.task.divergence(masked.dense, masked.sparse, masked.batch)
