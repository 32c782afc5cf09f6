"""When a layer, and a network, is faster sparse: fixed rules, so that results never depend on a clock.

The constants are from `python -m benchmarks.run OUT --sparse` (docs/performance.md). They need be right by a factor of
two only: near the break-even nothing much is won or lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Seconds of one thread, forward and backward together: for a multiply-add of a dense layer, for one of a link, for what
# a sparse layer does for each of its outputs besides, and for changing the layout of an input or output of a dense
# layer among sparse ones.
DENSE_STEP, LINK_STEP, OUTPUT_STEP, LAYOUT_STEP = 9e-11, 3e-10, 1.5e-9, 2e-9
# Seconds for a layer that does next to nothing, dense in PyTorch and sparse.
DENSE_LAYER, SPARSE_LAYER = 4e-5, 1.5e-4


@dataclass(frozen=True)
class LayerCost:
    """What a layer's cost depends on. positions: of its window in an image, 1 for a linear layer."""

    weights: int
    kept: int
    inputs: int
    outputs: int
    positions: int

    @property
    def _dense(self) -> float:
        return DENSE_STEP * self.weights * self.positions

    @property
    def _sparse(self) -> float:
        return (LINK_STEP * self.kept + OUTPUT_STEP * self.outputs) * self.positions

    @property
    def is_lower_sparse(self) -> bool:
        """Whether the layer runs sparse in a network that does, for any number of samples."""
        return self._sparse < self._dense + self._layouts

    @property
    def _layouts(self) -> float:
        return LAYOUT_STEP * (self.inputs + self.outputs) * self.positions if self.positions > 1 else 0.0

    def in_dense_network(self, samples: int) -> float:
        """Return the estimated seconds of a step of the layer in PyTorch."""
        return DENSE_LAYER + self._dense * samples

    def in_sparse_network(self, samples: int) -> float:
        """Return the estimated seconds of a step of the layer here."""
        return SPARSE_LAYER + min(self._sparse, self._dense + self._layouts) * samples


def is_mostly_dense(costs: Sequence[LayerCost]) -> bool:
    """Whether layers that would run dense have most of a network's multiplications."""
    dense = sum(cost.weights * cost.positions for cost in costs if not cost.is_lower_sparse)
    return 2 * dense > sum(cost.weights * cost.positions for cost in costs)


def is_faster_sparse(costs: Sequence[LayerCost], samples: int) -> bool:
    """Whether a network's step is faster sparse, by the estimates of its layers."""
    return sum(c.in_sparse_network(samples) for c in costs) < sum(c.in_dense_network(samples) for c in costs)
