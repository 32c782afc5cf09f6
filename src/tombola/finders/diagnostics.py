"""What deserves a look in a ticket, in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from tombola.core.flat import Layout
from tombola.data import Feed
from tombola.errors import the_first
from tombola.networks.network import FrozenNetwork
from tombola.networks.runtime import Runtime

# Batches on which a hard ticket is looked at.
BATCHES = 8
# Bounds between healthy searches and failed ones, 45 on digits and 45 on Fashion-MNIST (docs/method.md). Healthy: the
# expected density moved by at most 0.2 of the wanted one in the second half, and the push of the controller by 0.15 of
# the task's gradient (standard deviation); failed: 1.4 and 0.37 at least. A push alone proves nothing: networks of a
# dozen weights, whose gradients vanish, reach 3 with a density that moves by a tenth. At a quarter of a healthy search
# the entropy was at least 0.058 of the first, and 0.4 % of the top weights were new at every record. Held-out KL was at
# most three times that of the search's data, on 1,293 samples.
_DENSITY_RANGE = 0.5
_PUSH_SPREAD = 0.3
_DENSITY_ENDS = (0.5, 1.5)
_ENTROPY_LEFT = 0.03
_TURNOVER_LEFT = 0.001
_OVERFIT = 4.0
# An objective that has fallen below this share of its start leaves nothing to explore.
_SOLVED = 0.01
# Fewer rows than this tell nothing of how a search went.
_FEWEST_ROWS = 12


@dataclass(frozen=True)
class SearchFindings:
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


def immovable(layout: Layout) -> list[str]:
    """Warn of layers whose channels can be zero, but cannot be cut out: of neither their inputs nor their outputs."""
    names: dict[str, list[str]] = {}
    for place, name in enumerate(layout.names):
        if why := layout.wiring(place).fixed:
            names.setdefault(why, []).append(name)
    return [f"compaction cuts no channel out of {the_first(found)}: {why}" for why, found in names.items()]


@torch.no_grad()
def cut_paths(network: FrozenNetwork, mask: Tensor, feed: Feed, runtime: Runtime) -> list[str]:
    """Warn when the masked network gives the same output for every input: no path leads through it.

    mask: flat, of the network's weights. Outputs that are no tensors, or one number, are not looked at.
    """
    for item in islice(feed.epoch(0), 1):
        output = network.masked(mask.to(network.weights.dtype), runtime.move(item.batch))
        if isinstance(output, Tensor) and output.dim() and len(output) > 1 and bool((output == output[:1]).all()):
            return [
                "the ticket's output is the same for every input: every path through the network is cut; allocation "
                "uniform or erk leaves every layer some weights"
            ]
    return []


def uninformed(objective: str) -> list[str]:
    """Warn of a search that imitates a network which has learned nothing."""
    return [
        f"{objective} imitates the network at the weights where the ticket is drawn, whose outputs do not predict the "
        "targets yet: choose the objective loss, or train the network a little first"
    ]


def closed_gates(hard_density: float, density: float) -> list[str]:
    """Warn of a search that left under half of the wanted gates open, so that the final cut ranks closed ones."""
    if hard_density >= density / 2:
        return []
    return [
        f"only {hard_density:.4%} of the gates were open at the end, under half of the wanted {density:.4%}: the final "
        "cut ranks closed gates; try more steps, or gates that start further open"
    ]


def missed_density(expected_density: float, density: float) -> list[str]:
    """Warn of an expected density that did not come near the wanted one, where weights trained along with the gates."""
    reached = expected_density / density
    if _DENSITY_ENDS[0] < reached < _DENSITY_ENDS[1]:
        return []
    return [
        f"the expected density ended at {reached:.2f} times the wanted one: the final cut decides what the search did "
        "not; train for more epochs, or raise the learning rate of the search"
    ]


def search_signs(findings: SearchFindings, density: float, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn of a search for a ticket of some density that went wrong; rows: what it recorded."""
    signs = closed_gates(findings.hard_density, density)
    if findings.soft >= findings.first:
        signs.append(
            f"the objective {findings.name} did not improve during the search "
            f"({findings.first:.4g} at the start, {findings.soft:.4g} at the end)"
        )
    if len(rows) >= _FEWEST_ROWS:
        signs += _balance_signs(rows, density)
        if not 0 <= findings.soft < _SOLVED * findings.first:
            signs += _exploration_signs(rows)
    return signs + _overfitting_signs(findings)


def _balance_signs(rows: Sequence[Mapping[str, Any]], density: float) -> list[str]:
    """Warn of a balance that swings in the second half of a search, or that ends far from the wanted density."""
    late = rows[len(rows) // 2 :]
    reached = [row["expected_density"] / density for row in late]
    pushes = [row["multiplier"] * row["density_norm"] / row["task_norm"] for row in late if row["task_norm"] > 0]
    if max(reached) - min(reached) > _DENSITY_RANGE:
        return [
            f"the balance is unstable: the expected density swung between {min(reached):.2f} and {max(reached):.2f} "
            "times the wanted one in the second half of the search; try the controller proportional"
        ]
    if max(reached) - min(reached) > _DENSITY_RANGE / 2 and len(pushes) > 1 and stdev(pushes) > _PUSH_SPREAD:
        return [
            f"the balance is unstable: λ pushed between {min(pushes):.2f} and {max(pushes):.2f} times the task's "
            "gradient in the second half of the search; try the controller proportional"
        ]
    if not _DENSITY_ENDS[0] < reached[-1] < _DENSITY_ENDS[1]:
        return [
            f"the balance did not hold: the expected density ended at {reached[-1]:.2f} times the wanted one; try the "
            "controller proportional"
        ]
    return []


def _exploration_signs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn of a search whose gates were decided, and whose choice stood still, after a quarter of it."""
    early = rows[len(rows) // 4 : len(rows) // 2]
    entropy_left = early[0]["entropy"] / rows[0]["entropy"] if rows[0]["entropy"] > 0 else 0.0
    turnover = mean(row["turnover"] for row in early)
    if entropy_left < _ENTROPY_LEFT and turnover < _TURNOVER_LEFT:
        return [
            f"the search stopped exploring early: after a quarter of it {entropy_left:.2%} of the gates' entropy was "
            f"left, and {turnover:.2%} of the chosen weights changed between records; try a lower learning rate of the "
            "search"
        ]
    return []


def _overfitting_signs(findings: SearchFindings) -> list[str]:
    """Warn of a ticket that agrees with the dense network on the search's data only."""
    if findings.name not in {"reverse-kl", "forward-kl"} or findings.held_out is None:
        return []
    if findings.held_out > _OVERFIT * findings.hard:
        return [
            f"the ticket is fitted to the dense network's outputs on the search's data: {findings.name} is "
            f"{findings.held_out:.4g} on held-out data and {findings.hard:.4g} on these; search on more data or "
            "in fewer steps"
        ]
    return []


def window_mean(rows: Sequence[Mapping[str, Any]], key: str, last: bool) -> float:
    """Return the mean of a column over the first or the last tenth of the rows, one row at least."""
    width = max(1, len(rows) // 10)
    chosen = rows[-width:] if last else rows[:width]
    return sum(float(row[key]) for row in chosen) / len(chosen)


def dense_end(left: int, wanted: int) -> list[str]:
    """Warn of a mask that moved along a training and still had more weights than wanted when it ended."""
    if left <= wanted:
        return []
    return [
        f"the mask had {left:,} weights when the training ended, and {wanted:,} are wanted: the final cut decides what "
        "the training did not; the data, which have no length, gave fewer batches in the last epoch than in the first"
    ]
