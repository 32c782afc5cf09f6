"""compacted: the network without its dead units, weights and code in one file, by torch.export."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.sparse.compaction import compact
from tombola.storage.files import write_bytes
from tombola.ticket.file import check_place
from tombola.ticket.formats.base import Subject
from tombola.ticket.formats.checks import check_outputs
from tombola.ticket.formats.exporting import quiet, reason


@dataclass(frozen=True)
class Compacted:
    """A program of torch.export for batches of any size, which `torch.export.load(FILE).module()` runs."""

    name: ClassVar[str] = "compacted"
    endings: ClassVar[tuple[str, ...]] = (".pt2",)
    default: ClassVar[str] = "compacted.pt2"
    needs_model: ClassVar[bool] = True

    def write(self, path: Path, subject: Subject) -> str:
        """Compact the network, export it, load the program and compare its outputs."""
        check_place(path)
        model, example = subject.network()
        small = compact(model, subject.ticket, example)
        file = io.BytesIO()
        torch.export.save(exported(small, example), file)
        file.seek(0)
        loaded = torch.export.load(file).module()
        check_outputs(path, subject, loaded)
        write_bytes(path, file.getvalue())
        return f"a compacted network of {parameters(small):,} parameters, of {parameters(model):,}"


def exported(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Return a network as a program for batches of any size; raises UsageError where torch.export cannot have it."""
    try:
        batch = torch.export.Dim("batch", min=1)
        with quiet():
            return torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # the model is the user's: anything may come out of it
        raise UsageError(f"torch.export cannot export the model ({reason(error)})") from error


def parameters(model: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
