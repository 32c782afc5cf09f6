"""Granularity: groups of weights that share one score, one logit and one gate."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from tombola.core.flat import Layout
from tombola.core.parts import Part
from tombola.core.written import Family


@runtime_checkable
class Groups(Protocol):
    """The groups of d weights, g of them; each weight is in one."""

    @property
    def sizes(self) -> Tensor | None:
        """Weights in each group, (g,); None where there is one in each."""

    def expand(self, values: Tensor) -> Tensor:
        """Give every weight (d,) what its group (g,) has."""

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over each group (g,) what its weights (d,) have."""

    def layout(self) -> Layout:
        """Return where each layer's groups lie in a vector of all (g,)."""


@runtime_checkable
class Granularity(Protocol):
    """Puts weights into groups."""

    def groups(self, layout: Layout) -> Groups:
        """Return the groups of the weights of a layout."""


@dataclass(frozen=True)
class _Single:
    """One weight in every group."""

    weights: Layout

    @property
    def sizes(self) -> Tensor | None:
        return None

    def expand(self, values: Tensor) -> Tensor:
        return values

    def reduce(self, values: Tensor) -> Tensor:
        return values

    def layout(self) -> Layout:
        return self.weights


@dataclass(frozen=True)
class Weight(Part):
    """Every weight by itself."""

    name: ClassVar[str] = "weight"

    def groups(self, layout: Layout) -> Groups:
        """Return groups of one."""
        return _Single(layout)


GRANULARITIES: Family[Granularity] = Family("granularity", {"weight": Weight()}, Granularity)
