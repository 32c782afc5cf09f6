"""Concrete Ticket Search (Arora and Teuscher, arXiv 2512.07142)."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, ClassVar

from tombola import concrete, diagnostics
from tombola.controllers import Controller, GradBalance
from tombola.errors import UsageError
from tombola.finders.base import draw_each, full_ticket, make_ticket
from tombola.finders.search import Plan, Search, run_steps
from tombola.network import FrozenNetwork
from tombola.objectives import objective_named
from tombola.problem import Problem
from tombola.store import Stage
from tombola.teacher import make_teacher
from tombola.ticket import Ticket

# Steps of the published searches, short and long (20 and 160 epochs of CIFAR), and when their learning rates drop.
PUBLISHED_DROPS = {1_960: 1_568, 15_680: 13_622}


@dataclass(frozen=True)
class CTS:
    """Weights stay frozen; one logit a weight is trained so that masks sampled from it serve the objective.

    objective: what the masked network should minimise, by name. steps: length of the search. controller: what holds
    the density. learning_rate: of Adam on the logits, divided by ten for the last fifth. temperature: τ of the
    binary Concrete distribution. relaxation: how masks are sampled, by name in concrete.RELAXATIONS; all but
    "concrete" are ablations. epsilon: of Adam; published runs multiply most objectives by 100, which to Adam is an
    epsilon of 1e-10, and matters where millions of weights share a gradient. features: for feature-mse, globs of the
    names of the modules whose outputs are compared; every nn.ReLU without any.
    """

    name: ClassVar[str] = "cts"
    objective: str = "reverse-kl"
    steps: int = 1960
    controller: Controller = GradBalance()
    learning_rate: float = 0.1
    temperature: float = concrete.TEMPERATURE
    epsilon: float = 1e-8
    relaxation: str = "concrete"
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        objective_named(self.objective)
        if not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        for name in ("learning_rate", "temperature", "epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} of the search must be a number above 0, got {getattr(self, name)!r}")
        if self.relaxation not in concrete.RELAXATIONS:
            allowed = ", ".join(concrete.RELAXATIONS)
            raise UsageError(f"relaxation {self.relaxation!r} is unknown; allowed are {allowed}")
        if isinstance(self.features, str):
            raise UsageError(f"features must be a tuple of patterns such as ('body.*',), got {self.features!r}")
        if isinstance(self.controller, type) or not hasattr(self.controller, "steer"):
            raise UsageError(f"controller must be an object such as tombola.GradBalance(), got {self.controller!r}")

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density, each from a search of its own."""
        return draw_each(self, problem, densities, lambda density, stage: self._draw_one(problem, density, stage))

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
        search.restore(stage.resume())
        run_steps(search, self.steps, problem, stage, self.objective)
        return self._finish(search, problem, stage.rows())

    def _plan(self, density: float) -> Plan:
        return Plan(
            objective=objective_named(self.objective),
            controller=self.controller,
            density=density,
            steps=self.steps,
            learning_rate=self.learning_rate,
            drop_at=PUBLISHED_DROPS.get(self.steps, self.steps * 4 // 5),
            temperature=self.temperature,
            epsilon=self.epsilon,
            relaxation=self.relaxation,
            features=tuple(self.features),
        )

    def _finish(self, search: Search, problem: Problem, rows: list[dict[str, Any]]) -> Ticket:
        """Cut: keep the k largest logits, and look at what that made of the soft masks."""
        mask, cost, logits = search.top(), search.meter.read(), search.logits.detach()
        seen = list(islice(problem.feed.epoch(0), diagnostics.BATCHES))
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
