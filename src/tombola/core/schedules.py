"""The one-cycle learning rate (Smith and Topin, arXiv 1708.07120), of trainings and searches alike."""

import math

# Where it starts from, as a share of the peak.
FIRST = 0.04


def one_cycle(share: float, rise: float) -> float:
    """Return the share of the peak after a share of the whole: linear up to `rise`, then half a cosine down to zero."""
    if share < rise:
        return FIRST + (1 - FIRST) * share / rise
    return (1 + math.cos(math.pi * (share - rise) / (1 - rise))) / 2
