"""Where a ticket comes from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from tombola.core.cost import Cost
from tombola.errors import UsageError


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
        """Read what `to_dict` wrote; unknown entries (from a later version) are left out.

        Raises UsageError for entries that are missing or of another kind.
        """
        if not isinstance(values, Mapping):
            raise UsageError("the provenance must hold names and values")
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for f in fields(cls):
            if f.name not in known and f.default is MISSING and f.default_factory is MISSING:
                raise UsageError(f"the provenance has no {f.name}")
        for name, fits in _KINDS.items():
            if name in known and not fits(known[name]):
                raise UsageError(f"the provenance's {name} cannot be what it is, a {type(known[name]).__name__}")
        known["cost"] = Cost(**known.get("cost", {}))
        known["warnings"] = tuple(known.get("warnings", ()))
        return cls(**known)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_densities(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(map(_is_text, value))
        and all(map(_is_number, value.values()))
    )


def _is_cost(value: object) -> bool:
    known = {f.name for f in fields(Cost)}
    return isinstance(value, Mapping) and set(value) <= known and all(map(_is_number, value.values()))


# Of what kind each entry must be.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "finder": lambda value: isinstance(value, Mapping) and _is_text(value.get("name")),
    "density": lambda value: _is_number(value) or _are_densities(value),
    "seed": _is_count,
    "version": _is_text,
    "architecture": _is_text,
    "weights": _is_text,
    "at": _is_text,
    "epoch": lambda value: value is None or _is_count(value),
    "objective": lambda value: isinstance(value, Mapping),
    "cost": _is_cost,
    "teacher": _is_text,
    "warnings": lambda value: isinstance(value, list | tuple) and all(map(_is_text, value)),
}
