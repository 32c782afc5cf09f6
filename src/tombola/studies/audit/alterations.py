"""Tickets altered so that what they say is destroyed, each in another way; every one proves that it changed something.

Sources: Su et al. 2020 and Frankle et al. 2021 (the sanity checks).
"""

import torch
from torch import Tensor

from tombola.core.flat import Layout
from tombola.core.ranking import keep_top
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


def shuffled(ticket: Ticket, generator: torch.Generator) -> Ticket:
    """Return the ticket with each layer's mask shuffled: the layers' densities stay, the choice is left to chance."""
    if all(kept in {0, ticket[name].numel()} for name, kept in ticket.kept_by_layer.items()):
        raise Impossible(f"nothing would change: {_WHOLE}")
    while True:  # a mask of very few weights may come out as it was
        altered = Ticket({name: _shuffle(mask, generator) for name, mask in ticket.items()}, ticket.provenance)
        if altered != ticket:
            return altered


def _shuffle(mask: Tensor, generator: torch.Generator) -> Tensor:
    return mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)


def inverted_by_layer(ticket: Ticket, generator: torch.Generator) -> Ticket:
    """Return the ticket of each layer's lowest scores, as many as the ticket keeps there."""
    scores = _scores(ticket)
    masks = {
        name: _lowest(scores[name].flatten(), int(mask.sum()), generator).view(mask.shape)
        for name, mask in ticket.items()
    }
    return _altered(ticket, masks, _WHOLE)


def inverted(ticket: Ticket, generator: torch.Generator) -> Ticket:
    """Return the ticket of the lowest scores of the whole network, as published for CTS (arXiv 2512.07142)."""
    layout = Layout.of(ticket.items())
    mask = _lowest(layout.flatten(_scores(ticket)), ticket.kept, generator)
    return _altered(ticket, layout.views(mask), "it keeps every weight")


def _scores(ticket: Ticket) -> dict[str, Tensor]:
    if ticket.scores is None:
        raise Impossible("the ticket file alone has no scores; audit the run directory that it was drawn in")
    return ticket.scores


def _lowest(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the mask of the `count` lowest scores; which of equal ones is left to chance.

    Scores of finders that cut several times share one lowest value, -infinity, wherever an early cut pruned.
    """
    order = torch.randperm(len(scores), generator=generator)
    mask = torch.empty_like(scores, dtype=torch.bool)
    mask[order] = keep_top(-scores[order], count)
    return mask


def _altered(ticket: Ticket, masks: dict[str, Tensor], otherwise: str) -> Ticket:
    altered = Ticket(masks, ticket.provenance)
    if altered == ticket:
        raise Impossible(f"nothing would change: {otherwise}")
    return altered
