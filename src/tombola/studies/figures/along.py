"""Figures of what happens along the way: searches, trainings, and how these follow the dense network's."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tombola.studies.figures.drawing import Figure, Line, Mark, Panel
from tombola.studies.figures.scales import Axis, linear_axis, log_axis
from tombola.studies.figures.scores import percent
from tombola.studies.figures.style import DENSE, Style, styles
from tombola.studies.reading import Study

SEARCH, TRAINING, DENSE_TRAINING = "search", "ticket training", "dense training"
# Points of a line; more than the eye, or a page, can hold are thinned.
_MOST_POINTS = 200


@dataclass(frozen=True)
class _Quantity:
    """A figure over time. key: in metrics. title: of its axis. scale: what its values are multiplied by."""

    key: str
    title: str
    scale: float = 1.0
    log: bool = False


_SEARCH = (
    _Quantity("objective", "objective"),
    _Quantity("expected_density", "expected density (%)", 100.0),
    _Quantity("multiplier", "multiplier λ"),
    _Quantity("entropy", "entropy of gates (nats)"),
)
_LOSS = _Quantity("loss", "training loss", log=True)
Rows = dict[str, list[list[dict[str, Any]]]]


def search(study: Study) -> Figure | None:
    """Return objective, density, multiplier and entropy along the searches at the smallest density that has any."""
    for density in reversed(study.densities):
        rows = _rows(study, density, SEARCH)
        panels = _panels(rows, _SEARCH, "step", styles(study.finders))
        if panels:
            caption = (
                f"What searches noted on their way at {percent(density)} of the weights, means over seeds: the "
                "objective of the sampled masks, the density that the gates expect, the multiplier of the density, and "
                "the mean entropy of the gates, which falls to zero as they decide."
            )
            return Figure("search", "Searches on their way", caption, panels)
    return None


def training(study: Study) -> Figure | None:
    """Return held-out score and loss along the tickets' training at the smallest density, beside the dense one."""
    for density in reversed(study.densities):
        look = {**styles(study.finders), "dense": Style(DENSE, "circle", "longdash", "dense")}
        rows = _rows(study, density, TRAINING)
        if rows:
            score = _Quantity("held_out_metric", f"held-out {study.measure.words}", study.measure.scale)
            panels = _panels({**_dense_rows(study), **rows}, (score, _LOSS), "epoch", look)
            beside = " beside the dense network's" if len(study.dense) == 1 else ""
            caption = f"Training at {percent(density)} of the weights{beside}, means over seeds."
            return Figure("training", "Training", caption, panels) if panels else None
    return None


def dynamics(study: Study) -> Figure | None:
    """Return how tickets follow the dense network in training at the smallest density where that was measured."""
    look = styles(study.finders)
    followed = [row for row in study.rows if row.dynamics]
    if not followed:
        return None
    density = min(row.density for row in followed)
    followed = [row for row in followed if row.density == density]
    panels = []
    for column, title in ((1, "KL(sparse ‖ dense) of outputs (nats)"), (2, "cosine of gradients, kept weights")):
        series = {row.finder: [(float(point[0]), float(point[column])) for point in row.dynamics] for row in followed}
        panels.append(_panel(series, "epoch", title, False, look))
    caption = (
        f"How the tickets' training follows the dense network's at {percent(density)} of the weights, means over "
        "seeds: the divergence of their outputs on the same batches, and the cosine between their gradients in the "
        "weights that the ticket keeps."
    )
    return Figure("dynamics", "Ticket beside dense network", caption, tuple(panels))


def _rows(study: Study, density: float, stage: str) -> Rows:
    """Return the rows of a stage by finder, one list a seed."""
    found: Rows = {}
    for cell, _ in study.done:
        if cell.density == density:
            rows = [row for row in study.metrics_of(cell) if row["stage"] == stage]
            if rows:
                found.setdefault(cell.label, []).append(rows)
    return found


def _dense_rows(study: Study) -> Rows:
    """Return those of the dense training, from the first cell of each seed: all cells of a seed share it.

    None where finders have several dense networks.
    """
    if len(study.dense) != 1:
        return {}
    found: dict[int, list[dict[str, Any]]] = {}
    for cell, _ in study.done:
        if cell.seed not in found:
            rows = [row for row in study.metrics_of(cell) if row["stage"] == DENSE_TRAINING]
            if rows:
                found[cell.seed] = rows
    return {"dense": list(found.values())} if found else {}


def _panels(rows: Rows, quantities: Iterable[_Quantity], time: str, look: dict[str, Style]) -> tuple[Panel, ...]:
    panels = []
    for quantity in quantities:
        series = {label: points for label, runs in rows.items() if (points := _means(runs, time, quantity))}
        if series:
            panels.append(_panel(series, time, quantity.title, quantity.log, look))
    return tuple(panels)


def _means(runs: Sequence[Sequence[dict[str, Any]]], time: str, quantity: _Quantity) -> list[tuple[float, float]]:
    """Return the means over seeds of a figure, by time."""
    found: dict[float, list[float]] = {}
    for row in (row for run in runs for row in run):
        when, value = _number(row.get(time)), _number(row.get(quantity.key))
        if when is not None and value is not None and math.isfinite(value):
            found.setdefault(when, []).append(quantity.scale * value)
    points = [(when, fmean(values)) for when, values in sorted(found.items())]
    return points[:: -(-len(points) // _MOST_POINTS)] if points else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _panel(
    series: dict[str, list[tuple[float, float]]], time: str, title: str, log: bool, look: dict[str, Style]
) -> Panel:
    times = [when for points in series.values() for when, _ in points]
    values = [value for points in series.values() for _, value in points]
    # Positive figures over several powers of ten, such as a loss that nears zero.
    make: Callable[..., Axis] = log_axis if log and min(values) > 0 and max(values) > 30 * min(values) else linear_axis
    lines = tuple(
        Line(label, look[label], tuple(Mark(x, y, text=f"{label}\n{time} {x:g}\n{title}: {y:.5g}") for x, y in points))
        for label, points in series.items()
    )
    return Panel("", linear_axis(times, time, lowest=0.0, whole=True), make(values, title), lines)
