"""The loop of Concrete Ticket Search, all of its state in one place, resumable at any step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from tombola import concrete
from tombola.controllers import Controller, Steering
from tombola.cost import Cost, Meter
from tombola.data import Item, forever
from tombola.errors import SearchError
from tombola.network import FrozenNetwork
from tombola.objectives import Objective, View
from tombola.problem import Problem
from tombola.ranking import count_kept, keep_top
from tombola.seeds import GlobalState, seeded
from tombola.store import Stage
from tombola.teacher import Teacher

RECORD_EVERY = 20


@dataclass(frozen=True)
class Plan:
    """What a search does: the constants of one draw."""

    objective: Objective
    controller: Controller
    density: float
    steps: int
    learning_rate: float
    schedule: Callable[[int, int], float]
    temperature: float
    epsilon: float
    relaxation: str
    features: tuple[str, ...]


class Steps(Protocol):
    """A search that goes on step by step."""

    step: int

    def advance(self, item: Item) -> dict[str, Any] | None:
        """Take one step on a batch; return a row of metrics when one is due."""

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""


def run_steps(search: Steps, steps: int, problem: Problem, stage: Stage, name: str = "loss") -> None:
    """Take the steps of a search, from where the stage's checkpoint left it; name: of its objective."""
    device = problem.runtime.device
    with seeded(problem.seed, "search", device=device):
        kept = stage.resume()
        if kept is not None:
            search.restore(kept)
            GlobalState.from_dict(kept["generators"]).restore(device)
        with problem.progress.track("search", steps, search.step) as tracker:
            for item in islice(forever(problem.feed, search.step), steps - search.step):
                row = search.advance(item)
                if row is not None:
                    stage.record(row)
                tracker.update(search.step, f"{name} {row['objective']:.4g}" if row else "")
                if stage.due():
                    stage.checkpoint({**search.state(), "generators": GlobalState.now(device).to_dict()})


class Search:
    """One search under way: logits, their optimiser, λ, the noise, and what is recorded."""

    def __init__(self, problem: Problem, plan: Plan, network: FrozenNetwork, teacher: Teacher | None) -> None:
        self._problem, self.plan, self.network, self.teacher = problem, plan, network, teacher
        total = problem.layout.total
        self.kept = count_kept(plan.density, total)
        self.logits = concrete.initial_logits(plan.density, total, network.weights).requires_grad_()
        self._optimizer = torch.optim.Adam([self.logits], lr=plan.learning_rate, eps=plan.epsilon, fused=True)
        relaxation = concrete.RELAXATIONS[plan.relaxation]
        self._sampler = concrete.Sampler(self.logits.detach(), relaxation, plan.temperature, problem.seed)
        self.step = 0
        self.meter = Meter(Cost(teacher.seconds, teacher.forward) if teacher else None)
        self._multiplier = 0.0
        self._value_sum = 0.0
        self._values = 0
        self._top: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""
        return {
            "logits": self.logits.detach(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "multiplier": self._multiplier,
            "value_sum": self._value_sum,
            "values": self._values,
            "top": self._top,
            "cost": self.meter.read().to_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._multiplier = state["step"], state["multiplier"]
        self._value_sum, self._values = state["value_sum"], state["values"]
        self._top = None if state["top"] is None else state["top"].to(self.logits.device)
        self.meter = Meter(Cost(**state["cost"]))

    def advance(self, item: Item) -> dict[str, Any] | None:
        """Take one step on a batch; return a row of metrics when one is due."""
        plan = self.plan
        mask = self._sampler.draw(self.step)
        value = self._objective(mask, item, self.teacher)
        task_gradient = self._sampler.pull(*torch.autograd.grad(value, mask))
        self._value_sum += float(value.detach())
        self._values += 1
        with torch.no_grad():
            steering = plan.controller.steer(
                self.logits, task_gradient, plan.density, self._multiplier, self._learning_rate()
            )
        if not torch.isfinite(torch.tensor([steering.task_norm, self._value_sum])).all():
            raise SearchError(self._breakdown(task_gradient))
        row = self._row(steering) if self.step % RECORD_EVERY == 0 or self.step == plan.steps - 1 else None
        self._multiplier = steering.multiplier
        self._optimizer.param_groups[0]["lr"] = self._learning_rate()
        self.logits.grad = steering.gradient
        self._optimizer.step()
        self.step += 1
        return row

    def _learning_rate(self) -> float:
        return self.plan.learning_rate * self.plan.schedule(self.step, self.plan.steps)

    def top(self) -> Tensor:
        """Return the flat mask of the k largest logits."""
        return keep_top(self.logits.detach(), self.kept)

    @torch.no_grad()
    def hard_value(self, mask: Tensor, items: list[Item], unseen: bool = False) -> float:
        """Return the objective of a hard mask, mean over some batches; `unseen` ones are not the search's own."""
        teacher = replace(self.teacher, recall=None) if unseen and self.teacher else self.teacher
        values = [float(self._objective(mask.to(self.logits.dtype), item, teacher)) for item in items]
        return sum(values) / len(values)

    def _objective(self, mask: Tensor, item: Item, teacher: Teacher | None) -> Tensor:
        batch = self._problem.runtime.move(item.batch)
        size = self._problem.task.samples(batch)
        objective = self.plan.objective
        before = teacher.forward if teacher else 0
        view = View(self.network, self._problem.task, mask, item, batch, teacher, self.plan.features)
        value = objective(view)
        recomputed = teacher.forward - before if teacher else 0
        self.meter.count(forward=size * objective.forward + recomputed, backward=size * objective.backward)
        return value

    def _row(self, steering: Steering) -> dict[str, Any]:
        """Return the figures of this step, taken before the logits move; the objective is averaged since the last."""
        logits = self.logits.detach()
        top = self.top()
        turnover = None if self._top is None else float((top & ~self._top).sum()) / self.kept
        self._top = top
        row = {
            "stage": "search",
            "step": self.step,
            "objective": self._value_sum / self._values,
            "expected_density": concrete.expected_density(logits),
            "hard_density": concrete.hard_density(logits),
            "density_error": steering.error,
            "multiplier": steering.multiplier,
            "task_norm": steering.task_norm,
            "density_norm": steering.density_norm,
            "logits_std": float(logits.std(correction=0)),
            "entropy": concrete.mean_entropy(logits),
            "turnover": turnover,
        }
        self._value_sum, self._values = 0.0, 0
        return row

    def _breakdown(self, gradient: Tensor) -> str:
        broken = (~torch.isfinite(gradient)).nonzero()
        where = f"the gradient of {self.plan.objective.name} is not finite"
        if len(broken):
            index = int(broken[0])
            where = (
                f"the gradient of {self.plan.objective.name} is {float(gradient[index])} "
                f"in layer {self._problem.layout.name_at(index)}"
            )
        return f"the search broke down at step {self.step}: {where}; check the model's weights and the data for NaN"
