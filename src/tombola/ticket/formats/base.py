"""Format: one way in which a network under a ticket leaves the house."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.ticket.core import Ticket


@dataclass(frozen=True)
class Subject:
    """What is exported.

    state: the state_dict, its pruned weights zero. model: the network with that state, and example: a batch of its
    inputs, (N, ...) with N > 1, for formats that need the network itself.
    """

    ticket: Ticket
    state: Mapping[str, Any]
    model: nn.Module | None = None
    example: Tensor | None = None

    def network(self) -> tuple[nn.Module, Tensor]:
        """Return the network and the batch; raises UsageError where they are not known."""
        if self.model is None or self.example is None:
            raise UsageError("needs the network and a batch of inputs", option="format")
        return self.model, self.example


class Format(Protocol):
    """Writes a file and checks it, so that what is there is known to be right.

    endings: of its files' names. default: the name of one. needs_model: whether a state_dict is not enough.
    """

    name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    default: ClassVar[str]
    needs_model: ClassVar[bool]

    def write(self, path: Path, subject: Subject) -> str:
        """Write the file atomically, check it, and return what it holds, in words."""


def check_ending(path: Path, format_: Format) -> None:
    """Raise UsageError unless a file's name ends as the format's do."""
    if not path.name.endswith(format_.endings):
        allowed = " or ".join(format_.endings)
        raise UsageError(f"must end in {allowed} for the format {format_.name}, got {path}", option="out")
