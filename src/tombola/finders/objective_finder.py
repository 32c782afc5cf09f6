"""What finders share that minimise an objective, or rank by one."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from tombola.core.parts import is_own, option, written_name
from tombola.data import Item, RowRange
from tombola.errors import UsageError
from tombola.finders.base import Finder, Needs
from tombola.finders.problem import Problem
from tombola.networks.network import FrozenNetwork, uses_batch_statistics
from tombola.networks.shares import rows_of
from tombola.networks.task import Batch
from tombola.networks.teacher import Teacher, usual_objective
from tombola.objectives import OBJECTIVES, MaskedBatch, Objective, value_of


def default_objective(problem: Problem) -> Objective:
    """Return what to minimise where nobody says: the loss while the network has learned nothing, else reverse KL."""

    def choose() -> str:
        return usual_objective(
            problem.network(), problem.layout, problem.task, problem.feed, problem.runtime, problem.progress
        )

    return OBJECTIVES.read(problem.runtime.ranks.given(choose))


# By what share an objective's value may differ from the mean over parts of a batch, for rounding.
_ROUNDING = 1e-2


@torch.no_grad()
def check_objective(objective: Objective, problem: Problem, teacher: Teacher | None) -> None:
    """Raise UsageError where ranks that divide a batch would make another objective of one of the user's own."""
    if problem.runtime.ranks.size == 1 or not is_own(objective) or objective.over == "batch":
        return
    network = FrozenNetwork(problem.network(), problem.layout, problem.task, problem.runtime)
    if any(uses_batch_statistics(each.model) for each in (network, *([teacher.network] if teacher else []))):
        return  # what parts of a batch are normalised by differs anyway, which the docs say
    item = next(iter(problem.feed.epoch(0)))
    samples = problem.task.samples(item.batch)
    cut = max(1, samples // 4)
    if samples < 2:
        return
    mask = torch.full_like(network.weights, 0.5)

    def value(part: Item) -> float:
        batch = problem.runtime.move(part.batch)
        return float(value_of(objective, MaskedBatch(network, problem.task, mask, part, batch, teacher)))

    parts = [rows_of(item, RowRange(*ends, samples), problem.task) for ends in ((0, cut), (cut, samples))]
    count = problem.task.samples if objective.over == "samples" else problem.task.counted
    counts = [count(part.batch) for part in parts]
    if not all(counts):
        return
    whole = value(item)
    together = sum(value(part) * each for part, each in zip(parts, counts, strict=True)) / sum(counts)
    if abs(whole - together) > _ROUNDING * max(abs(whole), 1e-6):
        raise UsageError(
            f"{written_name(objective)!r} cannot be divided over processes: of a batch it is {whole:.5g}, and the mean "
            f"over its parts is {together:.5g}; take one process, or put masked.mean(...) around the means that it is "
            'made of, in a class with over = "batch"',
            option="objective",
        )


@dataclass(frozen=True)
class ObjectiveFinder(Finder):
    """A finder with an objective."""

    objective: Objective | None = option(
        None,
        f"what the search minimises: {', '.join(OBJECTIVES)}, or my_module:function",
        family=OBJECTIVES,
        unset="loss while the network has learned nothing, else reverse-kl",
        group="search",
    )

    @property
    def settled_objective(self) -> Objective:
        """The objective, of a finder in which it is written out."""
        assert self.objective is not None
        return self.objective

    def check(self, network: FrozenNetwork, batch: Batch) -> None:
        """Raise UsageError where the objective cannot look at a network, which takes such batches."""
        if self.objective is not None:
            self.objective.check(network, batch)

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        asked = self.objective.asks_task if self.objective is not None else ("loss",)
        return replace(super().needs(), task=asked)

    def settled(self, problem: Problem) -> Self:
        """Return the same with the objective written out."""
        return replace(self, objective=self.objective or default_objective(problem))
