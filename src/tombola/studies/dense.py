"""The dense networks of a study: one for each configuration of model, data and training, whatever the finder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from tombola.core.measure import measure_in
from tombola.studies.outcome import CellOutcome
from tombola.studies.statistics import Summary, summarise

# What a configuration says of tickets, of the machine, or of one cell among many; the dense network is the same.
_NOT_OF_DENSE = (
    "finder", "density", "seed", "draw_at", "rewind_to", "train_from", "search_precision", "include", "exclude",
    "tracker", "device", "execution", "threads",
)  # fmt: skip
# What a dense training costs depends on these, as far as a configuration tells.
_OF_COST = ("model", "task", "data", "train_samples", "held_out", "image_size", "augmentation")


def recipe_of(config: Mapping[str, Any]) -> str:
    """Return what a dense network depends on beside its seed, of a configuration as plain values."""
    return json.dumps({k: v for k, v in config.items() if k not in _NOT_OF_DENSE}, sort_keys=True, default=str)


@dataclass(frozen=True)
class DenseNetwork:
    """A dense network.

    finders: by label, whose tickets are held against it. scores: on test data, by seed. recipe: as `recipe_of` has it.
    """

    finders: tuple[str, ...]
    scores: Mapping[int, float]
    recipe: str = ""

    @cached_property
    def summary(self) -> Summary:
        """The score over seeds."""
        return summarise(list(self.scores.values()))


def dense_networks(outcomes: Sequence[CellOutcome]) -> list[DenseNetwork]:
    """Return the dense networks of a study, in the order of its cells; none while no cell is finished."""
    labels: dict[str, list[str]] = {}
    scores: dict[str, dict[int, float]] = {}
    for outcome in outcomes:
        if outcome.values is not None:
            cell, recipe = outcome.cell, outcome.cell.recipe  # which writes a whole configuration out
            labels.setdefault(recipe, []).append(cell.label)
            dense = outcome.values[measure_in(outcome.values).dense_test]
            scores.setdefault(recipe, {})[cell.seed] = dense
    return [DenseNetwork(tuple(dict.fromkeys(labels[recipe])), found, recipe) for recipe, found in scores.items()]


def means_by_finder(networks: Sequence[DenseNetwork]) -> dict[str, float]:
    """Return by label the mean score of the dense network that a finder's tickets are held against."""
    return {label: network.summary.mean for network in networks for label in network.finders}


def dense_beside(networks: Sequence[DenseNetwork], label: str, seeds: Sequence[int]) -> float:
    """Return the mean score over some seeds of the dense network that a finder's tickets are held against."""
    network = next(network for network in networks if label in network.finders)
    return fmean(network.scores[seed] for seed in seeds)


def alike_in_cost(networks: Sequence[DenseNetwork]) -> bool:
    """Whether one training of each dense network is as much work as one of any other."""
    recipes = [json.loads(network.recipe or "{}") for network in networks]
    work = [[each.get(key) for key in _OF_COST] + [(each.get("training") or {}).get("epochs")] for each in recipes]
    return all(each == work[0] for each in work)
