"""sparse: safetensors with the values and the indices of kept weights, which other programs can read easily."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tombola.ticket.formats import masked
from tombola.ticket.formats.base import Subject
from tombola.ticket.formats.checks import check_reading


@dataclass(frozen=True)
class Sparse:
    """Tensors `values:NAME` and `mask:NAME`, indices into the flattened weight; `whole:NAME` where there is no mask."""

    name: ClassVar[str] = "sparse"
    endings: ClassVar[tuple[str, ...]] = (".safetensors",)
    default: ClassVar[str] = "sparse.safetensors"
    needs_model: ClassVar[bool] = False

    def write(self, path: Path, subject: Subject) -> str:
        """Write values and indices, and read them again."""
        masked.write(path, subject.ticket, subject.state, masked.as_indices)
        check_reading(path, subject)
        return f"values and indices of {subject.ticket.kept:,} weights"
