"""Ticket: immutable masks by parameter name, provenance, file format."""

from tombola.ticket.core import Ticket
from tombola.ticket.plain import pruned_state
from tombola.ticket.provenance import Provenance

__all__ = ["Provenance", "Ticket", "pruned_state"]
