"""What becomes of a finder's mask: a ticket that is checked, written out and kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tombola.core.cost import Cost
from tombola.core.parts import describe, guarded, identify, written_name
from tombola.core.ranking import kept_scores
from tombola.core.seeds import seeded
from tombola.core.selection import SCORES, Density, Selection
from tombola.errors import UsageError
from tombola.finders import diagnostics
from tombola.finders.base import (
    Drawn,
    Finder,
    check_divides,
    following,
    gated_beside,
    needs_of,
    selection_of,
    workings_of,
)
from tombola.finders.problem import Problem
from tombola.networks.network import FrozenNetwork
from tombola.ticket import Provenance, Ticket
from tombola.training import State
from tombola.version import __version__


def draw(finder: Any, problem: Problem, density: Density) -> Drawn:
    """Return a finder's ticket of one density, drawn afresh unless the store has it already.

    Raises UsageError for a density that keeps no weight, and for weights at which the finder cannot be drawn.
    """
    needs, problem = needs_of(finder), following(finder, problem)
    needs.check_at(written_name(finder), problem.at)
    ranks = problem.runtime.ranks
    check_divides(finder, ranks.size)
    selection = selection_of(finder, problem.layout, density)
    if selection.decided:
        return decided(finder, problem, density, selection)
    if needs.trains:
        epochs = problem.epochs  # raises where nothing trains
        if isinstance(finder, Finder):
            finder.check_epochs(problem.weights.epoch, epochs)
    with guarded("finder", finder):
        settled = finder.settled(problem) if hasattr(finder, "settled") else finder
    known = identify(settled) | workings_of(settled, selection, problem.model, problem.runtime.device)
    # Where only the recipe may train, weights and mask train together, always dense.
    entry = problem.draw_entry(known, density, needs.trains, needs.trains and needs.own_training)
    with entry.locked():
        stored = entry.get("ticket")
        if stored is None:
            with seeded(problem.seed, "draw", device=problem.runtime.device), _named(settled):
                found = settled.draw(replace(problem, entry=entry), density)
            found = _checked(settled, found, selection)
            if found.ticket.provenance is None:
                provenance = _provenance(settled, problem, density, found.start, Cost())
                found = replace(found, ticket=Ticket(found.ticket, provenance, found.ticket.scores))
            stored = _pack(found)
            if found.ticket.kept < selection.kept:
                whole = f"{found.ticket.kept:,} weights of {selection.kept:,} are kept: groups of them are whole"
                problem.progress.say(whole)
            entry.put("ticket", stored)
            entry.clear_checkpoint()
    return _unpack(ranks.given(lambda: stored), entry.rows())


@contextmanager
def _named(finder: Any) -> Iterator[None]:
    """Say of which finder it is that has scores of which no mask can be made, or that fails."""
    try:
        with guarded("finder", finder):
            yield
    except UsageError as error:
        if error.option != SCORES:
            raise
        raise UsageError(f"{written_name(finder)!r}: {error.message}", option="finder") from error


def _checked(finder: Any, found: object, selection: Selection) -> Drawn:
    """Return what a finder, which may be the user's own, drew; raises UsageError where that is no such ticket."""
    name = written_name(finder)
    if not isinstance(found, Drawn):
        raise UsageError(f"{name} must return tombola.finders.Drawn, got {type(found).__name__}", option="finder")
    names, shapes = selection.layout.names, selection.layout.shapes
    if found.ticket.shapes != dict(zip(names, shapes, strict=True)):
        raise UsageError(f"{name} returned a ticket of other weights than the prunable ones", option="finder")
    kept_by_layer = found.ticket.kept_by_layer
    for pool in selection.pools:
        chosen = sum(kept_by_layer[names[layer]] for layer in pool.layers)
        if not pool.kept - selection.slack(pool) <= chosen <= pool.kept:
            where = "all" if len(pool.layers) == len(names) else ", ".join(names[layer] for layer in pool.layers)
            raise UsageError(
                f"{name} returned a ticket of {chosen:,} weights; the density asks for {pool.kept:,} of the prunable "
                f"ones ({where})",
                option="finder",
            )
    if not selection.is_whole(torch.cat([mask.flatten() for mask in found.ticket.values()])):
        raise UsageError(
            f"{name} returned a ticket that keeps parts of groups: granularity {written_name(finder.granularity)}",
            option="finder",
        )
    return found


def drawn(
    finder: Any,
    problem: Problem,
    density: Density,
    mask: Tensor,
    scores: Tensor,
    cost: Cost,
    start: State | None = None,
    kept: State | None = None,
    **facts: Any,
) -> Drawn:
    """Return what a flat mask (d,) and flat scores (d,) make, the ticket's provenance written out.

    cost: of the draw alone. start, kept: see `Drawn`. facts: further fields of the provenance.
    """
    for what, vector in (("mask", mask), ("scores", scores)):
        if vector.shape != (problem.layout.total,):
            wanted = f"the {what} must be a vector of {problem.layout.total:,} numbers, one a weight"
            raise UsageError(f"{written_name(finder)!r}: {wanted}, got {list(vector.shape)}", option="finder")
    empty = diagnostics.empty_layers(problem.layout.views(mask))
    cut = _cut(finder, problem, mask) if empty else []
    warnings = dict.fromkeys([*empty, *cut, *diagnostics.immovable(problem.layout), *facts.pop("warnings", ())])
    provenance = _provenance(finder, problem, density, start, cost, warnings=tuple(warnings), **facts)
    views = problem.layout.views
    ticket = Ticket(views(mask.cpu()), provenance, views(kept_scores(scores).cpu()))
    return Drawn(ticket, problem.entry.rows(), start, kept)


def _provenance(
    finder: Any, problem: Problem, density: Density, start: State | None, cost: Cost, **facts: Any
) -> Provenance:
    """Return where a ticket comes from; cost: of the draw alone."""
    weights = start or problem.weights
    return Provenance(
        finder=describe(finder),
        density=density,
        seed=problem.seed,
        version=__version__,
        architecture=problem.architecture,
        weights=weights.digest,
        at=problem.at,
        epoch=None if problem.at == "given" else weights.epoch,
        cost=problem.cost_so_far + cost,
        **facts,
    )


def _cut(finder: Any, problem: Problem, mask: Tensor) -> list[str]:
    """Warn of a mask that leaves no path, which a layer without weights need not mean: others may lead around it."""
    beside = gated_beside(finder, problem)
    network = FrozenNetwork(
        problem.network(), problem.layout, problem.task, problem.runtime, shared=True, beside=beside
    )
    network.use_batch_statistics()
    found = diagnostics.cut_paths(network, mask.to(network.weights.device), problem.feed, problem.runtime)
    for warning in found:
        problem.progress.say(f"warning: {warning}")
    return found


def decided(finder: Any, problem: Problem, density: Density, selection: Selection) -> Drawn:
    """Return the ticket where there is nothing to choose, such as that of density 1; it needs no search."""
    equal = torch.ones(sum(selection.groups.layout().counts), dtype=torch.float32, device="cpu")
    return drawn(finder, problem, density, selection.keep(equal), selection.groups.expand(equal), Cost())


def _pack(found: Drawn) -> dict[str, Any]:
    ticket = found.ticket
    return {
        "masks": dict(ticket),
        "scores": ticket.scores,
        "provenance": ticket.provenance.to_dict() if ticket.provenance else None,
        "start": found.start.to_dict() if found.start else None,
        "kept": found.kept.to_dict() if found.kept else None,
    }


def _unpack(stored: Mapping[str, Any], rows: list[dict[str, Any]]) -> Drawn:
    provenance, start = stored["provenance"], stored["start"]
    ticket = Ticket(stored["masks"], provenance and Provenance.from_dict(provenance), stored["scores"])
    kept = stored.get("kept")
    return Drawn(ticket, rows, start and State.from_dict(start), kept and State.from_dict(kept))
