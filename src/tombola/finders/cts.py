"""Concrete Ticket Search (Arora and Teuscher, arXiv 2512.07142)."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from tombola.core import concrete
from tombola.core.concrete import Relaxation, relaxation_option
from tombola.core.controllers import Controller, Figures, controller_option, settled
from tombola.core.cost import Cost, Meter
from tombola.core.parts import COUNT, POSITIVE, one_of, option, written_name
from tombola.core.schedules import one_cycle
from tombola.core.selection import Density, Selection
from tombola.data import Item
from tombola.errors import SearchError
from tombola.finders import diagnostics
from tombola.finders.balance import far, holding, start_logits
from tombola.finders.base import Drawn, Needs, gated_beside, search_batch_size
from tombola.finders.drawing import drawn
from tombola.finders.objective_finder import ObjectiveFinder, check_objective
from tombola.finders.problem import Problem
from tombola.finders.search import RECORD_EVERY, run_steps
from tombola.finders.steering import arithmetic, steering
from tombola.networks.network import FrozenNetwork
from tombola.networks.shares import share_of
from tombola.networks.teacher import Teacher, is_informed, make_teacher
from tombola.objectives import MaskedBatch, Objective, gradient_of, value_of

T = TypeVar("T")

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
    "constant": SearchSchedule(lambda steps: 0.1, lambda step, steps: 1.0),
}
# The published search: of the paper's later code, and of the result files, whose logits were scaled by τ.
PUBLISHED = {
    "controller": "gradbalance",
    "lr_schedule": "drop",
    "learning_rate": 0.1,
    "epsilon": 1e-10,
    "batch_size": 512,
    "teacher": "batch",
}
PUBLISHED_FILES = {**PUBLISHED, "lr_schedule": "constant", "learning_rate": 0.15}


@dataclass(frozen=True)
class CTS(ObjectiveFinder):
    """Weights stay frozen; one logit a weight is trained so that masks sampled from it serve the objective.

    epsilon: published runs multiply most objectives by 100, which to Adam is an epsilon of 1e-10, and matters where
    millions of weights share a gradient. batch_size: masks are noisier than batches, so that more samples a step cost
    more and find no better tickets.
    """

    name: ClassVar[str] = "cts"
    divides: ClassVar[bool] = True
    version: ClassVar[int] = 7
    # Settings by one name each, so that nobody forgets a piece.
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": PUBLISHED,
        "published-files": PUBLISHED_FILES,
    }
    steps: int = option(1960, "length of the search", must=COUNT, group="search")
    controller: Controller = controller_option()
    learning_rate: float | None = option(
        None,
        "learning rate of the logits, gates or scores, at its highest",
        must=POSITIVE,
        flag="search-learning-rate",
        unset="588/steps, at most 1, with one-cycle, or 0.1",
        group="search",
    )
    lr_schedule: str = option(
        "one-cycle",
        "how that of cts moves: one-cycle, drop (as published: by ten, for the last fifth), constant",
        must=one_of(SEARCH_SCHEDULES),
        flag="search-lr-schedule",
        group="search",
    )
    relaxation: Relaxation = relaxation_option()
    epsilon: float = option(1e-8, "epsilon of Adam on the logits", must=POSITIVE, flag="search-epsilon", group="search")
    batch_size: int = search_batch_size(64)
    teacher: str = option(
        "running",
        "statistics by which the dense network normalises when it is asked: running (its own), or batch (as published)",
        must=one_of(("running", "batch")),
        group="search",
    )

    @classmethod
    def published(cls, **settings: Any) -> "CTS":
        """Return the published search, with further settings."""
        return cls(**{**PUBLISHED, **settings})

    @property
    def schedule(self) -> SearchSchedule:
        """How the learning rate moves."""
        return SEARCH_SCHEDULES[self.lr_schedule]

    def needs(self) -> Needs:
        """Return what it needs of a run."""
        asks = self.objective is None or self.objective.asks_outputs
        return replace(super().needs(), samples=self.batch_size, batches=self.steps, teacher=asks)

    def settled(self, problem: Problem) -> Self:
        """Return the same search with objective, learning rate and controller written out."""
        found = super().settled(problem)
        peak = self.schedule.peak(self.steps) if self.learning_rate is None else self.learning_rate
        controller = settled(self.controller, found.settled_objective.name)
        return replace(found, learning_rate=peak, controller=controller)

    def teach(self, problem: Problem) -> None:
        """Have the store keep the network's outputs, where the objective asks for them."""
        self.settled(problem)._teacher(problem, problem.network())

    def draw(self, problem: Problem, density: Density) -> Drawn:
        """Return the ticket of one density."""
        finder = self.settled(problem)
        model, beside = problem.network(), gated_beside(finder, problem)
        network = FrozenNetwork(model, problem.layout, problem.task, problem.runtime, shared=True, beside=beside)
        network.use_batch_statistics()
        teacher = finder._teacher(problem, model)
        check_objective(finder.settled_objective, problem, teacher)
        search = Search(finder, problem, finder.selection(problem, density), network, teacher)
        run_steps(search, finder.steps, problem, finder.settled_objective.name)
        return finder._finish(search, problem, density)

    def arithmetic(self, count: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return what an identity holds of how so many logits are computed."""
        return arithmetic(self.relaxation, self.controller, count, device, dtype)

    def holding(self) -> dict[str, Any]:
        """Return what an identity holds of how layers are held where nothing is to be chosen."""
        return holding(self.relaxation)

    def _teacher(self, problem: Problem, model: nn.Module) -> Teacher | None:
        """Return what gives the dense network's outputs, where they are asked for. model: it, a private copy."""
        objective = self.settled_objective
        if not (objective.asks_outputs or objective.asks_network):
            return None
        teacher = make_teacher(
            model,
            problem.layout,
            problem.task,
            problem.feed,
            problem.runtime,
            objective.asks_outputs,
            problem.teacher_entry(),
            by_batch=self.teacher == "batch",
            shared=True,
        )
        problem.progress.say(f"teacher: {teacher.how}")
        return teacher

    def _finish(self, search: "Search", problem: Problem, density: Density) -> Drawn:
        """Cut: keep the k largest logits, and look at what that made of the soft masks."""
        mask, cost, logits, rows = search.top(), search.meter.read(), search.logits, problem.entry.rows()
        groups = search.selection.groups
        seen = problem.probe_batches()
        unseen = list(islice(problem.held_out.epoch(0), diagnostics.BATCHES)) if problem.held_out else []
        findings = diagnostics.SearchFindings(
            name=self.settled_objective.name,
            first=diagnostics.window_mean(rows, "objective", last=False),
            soft=diagnostics.window_mean(rows, "objective", last=True),
            hard=search.hard_value(mask, seen),
            held_out=search.hard_value(mask, unseen, unseen=True) if unseen else None,
            expected_density=concrete.expected_density(logits, groups.sizes),
            hard_density=concrete.hard_density(logits, groups.sizes),
        )
        warnings = diagnostics.search_signs(findings, search.selection.kept / problem.layout.total, rows)
        warnings += self._uninformed(problem)
        warnings += diagnostics.cut_paths(search.network, mask, problem.feed, problem.runtime)
        return drawn(
            self,
            problem,
            density,
            mask,
            groups.expand(logits),
            cost,
            objective=asdict(findings),
            teacher=search.teacher.how if search.teacher else "",
            warnings=tuple(warnings),
        )

    def _uninformed(self, problem: Problem) -> list[str]:
        """Warn of a divergence from a network, not trained by us, that has learned nothing."""
        if problem.at not in {"init", "given"} or "divergence" not in self.settled_objective.asks_task:
            return []
        try:
            informed = is_informed(problem.network(), problem.layout, problem.task, problem.feed, problem.runtime)
        except Exception:  # noqa: BLE001 - a divergence needs no targets, and data for it may have none
            return []
        return diagnostics.uninformed(self.settled_objective.name) if informed is False else []


class Search:
    """One Concrete Ticket Search under way: logits that are steered, and what is recorded.

    finder: with its objective and learning rate written out.
    """

    def __init__(
        self, finder: CTS, problem: Problem, selection: Selection, network: FrozenNetwork, teacher: Teacher | None
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
        looked_at = [figures["task_norm"], float(self._value_sum)]
        if not torch.isfinite(torch.tensor(looked_at, dtype=torch.float32, device="cpu")).all():
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
        name = written_name(self._objective_part)
        broken = (~torch.isfinite(gradient)).nonzero()
        where = f"the gradient of {name} is not finite"
        if len(broken):
            index = int(broken[0])
            layer = self.selection.groups.layout().name_at(index)
            where = f"the gradient of {name} is {float(gradient[index])} in layer {layer}"
        return f"the search broke down by step {self.step}: {where}; check the model's weights and the data for NaN"


def _floats(figures: Figures) -> dict[str, float]:
    return {key: float(each) for key, each in figures.items()}
