"""When a layer, and a network, is faster sparse: fixed rules, so that results never depend on a clock.

The constants are from `python -m benchmarks.sparse` on one thread; docs/performance.md says on which processor. They
need be right by a factor of two only: near the break-even nothing much is won or lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Seconds for a multiply-add of a dense layer, for one of a link, and for what a sparse layer does for each of its
# outputs besides; forward and backward together.
DENSE_STEP, LINK_STEP, OUTPUT_STEP = 9e-11, 3e-10, 1.5e-9
# Seconds for a layer that does next to nothing, dense in PyTorch and sparse.
DENSE_LAYER, SPARSE_LAYER = 4e-5, 1.5e-4


@dataclass(frozen=True)
class LayerCost:
    """What a layer's cost depends on. positions: of its window in an image, 1 for a linear layer."""

    weights: int
    kept: int
    outputs: int
    positions: int

    def dense(self, samples: int) -> float:
        """Return the estimated seconds of a dense step."""
        return DENSE_LAYER + DENSE_STEP * self.weights * self.positions * samples

    def sparse(self, samples: int) -> float:
        """Return the estimated seconds of a sparse step."""
        return SPARSE_LAYER + (LINK_STEP * self.kept + OUTPUT_STEP * self.outputs) * self.positions * samples

    @property
    def is_lower_sparse(self) -> bool:
        """Whether the layer runs sparse, in a network that does: for any number of samples."""
        return LINK_STEP * self.kept + OUTPUT_STEP * self.outputs < DENSE_STEP * self.weights


def is_faster_sparse(costs: Sequence[LayerCost], samples: int) -> bool:
    """Whether a network's step is faster sparse, by the estimates of its layers."""
    sparse = sum(cost.sparse(samples) if cost.is_lower_sparse else cost.dense(samples) for cost in costs)
    return sparse < sum(cost.dense(samples) for cost in costs)
