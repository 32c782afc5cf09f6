"""What became of the cells of a study; knows nothing of how they are run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class PlannedCell(Protocol):
    """A cell as tables see it."""

    @property
    def label(self) -> str:
        """The finder as it was asked for."""

    @property
    def density(self) -> float:
        """The fraction of the weights kept."""

    @property
    def seed(self) -> int:
        """The seed."""

    @property
    def recipe(self) -> str:
        """What its dense network depends on beside the seed, as `dense.recipe_of` has it."""


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell: its result, or why there is none, with the traceback; nothing if it has not been run."""

    cell: PlannedCell
    values: Mapping[str, Any] | None
    failure: str = ""
    traceback: str = ""


def failures(outcomes: Sequence[CellOutcome]) -> list[dict[str, Any]]:
    """Return the cells that failed, and why, as plain values."""
    return [
        {
            "finder": o.cell.label,
            "density": o.cell.density,
            "seed": o.cell.seed,
            "why": o.failure,
            "traceback": o.traceback,
        }
        for o in outcomes
        if o.failure
    ]
