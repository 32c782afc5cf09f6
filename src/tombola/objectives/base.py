"""Objective: a part that gives a number for a masked network, minimised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from tombola.core.double_backward import explained_twice
from tombola.core.parts import Part, guarded, written_name
from tombola.core.plugins import code_of
from tombola.errors import UsageError
from tombola.networks.network import FrozenNetwork
from tombola.networks.shares import Portion
from tombola.networks.task import Batch
from tombola.objectives.masked_batch import MaskedBatch


@dataclass(frozen=True)
class Objective(Part):
    """What makes a mask good: R of a masked network f_z, minimised.

    asks_outputs, asks_network: whether it looks at the dense network's outputs, or at what lies inside it. asks_task:
    which parts of the task it uses. forward, backward: passes that one value and its gradient take, the dense network's
    outputs not counted. over: what its value is a mean over, so that it can be divided over processes: what the task
    counts, or samples; or "batch" where it is no mean, and is made of `masked.mean` and `masked.gradient`.
    """

    asks_outputs: ClassVar[bool] = False
    asks_network: ClassVar[bool] = False
    asks_task: ClassVar[tuple[str, ...]] = ("loss",)
    forward: ClassVar[int] = 1
    backward: ClassVar[int] = 1
    over: ClassVar[str] = "counted"

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return R, a scalar, differentiable in the mask."""
        raise NotImplementedError

    def check(self, network: FrozenNetwork, batch: Batch) -> None:
        """Raise UsageError where the objective cannot look at a network, which takes such batches."""


def value_of(objective: Objective, masked: MaskedBatch) -> Tensor:
    """Return R of a batch; raises UsageError where an objective of the user's own fails, or gives no such number."""
    with guarded("objective", objective):
        value = objective(masked)
    if not isinstance(value, Tensor) or value.dim():
        got = f"one of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        words = "must return a scalar, a tensor without dimensions such as .mean() gives"
        raise UsageError(f"{written_name(objective)!r} {words}, got {got}", option="objective")
    return _OF_THE_BATCH[objective.over](masked.portion, value)


_OF_THE_BATCH: Mapping[str, Callable[[Portion, Tensor], Tensor]] = {
    "counted": Portion.mean,
    "samples": Portion.mean_of_samples,
    "batch": lambda portion, value: value,
}


@explained_twice()
def gradient_of(objective: Objective, masked: MaskedBatch) -> tuple[Tensor, Tensor]:
    """Return R of a batch and ∂R/∂z (d,), z being the mask, a leaf; raises UsageError like `value_of`."""
    value = value_of(objective, masked)
    if not value.requires_grad:
        words = "must return what depends on the mask: on masked.sparse or masked.mask, not detached"
        raise UsageError(f"{written_name(objective)!r} {words}", option="objective")
    with guarded("objective", objective):
        return value, masked.portion.gradient(value, masked.mask)


@dataclass(frozen=True)
class OwnObjective(Objective):
    """An objective that is a function of a MaskedBatch, of the user's own: MODULE:FUNCTION.

    It may ask the dense network for its outputs (`masked.dense`).
    """

    name: str = ""  # type: ignore[misc]
    function: Callable[[MaskedBatch], Tensor] | None = field(default=None, repr=False, compare=False)
    code: str = field(default="", compare=False)
    asks_outputs: ClassVar[bool] = True
    asks_task: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> "OwnObjective":
        """Return the objective of a function and its MODULE:FUNCTION."""
        return cls(name, function, code_of(function))

    def __call__(self, masked: MaskedBatch) -> Tensor:
        """Return the function's value."""
        assert self.function is not None
        return self.function(masked)
