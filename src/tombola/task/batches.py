"""What a batch and an output are, and how many samples a batch holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tombola.errors import UsageError

Batch = Any
Output = Any


def batch_size(batch: Batch) -> int:
    """Return the number of samples in a batch: the length of the first tensor found in it."""
    if isinstance(batch, Tensor):
        return batch.shape[0]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.dim() > 0:
            if not part.shape[0]:
                raise UsageError("data gives a batch without samples")
            return part.shape[0]
    raise UsageError(f"a batch must hold a tensor, got {type(batch).__name__}")
