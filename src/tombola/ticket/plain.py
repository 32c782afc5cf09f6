"""A ticket applied to a plain state_dict, where no model is at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tombola.errors import UsageError
from tombola.networks.masking import state_names
from tombola.ticket.core import Ticket


def pruned_state(
    ticket: Ticket, tensors: Mapping[str, Any], trained: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a state_dict in which the weights that a ticket prunes are zero, under all of their names.

    Tied weights have several names, of which the ticket has one: the rest are those without a mask of their own that
    hold equal values. trained: the state_dict after training, if known, in which they must be equal too: it tells one
    layer under two names from layers that only began as copies of each other. Raises UsageError naming the ticket's
    parameters that are missing or of another shape, and tensors that are sparse, quantised or without values.
    """
    values = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    for name, value in values.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise UsageError(f"the state_dict does not fit the ticket: {name} is no dense tensor")
    own = {name: entry for name, entry in state_names(values, ticket).items() if name in ticket}
    unfit = [name for name, shape in ticket.shapes.items() if name not in own or values[own[name]].shape != shape]
    if unfit:
        raise UsageError(f"the state_dict does not fit the ticket: {', '.join(unfit[:3])}")
    states = [values, trained or {}]
    pruned = dict(tensors)
    for name, entry in own.items():
        aliases = [alias for alias in values.keys() - own.values() if _are_tied(alias, entry, states)]
        for each in (entry, *aliases):
            pruned[each] = values[each].masked_fill(~ticket[name], 0.0)
    return pruned


def _are_tied(alias: str, entry: str, states: Sequence[Mapping[str, Tensor]]) -> bool:
    pairs = [(state[alias], state[entry]) for state in states if alias in state and entry in state]
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)
