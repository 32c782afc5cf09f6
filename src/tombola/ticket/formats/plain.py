"""plain: a state_dict with zeros, for any program that knows nothing of tickets."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tombola.networks.models import write_weights
from tombola.ticket.formats.base import Subject


@dataclass(frozen=True)
class Plain:
    """safetensors, or what torch.save writes."""

    name: ClassVar[str] = "plain"
    endings: ClassVar[tuple[str, ...]] = (".safetensors", ".pt", ".pth")
    default: ClassVar[str] = "plain.safetensors"
    needs_model: ClassVar[bool] = False

    def write(self, path: Path, subject: Subject) -> str:
        """Write the state_dict."""
        write_weights(path, subject.state)
        ticket = subject.ticket
        return f"plain weights, {ticket.prunable - ticket.kept:,} of {ticket.prunable:,} set to zero"
