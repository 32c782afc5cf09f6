"""A comparison as pandas DataFrames. Accuracies are percentages, densities fractions, differences points."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tombola.errors import TombolaError
from tombola.studies.dense import means_by_finder
from tombola.studies.reading.questions import cost_unit, equal_cost, falls
from tombola.studies.reading.study import Study
from tombola.studies.table import gains_of

_KEYS = ("finder", "density", "seed")
# Whole numbers also where some are not known.
_COUNTS = ("effective_nodes", "effective_weights", "kept", "prunable", "forward", "backward")


def cells(study: Study) -> pd.DataFrame:
    """Return one line a cell; state is finished, failed or missing, and what is not known is NaN, of counts NA."""
    measured = (study.measure.test, "test_loss", study.measure.dense_test, "dense_test_loss")
    lines = [_cell(outcome, measured) for outcome in study.outcomes]
    frame = pd.DataFrame(lines)
    whole = [name for name in _COUNTS if name in frame and all(isinstance(each[name], int | None) for each in lines)]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def _cell(outcome: Any, measured: Sequence[str]) -> dict[str, Any]:
    values: Mapping[str, Any] = outcome.values or {}
    stages: Mapping[str, float] = values.get("seconds_by_stage") or {}
    cost: Mapping[str, Any] = values.get("cost") or {}
    objective: Mapping[str, Any] = values.get("objective") or {}
    paths: Mapping[str, Any] = values.get("paths") or {}
    return {
        "finder": outcome.cell.label,
        "density": outcome.cell.density,
        "seed": outcome.cell.seed,
        "state": "failed" if outcome.failure else "finished" if values else "missing",
        **{name: values.get(name) for name in measured},
        f"kept_weights_{measured[0].removeprefix('test_')}": (values.get("kept_weights") or {}).get(measured[0]),
        "trained_from": values.get("trained_from"),
        "optimizer": values.get("optimizer"),
        "effective_nodes": paths.get("nodes"),
        "effective_weights": paths.get("weights"),
        "log_paths": paths.get("log_paths"),
        "kept": values.get("kept"),
        "prunable": values.get("prunable"),
        "seconds": cost.get("seconds"),
        "forward": cost.get("forward"),
        "backward": cost.get("backward"),
        "dense_equivalents": values.get("dense_equivalents"),
        **{f"seconds_of_{name.replace(' ', '_')}": seconds for name, seconds in stages.items()},
        "objective": objective.get("name"),
        "objective_hard": objective.get("hard"),
        "objective_held_out": objective.get("held_out"),
        "warnings": "; ".join(map(str, values.get("warnings") or ())),
        "failure": outcome.failure,
        "run": outcome.cell.directory.name if outcome.cell.directory else "",
    }


def metrics(study: Study) -> pd.DataFrame:
    """Return what was noted over time: finder, density, seed, stage, epoch or step, and the figures of that stage.

    mask_density: of a mask that moves, at that time.
    """
    lines = [
        {"finder": cell.label, "density": cell.density, "seed": cell.seed, **_beside_the_cell(row)}
        for cell, _ in study.done
        for row in study.metrics_of(cell)
    ]
    return pd.DataFrame(lines, columns=None if lines else [*_KEYS, "stage"])


def _beside_the_cell(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures whose names are none of the cell's own: a mask that moves has a density of the moment."""
    return {f"mask_{name}" if name in _KEYS else name: value for name, value in row.items()}


def layers(study: Study) -> pd.DataFrame:
    """Return weights, weights kept, density and dead units of each layer of each cell; loads PyTorch."""
    from tombola.ticket import Ticket

    lines: list[dict[str, Any]] = []
    for cell, _ in study.done:
        assert cell.directory is not None
        try:
            ticket = Ticket.load(cell.directory / "ticket.safetensors")
        except TombolaError:
            continue  # `tombola list` names what is damaged
        dead, kept, density = ticket.dead_units, ticket.kept_by_layer, ticket.density_by_layer
        lines += [
            {
                "finder": cell.label,
                "density": cell.density,
                "seed": cell.seed,
                "layer": name,
                "shape": "x".join(map(str, shape)),
                "kept": kept[name],
                "layer_density": density[name],
                "dead_units": dead.get(name, 0),
            }
            for name, shape in ticket.shapes.items()
        ]
    return pd.DataFrame(lines, columns=None if lines else [*_KEYS, "layer", "kept", "layer_density"])


def summary(study: Study, against: str) -> pd.DataFrame:
    """Return one line for each finder and density; gain and verdict are those of `against` over the line's finder.

    Where finders have several dense networks, dense is the mean score of the line's own.
    """
    dense = means_by_finder(study.dense) if len(study.dense) > 1 else {}
    gains = gains_of(study.rows, against)
    lines = []
    for row in study.rows:
        gain = gains.get((row.finder, row.density))
        lines.append(
            {
                "finder": row.finder,
                "density": row.density,
                "kept": row.kept,
                "n": row.score.n,
                "mean": row.score.mean,
                "std": row.score.std,
                "low": row.score.low,
                "high": row.score.high,
                "seconds": row.seconds,
                "dense_equivalents": row.dense_equivalents,
                "kept_weights_mean": row.kept_weights.score.mean if row.kept_weights else None,
                "kept_weights_std": row.kept_weights.score.std if row.kept_weights else None,
                "trained_from": row.trained_from,
                "optimizer": row.optimizer,
                "gain": gain and gain[0].summary.mean,
                "verdict": gain[0].verdict if gain else "",
                **({"dense": dense[row.finder]} if dense else {}),
            }
        )
    return pd.DataFrame(lines)


def differences(study: Study, against: str) -> pd.DataFrame:
    """Return what `against` gains on every other finder at every density, paired by seed."""
    lines = [
        {
            "finder": against,
            "other": other,
            "density": density,
            "n": found.summary.n,
            "mean": found.summary.mean,
            "std": found.summary.std,
            "low": found.summary.low,
            "high": found.summary.high,
            "p": found.p,
            "p_holm": adjusted,
            "verdict": found.verdict,
        }
        for (other, density), (found, adjusted) in gains_of(study.rows, against).items()
    ]
    return pd.DataFrame(lines)


def equal_cost_frame(study: Study, against: str) -> pd.DataFrame:
    """Return `questions.equal_cost` as a frame; `unit` says what costs are counted in."""
    unit = cost_unit(study.rows, study.dense)
    own, name = {row.density: row.score.mean for row in study.rows if row.finder == against}, study.measure.key
    lines = [
        {
            "density": found.density,
            "finder": against,
            name: own[found.density],
            "budget": found.budget,
            "unit": unit,
            "other": found.finder,
            "variant": found.label,
            "cost": found.cost,
            f"{name}_of_other": found.score,
            "gain": found.gain and found.gain.summary.mean,
            "verdict": found.gain.verdict if found.gain else "costs more" if found.label is None else "",
        }
        for found in equal_cost(study.rows, against, unit)
    ]
    return pd.DataFrame(lines)


def falls_frame(study: Study) -> pd.DataFrame:
    """Return `questions.falls` as a frame: `density` is NaN where it lies outside of what was measured."""
    return pd.DataFrame(
        [
            {"finder": fall.finder, "density": fall.density, "holds": fall.holds, "falls_at": fall.words}
            for fall in falls(study.rows, study.dense)
        ]
    )
