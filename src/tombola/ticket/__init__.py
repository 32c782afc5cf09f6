"""Ticket: immutable masks by parameter name, provenance, file format."""

from tombola.ticket.core import Ticket
from tombola.ticket.provenance import Provenance

__all__ = ["Provenance", "Ticket"]
