"""What deserves a look in a ticket, in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from tombola.data import Feed
from tombola.network import FrozenNetwork
from tombola.runtime import Runtime

# Batches on which a hard ticket is looked at.
BATCHES = 8


@dataclass(frozen=True)
class Outcome:
    """How a search ended.

    name: of the objective. first, soft: its mean over the first and the last tenth of the rows recorded, for sampled
    masks. hard: its value for the ticket, on data of the search. held_out: the same on data that was held out, if any.
    expected_density, hard_density: of the logits before the cut.
    """

    name: str
    first: float
    soft: float
    hard: float
    held_out: float | None
    expected_density: float
    hard_density: float


def empty_layers(masks: Mapping[str, Tensor]) -> list[str]:
    """Warn of layers without any weight."""
    empty = [name for name, mask in masks.items() if not mask.any()]
    return [f"no weight is left in {', '.join(empty)}"] if empty else []


@torch.no_grad()
def cut_paths(network: FrozenNetwork, mask: Tensor, feed: Feed, runtime: Runtime) -> list[str]:
    """Warn when the masked network gives the same output for every input: no path leads through it.

    mask: flat, of the network's weights. Outputs that are no tensors are not looked at.
    """
    for item in islice(feed.epoch(0), 1):
        output = network.under(mask.to(network.weights.dtype) * network.weights, runtime.move(item.batch))
        if isinstance(output, Tensor) and len(output) > 1 and bool((output == output[:1]).all()):
            return ["the ticket's output is the same for every input: every path through the network is cut"]
    return []


def search_signs(outcome: Outcome, density: float, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn of a search for a ticket of some density that went wrong; rows: what it recorded."""
    signs = []
    if outcome.hard_density < density / 2:
        signs.append(
            f"only {outcome.hard_density:.3%} of the gates were open at the end, under half of the wanted "
            f"{density:.3%}: the final cut ranks closed gates; try more steps"
        )
    if outcome.soft >= outcome.first:
        signs.append(
            f"the objective {outcome.name} did not improve during the search "
            f"({outcome.first:.4g} at the start, {outcome.soft:.4g} at the end)"
        )
    return signs


def window_mean(rows: Sequence[Mapping[str, Any]], key: str, last: bool) -> float:
    """Return the mean of a column over the first or the last tenth of the rows, one row at least."""
    width = max(1, len(rows) // 10)
    chosen = rows[-width:] if last else rows[:width]
    return sum(float(row[key]) for row in chosen) / len(chosen)
