"""Scores -> exactly k, beneath `tombola.core.selection`, which is the only door to it."""

import math

import torch
from torch import Tensor

from tombola.core.flat import PIECE
from tombola.errors import UsageError

# Vectors of this size and more are cut to a bracket around the threshold first, which a sample as large gives.
SAMPLE = 2**16


def check_density(density: float) -> float:
    """Return a density as a float; raises UsageError unless it is a number in (0, 1]."""
    if isinstance(density, bool) or not isinstance(density, int | float):
        raise UsageError(f"must be a number in (0, 1], such as 0.02, got {density!r}", option="density")
    if not 0 < density <= 1:
        hint = f"; did you mean {density / 100:g}?" if 1 < density < 100 else ""
        raise UsageError(f"must lie in (0, 1], got {density!r}{hint}", option="density")
    return float(density)


def count_kept(density: float, total: int) -> int:
    """Return k = floor(density * total + 1/2), the number of weights that a ticket keeps.

    Raises UsageError when density is outside (0, 1] or keeps no weight at all.
    """
    kept = math.floor(check_density(density) * total + 0.5)
    if kept == 0:
        raise UsageError(
            f"{density} keeps none of the {total:,} prunable weights; "
            f"the smallest possible density is {1 / total:.4g} (one weight)",
            option="density",
        )
    return kept


def kept_scores(scores: Tensor) -> Tensor:
    """Return scores in float32, or in float64 where float32 would tie some of them at zero or infinity."""
    narrow = scores.detach().float()
    if scores.dtype != torch.float64:
        return narrow
    same = torch.equal(narrow.isinf(), scores.isinf()) and torch.equal(narrow == 0, scores == 0)
    return narrow if same else scores.detach()


def keep_top(scores: Tensor, kept: int) -> Tensor:
    """Return the mask of the `kept` largest scores; among equal scores the lower index wins.

    scores: vector of any real type, infinities allowed. Returns a bool vector of the same length.
    Raises UsageError for NaN scores, or if `kept` is not between 0 and the number of scores.
    """
    if not 0 <= kept <= scores.numel():
        raise UsageError(f"cannot keep {kept} of {scores.numel()} weights")
    refuse_nan(scores)
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    # A threshold alone keeps all of its ties or none: rank those by index.
    threshold = _kth_largest(scores, kept)
    mask = scores > threshold
    _add_first(mask, scores, threshold, kept - int(torch.count_nonzero(mask)))
    return mask


def _add_first(mask: Tensor, scores: Tensor, threshold: Tensor, count: int) -> None:
    """Set a mask at the first `count` places where a score equals the threshold.

    Piece by piece on a CPU: the places of a billion equal scores would take 8 GB.
    """
    size = PIECE if scores.device.type == "cpu" else max(1, scores.numel())
    for part, of_scores in zip(mask.split(size), scores.split(size), strict=True):
        if count == 0:
            return
        ties = (of_scores == threshold).nonzero().squeeze(1)[:count]
        part[ties] = True
        count -= len(ties)


def fill_top(scores: Tensor, kept: int, sizes: Tensor) -> Tensor:
    """Return the mask of groups of the largest scores whose weights are together at most `kept`, and as many as fit.

    From the largest score down, whatever is larger than what is left is passed over. scores: (g,); among equal scores
    the lower index wins. sizes: weights of each group, (g,). Raises UsageError for NaN scores.
    """
    refuse_nan(scores)
    order = scores.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    while len(order):
        order = order[sizes[order] <= kept]
        reached = sizes[order].cumsum(0)
        fitting = int(torch.count_nonzero(reached <= kept))
        chosen[order[:fitting]] = True
        kept -= int(reached[fitting - 1]) if fitting else 0
        order = order[fitting:]
    return chosen


def refuse_nan(scores: Tensor) -> None:
    """Raise UsageError where a score is no number."""
    if scores.numel() and torch.isnan(scores.amax()):  # the largest of NaN and others is NaN
        bad = torch.isnan(scores)
        raise UsageError(f"the score at index {int(bad.nonzero()[0])} is NaN (NaN scores: {int(bad.sum())})")


def _kth_largest(scores: Tensor, kept: int) -> Tensor:
    """Return the `kept`-th largest score, which is the threshold of the mask.

    Selection from a hundred million scores takes many passes over them, and twelve bytes for each. An evenly spaced
    sample brackets the threshold: it is one of two scores that many may have, or of the few between them; where the
    sample misleads, all are selected from.
    """
    total = scores.numel()
    if total >= 4 * SAMPLE:
        sample = scores[:: total // SAMPLE].sort(descending=True).values
        place, reach = kept / total * len(sample), 4 * math.sqrt(len(sample))
        high = sample[max(0, math.floor(place - reach))] if place >= reach else scores.amax()
        low = sample[min(len(sample) - 1, math.ceil(place + reach))]
        beyond_high, up_to_high = _counts(scores, high)
        beyond_low, up_to_low = _counts(scores, low)
        if beyond_high < kept <= up_to_high:
            return high
        if beyond_low < kept <= up_to_low:
            return low
        if up_to_high < kept <= beyond_low < up_to_high + total // 2:
            between = scores[(scores > low) & (scores < high)]
            return torch.kthvalue(between, beyond_low - kept + 1).values
    return torch.kthvalue(scores, total - kept + 1).values


def _counts(scores: Tensor, bound: Tensor) -> tuple[int, int]:
    """Return how many scores are larger than one of them, and how many at least as large."""
    return int(torch.count_nonzero(scores > bound)), int(torch.count_nonzero(scores >= bound))
