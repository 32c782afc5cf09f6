"""Where a ticket comes from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tombola.cost import Cost


@dataclass(frozen=True)
class Provenance:
    """What made a ticket.

    finder: the finder's name and all its fields.
    density: the density that was asked for, or the densities by patterns of names.
    objective: name of the objective, with its value for the hard ticket and the last of the soft search, if any.
    seed: the seed of the draw. version: of tombola.
    architecture: hash of the model's parameter names and shapes. weights: hash of the weights the mask belongs to.
    at: where those weights lie in training ("init", "rewind", "trained" or "given"), and epoch, if known.
    cost: everything spent from the initial weights on.
    teacher: how the dense network's outputs were had, if it was asked.
    warnings: what deserves a look, in plain words.
    """

    finder: Mapping[str, Any]
    density: float | Mapping[str, float]
    seed: int
    version: str
    architecture: str
    weights: str
    at: str = "given"
    epoch: int | None = None
    objective: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost()
    teacher: str = ""
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Provenance":
        """Read what `to_dict` wrote; unknown entries (from a later version) are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        known["cost"] = Cost(**known.get("cost", {}))
        known["warnings"] = tuple(known.get("warnings", ()))
        return cls(**known)
