"""Concrete Ticket Search (Arora and Teuscher, arXiv 2512.07142)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, ClassVar

from tombola import concrete, diagnostics
from tombola.controllers import Controller, ProportionalBalance, check_controller
from tombola.errors import UsageError
from tombola.finders.base import draw_each, full_ticket, make_ticket
from tombola.finders.search import Plan, Search, run_steps
from tombola.network import FrozenNetwork
from tombola.objectives import objective_named
from tombola.problem import Problem
from tombola.schedules import one_cycle
from tombola.store import Stage
from tombola.teacher import make_teacher
from tombola.ticket import Ticket

# Steps of the published searches, short and long (20 and 160 epochs of CIFAR), and when their learning rates drop.
PUBLISHED_DROPS = {1_960: 1_568, 15_680: 13_622}
# Searches of any length let their logits travel as far, half of this product of peak and steps: far enough to open and
# close. Adam's steps are not to exceed 1.
REACH = 588.0
# One-cycle: the share of the search in which the learning rate rises. High rates at once settle on what a few noisy
# steps say.
RISE = 0.5


@dataclass(frozen=True)
class SearchSchedule:
    """How the learning rate of the logits moves.

    peak: the default of its largest value in a search of so many steps. share: of that, at a step, counted from 0.
    """

    peak: Callable[[int], float]
    share: Callable[[int, int], float]


def drop(step: int, steps: int) -> float:
    """Fall once, by ten, where the published searches do: for the last fifth of a short one."""
    return 0.1 if step >= PUBLISHED_DROPS.get(steps, steps * 4 // 5) else 1.0


SEARCH_SCHEDULES = {
    "one-cycle": SearchSchedule(
        lambda steps: min(1.0, REACH / steps), lambda step, steps: one_cycle(step / steps, RISE)
    ),
    "drop": SearchSchedule(lambda steps: 0.1, drop),
}


@dataclass(frozen=True)
class CTS:
    """Weights stay frozen; one logit a weight is trained so that masks sampled from it serve the objective.

    objective: what the masked network should minimise, by name. steps: length of the search. controller: what holds
    the density. learning_rate: of Adam on the logits, at its highest; by default what suits schedule and steps.
    lr_schedule: how it moves: "one-cycle", ours, or "drop", the published one. temperature: τ of the binary Concrete
    distribution. relaxation: how masks are sampled, by name in concrete.RELAXATIONS; all but "concrete" are ablations.
    epsilon: of Adam; published runs multiply most objectives by 100, which to Adam is an epsilon of 1e-10, and matters
    where millions of weights share a gradient. features: for feature-mse, globs of the names of the modules whose
    outputs are compared; every nn.ReLU without any.
    """

    name: ClassVar[str] = "cts"
    objective: str = "reverse-kl"
    steps: int = 1960
    controller: Controller = ProportionalBalance()
    learning_rate: float | None = None
    lr_schedule: str = "one-cycle"
    temperature: float = concrete.TEMPERATURE
    epsilon: float = 1e-8
    relaxation: str = "concrete"
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        objective_named(self.objective)
        if not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        for name, known in (("lr_schedule", SEARCH_SCHEDULES), ("relaxation", concrete.RELAXATIONS)):
            if getattr(self, name) not in known:
                allowed = ", ".join(known)
                raise UsageError(f"{name} {getattr(self, name)!r} of the search is unknown; allowed are {allowed}")
        for name in ("learning_rate", "temperature", "epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} of the search must be a number above 0, got {value!r}")
        if isinstance(self.features, str):
            raise UsageError(f"features must be a tuple of patterns such as ('body.*',), got {self.features!r}")
        check_controller(self.controller)

    def settled(self) -> "CTS":
        """Return the same search with its learning rate written out."""
        peak = SEARCH_SCHEDULES[self.lr_schedule].peak(self.steps) if self.learning_rate is None else self.learning_rate
        return replace(self, learning_rate=peak)

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density, each from a search of its own."""
        search = self.settled()
        return draw_each(search, problem, densities, lambda density, stage: search._draw_one(problem, density, stage))

    def _draw_one(self, problem: Problem, density: float, stage: Stage) -> Ticket:
        if density == 1:
            return full_ticket(self, problem)
        model, objective = problem.network(), objective_named(self.objective)
        network = FrozenNetwork(model, problem.layout, problem.task, problem.runtime)
        network.use_batch_statistics()
        teacher = None
        if objective.asks_outputs or objective.asks_network:
            teacher = make_teacher(
                model,
                problem.layout,
                problem.task,
                problem.feed,
                problem.runtime,
                objective.asks_outputs,
                problem.teacher_stage(),
            )
            problem.progress.say(f"teacher: {teacher.how}")
        search = Search(problem, self._plan(density), network, teacher)
        run_steps(search, self.steps, problem, stage, self.objective)
        return self._finish(search, problem, stage.rows())

    def _plan(self, density: float) -> Plan:
        assert self.learning_rate is not None
        return Plan(
            objective=objective_named(self.objective),
            controller=self.controller,
            density=density,
            steps=self.steps,
            learning_rate=self.learning_rate,
            schedule=SEARCH_SCHEDULES[self.lr_schedule].share,
            temperature=self.temperature,
            epsilon=self.epsilon,
            relaxation=self.relaxation,
            features=tuple(self.features),
        )

    def _finish(self, search: Search, problem: Problem, rows: list[dict[str, Any]]) -> Ticket:
        """Cut: keep the k largest logits, and look at what that made of the soft masks."""
        mask, cost, logits = search.top(), search.meter.read(), search.logits.detach()
        seen = problem.looked_at()
        unseen = list(islice(problem.held_out.epoch(0), diagnostics.BATCHES)) if problem.held_out else []
        outcome = diagnostics.Outcome(
            name=self.objective,
            first=diagnostics.window_mean(rows, "objective", last=False),
            soft=diagnostics.window_mean(rows, "objective", last=True),
            hard=search.hard_value(mask, seen),
            held_out=search.hard_value(mask, unseen, unseen=True) if unseen else None,
            expected_density=concrete.expected_density(logits),
            hard_density=concrete.hard_density(logits),
        )
        warnings = diagnostics.search_signs(outcome, search.plan.density, rows)
        warnings += diagnostics.cut_paths(search.network, mask, problem.feed, problem.runtime)
        return make_ticket(
            self,
            problem,
            search.plan.density,
            mask,
            logits,
            cost,
            objective=asdict(outcome),
            teacher=search.teacher.how if search.teacher else "",
            warnings=tuple(warnings),
        )
