"""One row for each finder and density: score, cost, and what may be said of the differences."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from tombola.core.measure import ACCURACY, Measure, measure_in
from tombola.storage.files import write_bytes, write_json
from tombola.studies.dense import dense_networks
from tombola.studies.outcome import CellOutcome, failures
from tombola.studies.statistics import Difference, Summary, compare_paired, holm, summarise

# Figures in the text of a warning.
_FIGURE = re.compile(r"\d[\d.,]*")
# A paired difference, and its p value adjusted for all densities.
Gain = tuple[Difference, float | None]


@dataclass(frozen=True)
class KeptWeights:
    """Sparse networks as a finder's own training left them, whose masks moved with it: no tickets, which train anew.

    scores: on test data, as the measure shows them, one a seed that has one. dense_equivalents: of that training, from
    θ₀ on.
    """

    scores: tuple[float, ...]
    score: Summary
    dense_equivalents: float | None
    measure: Measure = ACCURACY

    @property
    def number(self) -> str:
        """The score with its deviation."""
        return self.measure.spread(self.score.mean, self.score.std)

    @property
    def words(self) -> str:
        """The same with its unit."""
        return self.measure.with_unit(self.number)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            self.measure.tests: list(self.scores),
            f"{self.measure.test}_mean": self.score.mean,
            f"{self.measure.test}_std": self.score.std,
            "dense_equivalents": self.dense_equivalents,
        }


@dataclass(frozen=True)
class Row:
    """A finder at a density, over seeds.

    score: on test data, as `measure` shows it: of accuracy in percent. durations: seconds from θ₀ on, one a seed.
    forward, backward: samples from θ₀ on, means. dense_equivalents: samples forward plus twice those backward, over the
    same of one dense training, where samples were counted. speed_up: LTR's seconds over these at the same density,
    where the mean score is no worse than LTR's, both of the seeds that both have.
    objective: of finders that minimise one, its name and its means for the hard tickets before training, on the same
    batches for all finders: of the search's data ("hard"), and held-out ones, whose values are given by seed too.
    dynamics: where they were measured, epoch, KL between sparse and dense outputs and cosine between their gradients,
    means along training. differences: what this finder gains on another, by label, paired by seed. failed: seeds
    without a result. warnings: of the tickets, each once, however many seeds it came up in. trained_from, optimizer: of
    the tickets' training. kept_weights: of finders that leave a sparse network of their own.
    """

    finder: str
    density: float
    kept: int
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    score: Summary
    durations: tuple[float, ...]
    forward: float
    backward: float
    dense_equivalents: float | None
    speed_up: float | None = None
    objective: Mapping[str, Any] | None = None
    dynamics: tuple[tuple[int, float, float], ...] = ()
    differences: dict[str, Gain] = field(default_factory=dict)
    failed: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    trained_from: str = "rewind"
    optimizer: str = ""
    kept_weights: KeptWeights | None = None
    measure: Measure = ACCURACY

    @property
    def seconds(self) -> float:
        """Seconds from θ₀ on, the mean over seeds."""
        return fmean(self.durations)

    @property
    def words(self) -> str:
        """The score with its deviation and unit."""
        return self.measure.with_unit(self.number)

    @property
    def number(self) -> str:
        """The same without the unit."""
        return self.measure.spread(self.score.mean, self.score.std)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "finder": self.finder,
            "density": self.density,
            "kept": self.kept,
            "n": self.score.n,
            "seeds": list(self.seeds),
            self.measure.tests: list(self.scores),
            f"{self.measure.test}_mean": self.score.mean,
            f"{self.measure.test}_std": self.score.std,
            f"{self.measure.test}_interval": None if self.score.low is None else [self.score.low, self.score.high],
            "indicative": self.score.indicative,
            "cost": {
                "seconds": self.seconds,
                "forward": self.forward,
                "backward": self.backward,
                "dense_equivalents": self.dense_equivalents,
            },
            "speed_up_over_ltr": self.speed_up,
            "objective": self.objective and dict(self.objective),
            "dynamics": [{"epoch": epoch, "kl": kl, "cosine": cosine} for epoch, kl, cosine in self.dynamics],
            "differences": {
                other: {**asdict(found.summary), "p": found.p, "p_holm": p, "verdict": found.verdict}
                for other, (found, p) in self.differences.items()
            },
            "failed_seeds": list(self.failed),
            "warnings": list(self.warnings),
            "trained_from": self.trained_from,
            "optimizer": self.optimizer,
            "kept_weights": self.kept_weights and self.kept_weights.to_dict(),
        }


def warnings_of(rows: Sequence[Row]) -> list[str]:
    """Return what tickets were warned of, a sentence each; a finder's that differ in figures alone are one."""
    alike: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for row in rows:
        for warning in row.warnings:
            alike.setdefault((row.finder, _FIGURE.sub("#", warning)), []).append((row.density, warning))
    found = []
    for (finder, _), several in alike.items():
        where = ", ".join(f"{100 * density:.4g} %" for density in dict.fromkeys(density for density, _ in several))
        more = f" (and {len(several) - 1} more of that kind, with other figures)" if len(several) > 1 else ""
        found.append(f"{finder} at {where}: {several[0][1]}{more}")
    return found


def tabulate(outcomes: Sequence[CellOutcome]) -> list[Row]:
    """Return the rows of a study, the densities falling, finders in the order in which they were asked for.

    Intervals of differences hold over all densities together (Bonferroni); p values are adjusted for them (Holm).
    """
    labels = list(dict.fromkeys(outcome.cell.label for outcome in outcomes))
    densities = sorted({outcome.cell.density for outcome in outcomes}, reverse=True)
    cells = {(label, density): _row(outcomes, label, density) for density in densities for label in labels}
    rows = {key: row for key, row in cells.items() if row is not None}
    for label in labels:
        for other in labels:
            if label != other:
                _compare(rows, label, other, densities)
    return [
        _with_speed_up(rows, rows[label, density])
        for density in densities
        for label in labels
        if (label, density) in rows
    ]


def _row(outcomes: Sequence[CellOutcome], label: str, density: float) -> Row | None:
    """Return one row without its differences, or None while there is no result."""
    own = [o for o in outcomes if (o.cell.label, o.cell.density) == (label, density)]
    done = [(o.cell.seed, o.values) for o in own if o.values is not None]
    if not done:
        return None
    values = [found for _, found in done]
    measure = measure_in(values[0])
    scores = tuple(found[measure.test] for found in values)
    equivalents = [found["dense_equivalents"] for found in values]
    return Row(
        finder=label,
        density=density,
        kept=round(fmean(found["kept"] for found in values)),
        seeds=tuple(seed for seed, _ in done),
        scores=scores,
        score=summarise(scores),
        measure=measure,
        durations=tuple(found["cost"]["seconds"] for found in values),
        forward=fmean(found["cost"]["forward"] for found in values),
        backward=fmean(found["cost"]["backward"] for found in values),
        dense_equivalents=None if None in equivalents else fmean(equivalents),
        objective=_objective(values),
        dynamics=_dynamics(values),
        failed=tuple(o.cell.seed for o in own if o.failure),
        warnings=tuple(dict.fromkeys(text for found in values for text in found.get("warnings", ()))),
        trained_from=values[0].get("trained_from", "rewind"),
        optimizer=values[0].get("optimizer", ""),
        kept_weights=_kept_weights(values),
    )


def _kept_weights(values: Sequence[Mapping[str, Any]]) -> KeptWeights | None:
    found = [each["kept_weights"] for each in values if each.get("kept_weights")]
    if not found:
        return None
    measure = measure_in(values[0])
    scores = tuple(each[measure.test] for each in found)
    equivalents = [each["dense_equivalents"] for each in found]
    return KeptWeights(scores, summarise(scores), None if None in equivalents else fmean(equivalents), measure)


def _objective(values: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    found = [each["objective"] for each in values if each.get("objective")]
    if not found:
        return None
    held_out = [each["held_out"] for each in found if each.get("held_out") is not None]
    return {
        "name": found[0]["name"],
        "hard": fmean(each["hard"] for each in found),
        "held_out": fmean(held_out) if held_out else None,
        "held_out_values": held_out,
    }


def _dynamics(values: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, float, float], ...]:
    trajectories = [each["dynamics"] for each in values if "dynamics" in each]
    return tuple(
        (points[0]["epoch"], fmean(each["kl"] for each in points), fmean(each["cosine"] for each in points))
        for points in zip(*trajectories, strict=True)
    )


def _compare(rows: dict[tuple[str, float], Row], label: str, other: str, densities: Sequence[float]) -> None:
    """Add to the rows of a finder its differences from another, at all densities where both have seeds in common."""
    found: dict[float, Difference] = {}
    places = [density for density in densities if (label, density) in rows and (other, density) in rows]
    for density in places:
        mine, theirs = (
            dict(zip(row.seeds, row.scores, strict=True)) for row in (rows[label, density], rows[other, density])
        )
        common = [seed for seed in mine if seed in theirs]
        if common:
            found[density] = compare_paired(
                [mine[seed] for seed in common],
                [theirs[seed] for seed in common],
                comparisons=len(places),
                measure=rows[label, density].measure,
            )
    tested = [density for density, difference in found.items() if difference.p is not None]
    adjusted = dict(zip(tested, holm([found[density].p or 0.0 for density in tested]), strict=True))
    for density, difference in found.items():
        rows[label, density].differences[other] = (difference, adjusted.get(density))


def _with_speed_up(rows: dict[tuple[str, float], Row], row: Row) -> Row:
    ltr, (gain, _) = rows.get(("ltr", row.density)), row.differences.get("ltr", (None, None))
    if ltr is None or gain is None or gain.summary.mean < 0:
        return row
    mine, theirs = (dict(zip(each.seeds, each.durations, strict=True)) for each in (row, ltr))
    taken = sum(mine[seed] for seed in mine if seed in theirs)
    return replace(row, speed_up=sum(theirs[seed] for seed in theirs if seed in mine) / taken) if taken else row


def summary(rows: Sequence[Row], outcomes: Sequence[CellOutcome]) -> dict[str, Any]:
    """Return a study as plain values: its rows, the dense network's mean score, and what failed.

    Where cells have several dense networks, there is a list of these in place of one mean.
    """
    networks = dense_networks(outcomes)
    measure = measure_of(outcomes)
    mean = f"{measure.dense_test}_mean"
    several = [
        {"finders": list(each.finders), "seeds": list(each.scores), mean: fmean(each.scores.values())}
        for each in networks
    ]
    return {
        "rows": [row.to_dict() for row in rows],
        **({mean: several[0][mean]} if len(several) == 1 else {"dense_networks": several}),
        **measure.noted(),
        "failures": failures(outcomes),
    }


def measure_of(outcomes: Sequence[CellOutcome]) -> Measure:
    """Return how the results of a study are measured, accuracy while there are none."""
    return next((measure_in(o.values) for o in outcomes if o.values is not None), ACCURACY)


def dense_means(found: Mapping[str, Any]) -> dict[str, float]:
    """Return by finder the mean score of the dense network that it is held against; found: as `summary` gives it."""
    mean = f"{measure_in(found).dense_test}_mean"
    if mean in found:
        return {row["finder"]: found[mean] for row in found["rows"]}
    return {finder: each[mean] for each in found["dense_networks"] for finder in each["finders"]}


def gains_of(rows: Sequence[Row], against: str) -> dict[tuple[str, float], Gain]:
    """Return what a finder gains on each other one, by that one's label and the density."""
    return {
        (other, row.density): gain for row in rows if row.finder == against for other, gain in row.differences.items()
    }


def write_tables(rows: Sequence[Row], found: Mapping[str, Any], first: str, out: Path) -> None:
    """Write a study below `out`: table.json as `summary` gives it, and table.csv, one line a row.

    first: the finder whose gain on each other and its verdict the lines end with.
    """
    gains = gains_of(rows, first)
    text = io.StringIO()
    lines = [_line(row, gains.get((row.finder, row.density))) for row in rows]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_json(out / "table.json", found)
    # A name may come from a file system and be no text.
    write_bytes(out / "table.csv", text.getvalue().encode(errors="backslashreplace"))


def _line(row: Row, gain: Gain | None) -> dict[str, Any]:
    return {
        "finder": row.finder,
        "density": row.density,
        "kept": row.kept,
        "n": row.score.n,
        f"{row.measure.test}_mean": row.score.mean,
        f"{row.measure.test}_std": row.score.std,
        f"{row.measure.test}_low": row.score.low,
        f"{row.measure.test}_high": row.score.high,
        "seconds": row.seconds,
        "forward": row.forward,
        "backward": row.backward,
        "dense_equivalents": row.dense_equivalents,
        "speed_up_over_ltr": row.speed_up,
        "trained_from": row.trained_from,
        "optimizer": row.optimizer,
        "kept_weights_mean": row.kept_weights and row.kept_weights.score.mean,
        "kept_weights_std": row.kept_weights and row.kept_weights.score.std,
        "kept_weights_dense_equivalents": row.kept_weights and row.kept_weights.dense_equivalents,
        "failed_seeds": " ".join(map(str, row.failed)),
        "gain_of_first": gain and gain[0].summary.mean,
        "first_is": gain and gain[0].verdict,
    }
