"""The learning rates of an optimiser's groups of parameters, which follow one schedule together."""

from collections.abc import Sequence

import torch


def rates_beside(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the learning rates of an optimiser's groups over that of the first, as it was made."""
    first = float(optimizer.param_groups[0]["lr"])
    return [float(group["lr"]) / first if first else 1.0 for group in optimizer.param_groups]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float, beside: Sequence[float]) -> None:
    """Give the first group a learning rate, and the others theirs `beside` it."""
    for group, share in zip(optimizer.param_groups, beside, strict=True):
        group["lr"] = share * learning_rate
