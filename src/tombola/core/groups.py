"""Groups of weights that share one score, one logit and one gate, and what a selection among them has to respect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tombola.core.flat import Layout
from tombola.errors import UsageError


@runtime_checkable
class Groups(Protocol):
    """The groups of d weights, g of them; each weight is in one."""

    @property
    def sizes(self) -> Tensor | None:
        """Weights in each group, (g,); None where there is one in each."""

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """The layers of each part, by their places; groups that reach over several layers make one part of them."""

    def layout(self) -> Layout:
        """Return where each part's groups lie in a vector of all (g,)."""

    def expand(self, values: Tensor) -> Tensor:
        """Give every weight (d,) what its group (g,) has."""

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over each group (g,) what its weights (d,) have."""

    def pick(self, values: Tensor) -> Tensor:
        """Return what all weights of a group have (g,), of values (d,) that are the same within each."""

    def score(self, scores: Tensor) -> Tensor:
        """Return what the groups are ranked by (g,), of the scores of their weights (d,); -infinity for dead ones."""

    def certain(self, scores: Tensor) -> Tensor | None:
        """Return what is kept of any selection (g,), by scores (g,); None where that is nothing."""

    def fixed(self, layers: Sequence[int]) -> int | None:
        """Return how many weights of some layers are kept whatever the density; None where that says.

        Raises UsageError where they cannot be.
        """


@dataclass(frozen=True)
class Single:
    """One weight in every group."""

    weights: Layout

    @property
    def sizes(self) -> Tensor | None:
        """None."""
        return None

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """Each layer by itself."""
        return tuple((place,) for place in range(len(self.weights.names)))

    def layout(self) -> Layout:
        """Return that of the weights."""
        return self.weights

    def expand(self, values: Tensor) -> Tensor:
        """Return what is given."""
        return values

    def reduce(self, values: Tensor) -> Tensor:
        """Return what is given."""
        return values

    def pick(self, values: Tensor) -> Tensor:
        """Return what is given."""
        return values

    def score(self, scores: Tensor) -> Tensor:
        """Return what is given."""
        return scores

    def certain(self, scores: Tensor) -> Tensor | None:
        """Return None."""
        return None

    def fixed(self, layers: Sequence[int]) -> int | None:
        """Return None."""
        return None


@dataclass(frozen=True)
class OfEvery(Single):
    """One weight in every group, and the best n of every m that follow each other along the inputs are kept."""

    n: int
    m: int

    def certain(self, scores: Tensor) -> Tensor | None:
        """Return the best n of every m; among equal scores the lower index wins."""
        layers = zip(self.weights.views(scores).values(), map(self._axis, range(len(self.weights.names))), strict=True)
        return torch.cat([self._best(view, axis).reshape(-1) for view, axis in layers])

    def _best(self, scores: Tensor, axis: int) -> Tensor:
        if scores.shape[axis] % self.m:
            return torch.zeros_like(scores, dtype=torch.bool)
        rows = scores.movedim(axis, -1)
        runs = rows.reshape(-1, self.m)
        order = runs.sort(dim=1, descending=True, stable=True).indices
        kept = torch.zeros_like(runs, dtype=torch.bool).scatter_(1, order[:, : self.n], True)
        return kept.view(rows.shape).movedim(-1, axis)

    def _axis(self, place: int) -> int:
        """Return the dimension of a layer's inputs."""
        return 0 if self.weights.wiring(place).inputs_first else min(1, len(self.weights.shapes[place]) - 1)

    def fixed(self, layers: Sequence[int]) -> int | None:
        """Return n of every m; raises UsageError, naming them, where layers have inputs that no m go into."""
        names, shapes = self.weights.names, self.weights.shapes
        uneven = {names[i]: shapes[i][self._axis(i)] for i in layers if shapes[i][self._axis(i)] % self.m}
        if uneven:
            listed = ", ".join(f"{name} ({count:,})" for name, count in uneven.items())
            raise UsageError(
                f"{self.n}:{self.m} needs inputs that {self.m} go into, which those of {listed} are not: leave them "
                f"dense, exclude [{','.join(uneven)}]",
                option="granularity",
            )
        return sum(self.weights.counts[i] for i in layers) * self.n // self.m


@dataclass(frozen=True)
class Grouping:
    """The groups of one layer.

    places: the number of each weight's group within the layer, of the layer's shape. units: what each of these is
    called in the whole network, (n,): groups of several layers that are called the same are one.
    """

    places: Tensor
    units: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> "Grouping":
        """Return the groups of weights with the same label; labels: whole numbers of the layer's shape."""
        units, places = labels.unique(return_inverse=True)
        return cls(places, units)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Groups of any sizes, over any layers.

    weights: the layout. labels: the number of each weight's group, (d,), those of each part following each other.
    parts: the layers of each part, by their places. counts: its groups. by: how scores of weights make those of groups.
    """

    weights: Layout
    labels: Tensor
    parts: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]
    by: Callable[["Labelled", Tensor], Tensor]

    @classmethod
    def of(
        cls, weights: Layout, groupings: Sequence[Grouping], by: Callable[["Labelled", Tensor], Tensor]
    ) -> "Labelled":
        """Return the groups of several layers."""
        units = torch.cat([grouping.units for grouping in groupings])
        ends = torch.tensor([len(grouping.units) for grouping in groupings], device="cpu").cumsum(0).tolist()
        names, numbers = units.unique(return_inverse=True)
        of_layers = list(numbers.tensor_split(ends[:-1]))
        parts = _joined(of_layers, len(names))
        # Part by part, in each by the names' order.
        order = torch.cat([torch.cat([of_layers[i] for i in part]).unique() for part in parts])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device="cpu")
        labels = [place[mine][grouping.places.reshape(-1)] for mine, grouping in zip(of_layers, groupings, strict=True)]
        counts = tuple(len(torch.cat([of_layers[i] for i in part]).unique()) for part in parts)
        return cls(weights, torch.cat(labels), parts, counts, by)

    @cached_property
    def sizes(self) -> Tensor:
        """Weights in each group, (g,)."""
        return self.labels.bincount(minlength=sum(self.counts))

    @cached_property
    def _order(self) -> Tensor | None:
        """What puts the weights of each group beside each other; None where they are."""
        return None if bool((self.labels.diff() >= 0).all()) else self.labels.argsort(stable=True)

    @cached_property
    def _first(self) -> Tensor:
        """The place of a weight of each group, (g,)."""
        begins = self.sizes.cumsum(0) - self.sizes
        return begins if self._order is None else self._order[begins]

    def layout(self) -> Layout:
        """Return where each part's groups lie."""
        names = tuple(", ".join(self.weights.names[i] for i in part) for part in self.parts)
        return Layout(names, tuple((count,) for count in self.counts))

    def expand(self, values: Tensor) -> Tensor:
        """Give every weight (d,) what its group (g,) has."""
        return values[self.labels.to(values.device)]

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over each group (g,) what its weights (d,) have, in an order that is always the same."""
        values = values if self._order is None else values[self._order.to(values.device)]
        return torch.segment_reduce(values, "sum", lengths=self.sizes.to(values.device))

    def pick(self, values: Tensor) -> Tensor:
        """Return what all weights of a group have (g,)."""
        return values[self._first.to(values.device)]

    def score(self, scores: Tensor) -> Tensor:
        """Return what the groups are ranked by (g,)."""
        return self.by(self, scores)

    def certain(self, scores: Tensor) -> Tensor | None:
        """Return None."""
        return None

    def fixed(self, layers: Sequence[int]) -> int | None:
        """Return None."""
        return None


def _joined(units: Sequence[Tensor], count: int) -> tuple[tuple[int, ...], ...]:
    """Return which layers are joined by units that they share; units: numbers below `count`, of each layer."""
    owner = torch.full((count,), -1, device="cpu")
    leader = list(range(len(units)))
    for layer, mine in enumerate(units):
        for other in {leader[i] for i in owner[mine].unique().tolist() if i >= 0}:
            leader = [layer if each == other else each for each in leader]
        owner[mine] = layer
    found: dict[int, list[int]] = {}
    for layer, head in enumerate(leader):
        found.setdefault(head, []).append(layer)
    return tuple(map(tuple, found.values()))
