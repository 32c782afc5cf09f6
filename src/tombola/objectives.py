"""What makes a mask good: objectives R of a masked network f_z, all minimised (arXiv 2512.07142)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from tombola.errors import UsageError
from tombola.network import FrozenNetwork
from tombola.task import Batch, Output, Task


@dataclass(frozen=True)
class View:
    """One batch, seen by the masked network and by the dense one.

    mask: the flat relaxed or hard mask z of (d,). teacher: gives f's output on this batch when it is wanted.
    """

    network: FrozenNetwork
    task: Task
    mask: Tensor
    batch: Batch
    teacher: Callable[[], Output]

    @cached_property
    def sparse(self) -> Output:
        """Output of f_z, differentiable in the mask."""
        return self.network.under(self.mask * self.network.weights, self.batch)

    @cached_property
    def dense(self) -> Output:
        """Output of f, without gradients."""
        return self.teacher()


@dataclass(frozen=True)
class Objective:
    """A named function of a View; `asks_teacher` says whether it looks at the dense network's outputs."""

    name: str
    value: Callable[[View], Tensor]
    asks_teacher: bool

    def __call__(self, view: View) -> Tensor:
        """Return R, a scalar."""
        return self.value(view)


def _loss(view: View) -> Tensor:
    return view.task.loss(view.sparse, view.batch)


def _reverse_kl(view: View) -> Tensor:
    return view.task.divergence(view.sparse, view.dense, view.batch)


def _forward_kl(view: View) -> Tensor:
    return view.task.divergence(view.dense, view.sparse, view.batch)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("loss", _loss, asks_teacher=False),
        Objective("reverse-kl", _reverse_kl, asks_teacher=True),
        Objective("forward-kl", _forward_kl, asks_teacher=True),
    )
}


def objective_named(name: str) -> Objective:
    """Return an objective by name; raises UsageError listing the known ones."""
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r} is unknown; allowed are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
