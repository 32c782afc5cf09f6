"""Scores -> exactly k. The only place that selects weights."""

import math

import torch
from torch import Tensor

from tombola.errors import UsageError


def count_kept(density: float, total: int) -> int:
    """Return k = floor(density * total + 1/2), the number of weights that a ticket keeps.

    Raises UsageError when density is outside (0, 1] or keeps no weight at all.
    """
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise UsageError(f"density must lie in (0, 1], got {density!r}")
    kept = math.floor(density * total + 0.5)
    if kept == 0:
        raise UsageError(
            f"density {density} keeps none of the {total:,} prunable weights; "
            f"the smallest possible density is {1 / total:.4g} (one weight)"
        )
    return kept


def keep_top(scores: Tensor, kept: int) -> Tensor:
    """Return the mask of the `kept` largest scores; among equal scores the lower index wins.

    scores: vector of any real type, infinities allowed. Returns a bool vector of the same length.
    Raises UsageError for NaN scores, or if `kept` is not between 0 and the number of scores.
    """
    if not 0 <= kept <= scores.numel():
        raise UsageError(f"cannot keep {kept} of {scores.numel()} weights")
    bad = torch.isnan(scores)
    if bad.any():
        raise UsageError(f"the score at index {int(bad.nonzero()[0])} is NaN (NaN scores: {int(bad.sum())})")
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # A threshold alone keeps all of its ties or none: rank those by index.
    threshold = torch.kthvalue(scores, scores.numel() - kept + 1).values
    mask = scores > threshold
    ties = (scores == threshold).nonzero().squeeze(1)
    mask[ties[: kept - int(mask.sum())]] = True
    return mask
