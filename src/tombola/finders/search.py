"""Searches that go on step by step on frozen weights, and the loop of Concrete Ticket Search."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from tombola.core import concrete
from tombola.core.controllers import Figures
from tombola.core.cost import Cost, Meter
from tombola.core.seeds import GlobalState, seeded
from tombola.core.selection import Selection
from tombola.data import Item, forever
from tombola.errors import SearchError
from tombola.finders.balance import far, start_logits
from tombola.finders.problem import Problem
from tombola.finders.steering import steering
from tombola.networks.network import FrozenNetwork
from tombola.networks.shares import share_of
from tombola.networks.teacher import Teacher
from tombola.objectives import MaskedBatch, Objective, gradient_of, value_of

if TYPE_CHECKING:
    from tombola.finders.cts import CTS

RECORD_EVERY = 20
T = TypeVar("T")


class ResumableSearch(Protocol):
    """A search that goes on step by step."""

    step: int

    def advance(self, item: Item) -> dict[str, Any] | None:
        """Take one step on a batch; return a row of metrics when one is due."""

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""


def run_steps(search: ResumableSearch, steps: int, problem: Problem, name: str = "loss") -> None:
    """Take the steps of a search, from where the checkpoint of the problem's entry left it; name: of its objective."""
    device, entry = problem.runtime.device, problem.entry
    with seeded(problem.seed, "search", device=device):
        checkpoint = entry.resume()
        if checkpoint is not None:
            search.restore(checkpoint)
            GlobalState.from_dict(checkpoint["generators"]).restore(device)
            problem.progress.say(f"search: goes on at step {search.step} of {steps}")
        with problem.progress.track("search", steps, search.step) as tracker:
            for item in islice(forever(problem.feed, search.step), steps - search.step):
                row = search.advance(item)
                if row is not None:
                    entry.record(row)
                tracker.update(search.step, f"{name} {row['objective']:.4g}" if row else "")
                if entry.due():
                    entry.checkpoint({**search.state(), "generators": GlobalState.now(device).to_dict()})


class Search:
    """One Concrete Ticket Search under way: logits that are steered, and what is recorded.

    finder: with its objective and learning rate written out.
    """

    def __init__(
        self, finder: "CTS", problem: Problem, selection: Selection, network: FrozenNetwork, teacher: Teacher | None
    ) -> None:
        assert finder.learning_rate is not None
        self._finder, self._problem, self.network, self.teacher = finder, problem, network, teacher
        self.selection, self._objective_part, self._peak = selection, finder.settled_objective, finder.learning_rate
        start = start_logits(selection, concrete.logit, network.weights, far(finder.relaxation))
        self._steering = steering(selection, start, finder.relaxation, finder.controller, problem.seed, finder.epsilon)
        self.step = 0
        self.meter = Meter(Cost(teacher.seconds, teacher.forward) if teacher else None)
        self._value_sum = torch.zeros((), dtype=torch.float64, device=start.device)
        self._values = 0
        self._top: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """The logits a (g,)."""
        return self._steering.logits

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""
        return {
            **self._steering.state(),
            "step": self.step,
            "value_sum": self._value_sum,
            "values": self._values,
            "top": self._top,
            "cost": self.meter.read().to_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""
        self._steering.restore(state)
        self.step, self._values = state["step"], state["values"]
        self._value_sum = state["value_sum"].to(self.logits.device)
        self._top = None if state["top"] is None else state["top"].to(self.logits.device)
        self.meter = Meter(Cost(**state["cost"]))

    def advance(self, item: Item) -> dict[str, Any] | None:
        """Take one step on a batch; return a row of metrics when one is due."""
        mask = self._steering.mask(self.step)
        value, gradient = self._counted(gradient_of, mask, item, self.teacher)
        rate, share = self._learning_rate(), self.step / self._finder.steps
        figures = self._steering.weigh(gradient, lambda density: density, rate, share)
        with torch.no_grad():
            self._value_sum += value.detach()
            self._values += 1
        due = self.step % RECORD_EVERY == 0 or self.step == self._finder.steps - 1
        # Looked at only where a row is due: a look waits for the device.
        row = self._problem.runtime.ranks.given(lambda: self._row(_floats(figures))) if due else None
        self._steering.move(rate)
        self.step += 1
        return row

    def _learning_rate(self) -> float:
        return self._peak * self._finder.schedule.share(self.step, self._finder.steps)

    def top(self) -> Tensor:
        """Return the flat mask (d,) of the largest logits."""
        return self.selection.keep(self.logits)

    @torch.no_grad()
    def hard_value(self, mask: Tensor, items: list[Item], unseen: bool = False) -> float:
        """Return the objective of a hard mask, mean over some batches; `unseen` ones are not the search's own."""
        teacher = replace(self.teacher, table=None) if unseen and self.teacher else self.teacher
        mask = mask.to(self.logits.dtype)
        values = [float(self._counted(value_of, mask, item, teacher)) for item in items]
        return sum(values) / len(values)

    def _counted(
        self, look: Callable[[Objective, MaskedBatch], T], mask: Tensor, item: Item, teacher: Teacher | None
    ) -> T:
        """Return what is looked at of the objective on a batch, its samples counted."""
        problem, objective = self._problem, self._objective_part
        share = share_of(item, problem.task, problem.runtime)
        before = teacher.forward if teacher else 0
        masked = MaskedBatch(self.network, problem.task, mask, share.item, share.batch, teacher, share.portion)
        with problem.runtime.ranks.apart(problem.seed, "search", self.step, device=problem.runtime.device):
            found = look(objective, masked)
        recomputed = round((teacher.forward - before) * share.times) if teacher else 0
        self.meter.count(
            forward=share.samples * objective.forward + recomputed, backward=share.samples * objective.backward
        )
        return found

    def _row(self, figures: Mapping[str, float]) -> dict[str, Any]:
        """Return the figures of this step, taken before the logits move; the objective is averaged since the last.

        Raises SearchError where numbers have broken down since.
        """
        if not torch.isfinite(torch.tensor([figures["task_norm"], float(self._value_sum)], device="cpu")).all():
            raise SearchError(self._breakdown(self._steering.pulled()))
        logits, top, sizes = self.logits, self.top(), self.selection.groups.sizes
        turnover = None if self._top is None else int(torch.count_nonzero(top & ~self._top)) / self.selection.kept
        self._top = top
        row = {
            "stage": "search",
            "step": self.step,
            "objective": float(self._value_sum) / self._values,
            "expected_density": concrete.expected_density(logits, sizes),
            "hard_density": concrete.hard_density(logits, sizes),
            "density_error": figures["error"],
            **{key: value for key, value in figures.items() if key != "error"},
            "logits_std": float(logits.std(correction=0)),
            "entropy": concrete.mean_entropy(logits),
            "turnover": turnover,
        }
        self._value_sum, self._values = torch.zeros_like(self._value_sum), 0
        return row

    def _breakdown(self, gradient: Tensor) -> str:
        name = self._objective_part.name
        broken = (~torch.isfinite(gradient)).nonzero()
        where = f"the gradient of {name} is not finite"
        if len(broken):
            index = int(broken[0])
            layer = self.selection.groups.layout().name_at(index)
            where = f"the gradient of {name} is {float(gradient[index])} in layer {layer}"
        return f"the search broke down by step {self.step}: {where}; check the model's weights and the data for NaN"


def _floats(figures: Figures) -> dict[str, float]:
    return {key: float(each) for key, each in figures.items()}
