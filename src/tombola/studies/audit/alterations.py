"""Tickets altered so that what they say is destroyed, each in another way; every one proves that it changed something.

Sources: Su et al. 2020 and Frankle et al. 2021 (the sanity checks).
"""

import torch
from torch import Tensor

from tombola.core.flat import Layout
from tombola.core.groups import Groups, Single
from tombola.core.ranking import fill_top, keep_top
from tombola.errors import UsageError
from tombola.ticket import Ticket

_WHOLE = "every layer keeps all of its weights or none"


class Impossible(UsageError):
    """An alteration that cannot be made of a ticket; says why."""


def changed(before: Ticket, after: Ticket) -> float:
    """Return the share of a ticket's kept weights that another one does not keep."""
    return 1 - shared(before, after)


def shared(ticket: Ticket, other: Ticket) -> float:
    """Return the share of a ticket's kept weights that another one keeps too."""
    return sum(int((mask & other[name]).sum()) for name, mask in ticket.items()) / ticket.kept


def shuffled(ticket: Ticket, generator: torch.Generator, groups: Groups | None = None) -> Ticket:
    """Return the ticket with each layer's mask shuffled: the layers' densities stay, the choice is left to chance.

    groups: of weights, which stay whole; without, each weight is by itself. Layers that share groups are one. Where
    groups differ in size, as many are kept as fit into the weights that the ticket keeps there; n of every m stay so.
    """
    if all(kept in {0, ticket[name].numel()} for name, kept in ticket.kept_by_layer.items()):
        raise Impossible(f"nothing would change: {_WHOLE}")
    layout, groups = Layout.of(ticket.items()), _groups(ticket, groups)
    chosen = groups.pick(layout.flatten(ticket))
    while True:  # a mask of very few weights may come out as it was
        altered = Ticket(layout.views(groups.expand(_shuffle(chosen, groups, generator))), ticket.provenance)
        if altered != ticket:
            return altered


def _groups(ticket: Ticket, groups: Groups | None) -> Groups:
    return groups or Single(Layout.of(ticket.items()))


def _shuffle(chosen: Tensor, groups: Groups, generator: torch.Generator) -> Tensor:
    """Return another choice of groups (g,) for one, as many weights of each part."""
    counts, sizes = list(groups.layout().counts), groups.sizes
    alike = sizes is None or all(len(part.unique()) == 1 for part in sizes.split(counts))
    if not alike or groups.certain(chosen.float()) is not None:
        return _best(torch.zeros(len(chosen), device="cpu"), chosen, groups, generator)
    return torch.cat(
        [part[torch.randperm(len(part), generator=generator, device="cpu")] for part in chosen.split(counts)]
    )


def inverted_by_layer(ticket: Ticket, generator: torch.Generator, groups: Groups | None = None) -> Ticket:
    """Return the ticket of each layer's lowest scores, as many as the ticket keeps there."""
    layout, groups = Layout.of(ticket.items()), _groups(ticket, groups)
    mask = _best(-_scores(ticket, groups), groups.pick(layout.flatten(ticket)), groups, generator)
    return _altered(ticket, layout.views(groups.expand(mask)), _WHOLE)


def inverted(ticket: Ticket, generator: torch.Generator, groups: Groups | None = None) -> Ticket:
    """Return the ticket of the lowest scores of the whole network, as published for CTS (arXiv 2512.07142).

    Where n of every m are kept, that is the one of each layer's lowest scores.
    """
    layout, groups = Layout.of(ticket.items()), _groups(ticket, groups)
    scores = -_scores(ticket, groups)
    if groups.certain(scores) is not None:
        return inverted_by_layer(ticket, generator, groups)
    mask = _top(scores, ticket.kept, groups.sizes, generator)
    return _altered(ticket, layout.views(groups.expand(mask)), "it keeps every weight")


def _scores(ticket: Ticket, groups: Groups) -> Tensor:
    """Return what the groups were ranked by, (g,)."""
    if ticket.scores is None:
        raise Impossible("the ticket file alone has no scores; audit the run directory that it was drawn in")
    scores = Layout.of(ticket.items()).flatten(ticket.scores)
    picked = groups.pick(scores)
    # Finders of one's own may say what they found of each weight.
    return picked if torch.equal(groups.expand(picked), scores) else groups.score(scores)


def _best(scores: Tensor, chosen: Tensor, groups: Groups, generator: torch.Generator) -> Tensor:
    """Return the choice (g,) of each part's largest scores, of as many weights as another choice has there."""
    counts = list(groups.layout().counts)
    if groups.certain(scores) is None:
        sizes = [None] * len(counts) if groups.sizes is None else groups.sizes.split(counts)
        return torch.cat(
            [
                _top(mine, _weights_in(before, size), size, generator)
                for mine, before, size in zip(scores.split(counts), chosen.split(counts), sizes, strict=True)
            ]
        )
    order = torch.randperm(len(scores), generator=generator, device="cpu")
    ranks = torch.empty(len(scores), dtype=torch.float64, device="cpu")
    ranks[order[scores[order].argsort(stable=True)]] = torch.arange(len(scores), dtype=torch.float64, device="cpu")
    certain = groups.certain(ranks)
    assert certain is not None
    pairs = zip(certain.split(counts), chosen.split(counts), strict=True)
    return torch.cat([before if before.all() or not before.any() else new for new, before in pairs])


def _weights_in(chosen: Tensor, sizes: Tensor | None) -> int:
    """Return how many weights chosen groups have; sizes: of the groups, None where each is one weight."""
    return int(chosen.sum() if sizes is None else sizes[chosen].sum())


def _top(scores: Tensor, count: int, sizes: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return the mask of the largest scores, of `count` weights; which of equal ones is left to chance.

    Scores of finders that cut several times share one lowest value, -infinity, wherever an early cut pruned. Raises
    Impossible where some of +infinity, here negated, would have to be chosen: their order is lost.
    """
    finite = ~scores.isneginf()
    if _weights_in(finite, sizes) < count < _weights_in(torch.ones_like(finite), sizes):
        raise Impossible("its largest scores are infinite, so that nothing says which of them are the lowest")
    order = torch.randperm(len(scores), generator=generator, device="cpu")
    mask = torch.empty_like(scores, dtype=torch.bool)
    ordered = scores[order]
    mask[order] = keep_top(ordered, count) if sizes is None else fill_top(ordered, count, sizes[order])
    return mask


def _altered(ticket: Ticket, masks: dict[str, Tensor], otherwise: str) -> Ticket:
    altered = Ticket(masks, ticket.provenance)
    if altered == ticket:
        raise Impossible(f"nothing would change: {otherwise}")
    return altered
