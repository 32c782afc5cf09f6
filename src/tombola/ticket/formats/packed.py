"""tombola: the weights of a ticket and nothing else, as small as they get without loss."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tombola.ticket.formats import masked
from tombola.ticket.formats.base import Subject
from tombola.ticket.formats.checks import check_reading


@dataclass(frozen=True)
class Packed:
    """Like sparse, with a byte or so for each kept weight's place, or a bit for every weight, whichever is smaller."""

    name: ClassVar[str] = "tombola"
    endings: ClassVar[tuple[str, ...]] = (".tombola",)
    default: ClassVar[str] = "network.tombola"
    needs_model: ClassVar[bool] = False

    def write(self, path: Path, subject: Subject) -> str:
        """Write the ticket with its values, and read both again."""
        masked.write(path, subject.ticket, subject.state, masked.as_gaps_or_bits)
        check_reading(path, subject)
        return f"a ticket with the values of its {subject.ticket.kept:,} weights"
