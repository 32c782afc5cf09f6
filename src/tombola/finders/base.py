"""What every finder does: draw tickets from a problem, one for each density."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from tombola import diagnostics
from tombola.cost import Cost
from tombola.problem import Problem
from tombola.ranking import count_kept
from tombola.seeds import seeded
from tombola.store import Stage
from tombola.ticket import Provenance, Ticket
from tombola.version import __version__


class Finder(Protocol):
    """A way of finding tickets: a frozen dataclass whose fields are its hyper-parameters."""

    name: ClassVar[str]

    def draw(self, problem: Problem, densities: Sequence[float]) -> Iterator[Ticket]:
        """Yield one ticket for each density, in (0, 1]."""


def describe(finder: Finder) -> dict[str, Any]:
    """Return a finder's name and fields, plain values; parts that are objects by name and fields too."""
    fields: dict[str, Any] = {"name": finder.name}
    for key, value in vars(finder).items():
        is_part = is_dataclass(value) and not isinstance(value, type)
        if is_part:
            value = {"name": getattr(value, "name", ""), **asdict(value)}
        fields[key] = list(value) if isinstance(value, tuple) else value
    return fields


def draw_each(
    finder: Finder,
    problem: Problem,
    densities: Sequence[float],
    draw: Callable[[float, Stage], Ticket],
    trains: bool = False,
) -> Iterator[Ticket]:
    """Yield a ticket for each density, drawn afresh unless the store has it already.

    trains: whether tickets depend on how the weights are trained from here on.
    """
    for density in densities:
        count_kept(density, problem.layout.total)
    for density in densities:
        stage = problem.draw_stage(describe(finder), density, trains)
        with stage.locked():
            kept = stage.get("ticket")
            if kept is None:
                with seeded(problem.seed, "draw", device=problem.runtime.device):
                    ticket = draw(density, stage)
                stage.put("ticket", _pack(ticket))
                stage.clear_checkpoint()
            else:
                ticket = _unpack(kept)
        yield ticket


def make_ticket(
    finder: Finder,
    problem: Problem,
    density: float,
    mask: Tensor,
    scores: Tensor,
    cost: Cost,
    **facts: Any,
) -> Ticket:
    """Return the ticket of a flat mask and flat scores, its provenance written out.

    cost: of the draw alone; facts: further fields of the provenance.
    """
    warnings = [*diagnostics.empty_layers(problem.layout.views(mask)), *facts.pop("warnings", ())]
    provenance = Provenance(
        finder=describe(finder),
        density=density,
        seed=problem.seed,
        version=__version__,
        architecture=problem.architecture,
        weights=problem.weights.digest,
        at=problem.at,
        epoch=None if problem.at == "given" else problem.weights.epoch,
        cost=problem.spent + cost,
        warnings=tuple(warnings),
        **facts,
    )
    views = problem.layout.views
    return Ticket(views(mask.cpu()), provenance, views(scores.detach().float().cpu()))


def full_ticket(finder: Finder, problem: Problem) -> Ticket:
    """Return the ticket that keeps everything; density 1 needs no search."""
    ones = torch.ones(problem.layout.total)
    return make_ticket(finder, problem, 1.0, ones.bool(), ones, Cost())


def _pack(ticket: Ticket) -> dict[str, Any]:
    return {
        "masks": dict(ticket),
        "scores": ticket.scores,
        "provenance": ticket.provenance.to_dict() if ticket.provenance else None,
    }


def _unpack(kept: dict[str, Any]) -> Ticket:
    provenance = kept["provenance"]
    return Ticket(kept["masks"], provenance and Provenance.from_dict(provenance), kept["scores"])
