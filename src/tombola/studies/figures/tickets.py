"""Figures of the tickets themselves: how dense they leave each layer, and what they have in common."""

from collections.abc import Mapping
from statistics import fmean

import numpy as np

from tombola.errors import TombolaError
from tombola.studies.figures.drawing import Figure, Heat
from tombola.studies.figures.scores import percent, some_densities
from tombola.studies.reading import Study
from tombola.studies.reading.study import ReadCell

_MOST_HEATS = 4
# By layer, a mask's bits, eight to a byte.
Packed = Mapping[str, np.ndarray]


def layers(study: Study) -> Figure | None:
    """Return the density of every layer under every finder, a panel for each of some densities."""
    panels = []
    for density in some_densities(study.densities, _MOST_HEATS):
        found: dict[str, dict[str, list[float]]] = {}
        for cell, totals, values in _with_totals(study, density):
            for name, kept in values.items():
                found.setdefault(cell.label, {}).setdefault(name, []).append(100 * kept / totals[name])
        if found:
            panels.append(_layer_heat(density, found))
    if not panels:
        return None
    caption = (
        "Weights kept of each layer, in percent, means over seeds; layers from the input to the output. The colours "
        "are relative to the densest layer of the panel."
    )
    return Figure("layers", "Density by layer", caption, tuple(panels))


def _layer_heat(density: float, found: Mapping[str, Mapping[str, list[float]]]) -> Heat:
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    means = {label: {name: fmean(values) for name, values in each.items()} for label, each in found.items()}
    values = tuple(tuple(means[label].get(name) for name in names) for label in means)
    top = max(value for row in values for value in row if value is not None)
    return Heat(f"{percent(density)} of the weights", tuple(means), tuple(names), values, "%", top or 1.0)


def _with_totals(study: Study, density: float) -> list[tuple[ReadCell, dict[str, int], dict[str, int]]]:
    """Return the cells of a density with their layers' weights and kept weights; totals from one ticket a network."""
    totals: dict[tuple[str, int, tuple[str, ...]], dict[str, int]] = {}
    found = []
    for cell, values in study.done:
        if cell.density != density:
            continue
        kept = values["kept_by_layer"]
        key = (cell.recipe, values["prunable"], tuple(kept))
        if key not in totals:
            totals[key] = _totals(cell)
        if totals[key].keys() >= kept.keys():
            found.append((cell, totals[key], kept))
    return found


def _totals(cell: ReadCell) -> dict[str, int]:
    from tombola.ticket import Ticket

    assert cell.directory is not None
    try:
        shapes = Ticket.load(cell.directory / "ticket.safetensors").shapes
    except TombolaError:
        return {}
    return {name: int(np.prod(shape)) for name, shape in shapes.items()}


def overlap(study: Study) -> Figure | None:
    """Return which share of their weights tickets of the same seed have in common; None of fewer than two finders."""
    panels = []
    for density in some_densities(study.densities, _MOST_HEATS):
        shares: dict[tuple[str, str], list[float]] = {}
        for seed in study.seeds:
            masks = _masks(study, density, seed)
            for first, ours in masks.items():
                for second, theirs in masks.items():
                    if first != second and (share := _shared(ours, theirs)) is not None:
                        shares.setdefault((first, second), []).append(100 * share)
        if shares:
            panels.append(_overlap_heat(study, density, shares))
    if not panels:
        return None
    caption = (
        "Weights of the row's ticket that the column's ticket of the same seed keeps too, in percent, means over "
        "seeds. Tickets that have nothing to do with each other share about their density."
    )
    return Figure("overlap", "What tickets have in common", caption, tuple(panels))


def _overlap_heat(study: Study, density: float, shares: Mapping[tuple[str, str], list[float]]) -> Heat:
    labels = tuple(label for label in study.finders if any(label in pair for pair in shares))
    values = tuple(
        tuple(fmean(shares[first, second]) if (first, second) in shares else None for second in labels)
        for first in labels
    )
    return Heat(f"{percent(density)} of the weights", labels, labels, values, "%", 100.0)


def _masks(study: Study, density: float, seed: int) -> dict[str, Packed]:
    from tombola.ticket import Ticket

    found: dict[str, Packed] = {}
    for cell, _ in study.done:
        if (cell.density, cell.seed) == (density, seed) and cell.directory:
            try:
                found[cell.label] = Ticket.load(cell.directory / "ticket.safetensors").packed
            except TombolaError:
                continue  # `tombola list` names what is damaged
    return found


def _shared(ours: Packed, theirs: Packed) -> float | None:
    """Return which share of our weights another ticket keeps, None where layers differ or we keep nothing."""
    if {name: bits.shape for name, bits in ours.items()} != {name: bits.shape for name, bits in theirs.items()}:
        return None
    kept = sum(int(np.bitwise_count(bits).sum()) for bits in ours.values())
    both = sum(int(np.bitwise_count(bits & theirs[name]).sum()) for name, bits in ours.items())
    return both / kept if kept else None
