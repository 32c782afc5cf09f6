"""report.html: one file that needs no other and no network."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

import yaml

from tombola.core.measure import ACCURACY, Measure, measure_in
from tombola.literal import literal
from tombola.studies.dense import means_by_finder
from tombola.studies.figures import figures_of
from tombola.studies.figures.drawing import Figure
from tombola.studies.figures.interactive import plot
from tombola.studies.figures.scores import percent
from tombola.studies.reading import Study, equal_cost, falls
from tombola.studies.reading.questions import SAME_COST, cost_of, cost_unit, why_seconds
from tombola.studies.report import words
from tombola.studies.statistics import Summary, summarise
from tombola.studies.table import Row, gains_of
from tombola.version import __version__


@dataclass(frozen=True)
class Table:
    """A table of the page. anchors: of its rows, where points of figures lead to them."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    anchors: tuple[str, ...] = ()


def report(study: Study, against: str, place: Path) -> str:
    """Return the page of a comparison. against: the finder others are held against. place: the file it is to be."""
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    figures = figures_of(study, against)
    environment = Environment(
        loader=PackageLoader("tombola.studies.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["literal"] = literal
    common, own = words.differing(study.configurations)
    folder = files("tombola.studies.report").joinpath("templates")
    return environment.get_template("report.html.jinja").render(
        title=words.title_of(study),
        compared=list(words.compared(study)),
        finding=list(words.finding(study, against)),
        figures=[_figure(study, figure, against) for figure in figures],
        plots=_for_script([plot(panel) for figure in figures for panel in figure.panels]),
        tables=list(_tables(study, against)),
        runs=_runs(study, place),
        warnings=list(words.warnings(study)),
        audits=[_audit(values) for values in study.audits],
        common=_yaml(common),
        own={label: _yaml(values) for label, values in own.items() if values},
        environments=[", ".join(f"{key} {value}" for key, value in each.items()) for each in study.environments],
        command=_command(study.command),
        version=__version__,
        script=folder.joinpath("report.js").read_text(encoding="utf-8"),
        style=folder.joinpath("report.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _for_script(values: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it ends the element."""
    return json.dumps(values).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(study: Study, figure: Figure, against: str) -> dict[str, Any]:
    which = ["--study", study.name] if study.others else []
    which += ["--against", against] if against != study.chosen() else []
    command = _command(["report", str(study.directory), *which, "--figures", "figures", "--only", figure.name])
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "count": len(figure.panels),
        "command": command,
    }


def _command(arguments: Sequence[str]) -> str:
    return f"tombola {shlex.join(arguments)}" if arguments else ""


def _yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False) if values else ""


def _interval(found: Summary, measure: Measure) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"{measure.number(found.low)} to {measure.number(found.high)}"


def _tables(study: Study, against: str) -> Iterator[Table]:
    yield _scores(study, against)
    if len(study.finders) > 1:
        yield _equal_cost(study, against)
    if study.dense and len(study.densities) > 1:
        rows = tuple((fall.finder, fall.words) for fall in falls(study.rows, study.dense))
        side = f"{study.measure.tolerance_words} {study.measure.worse_side}"
        note = f"Where the mean falls more than {side} the dense network's, between measured densities."
        yield Table("Where finders fall behind", note, ("finder", f"falls {side} dense at"), rows)
    yield from _paths(study)


def _paths(study: Study) -> Iterator[Table]:
    """Yield the table of effective nodes, weights and paths, where runs know them."""
    rows = []
    for row in study.rows:
        found = [
            values["paths"] | {"kept": values["kept"]}
            for cell, values in study.done
            if (cell.label, cell.density) == (row.finder, row.density) and "nodes" in (values.get("paths") or {})
        ]
        if found:
            logs = [each["log_paths"] for each in found if each["log_paths"] is not None]
            nodes = f"{fmean(each['nodes'] for each in found):,.0f} of {found[0]['of']:,}"
            paths = f"{fmean(logs):.2f}" if logs else "no path"
            rows.append((row.finder, percent(row.density), nodes, _at_work(found), paths))
    if rows:
        note = "Units and weights on a path of kept weights from inputs to outputs, and the logarithm of the paths."
        columns = ("finder", "density", "nodes", "weights", "ln paths")
        yield Table("Effective nodes, weights and paths", note, columns, tuple(rows))


def _at_work(found: Sequence[Mapping[str, Any]]) -> str:
    """Return how many kept weights lie on a path, a mean; nothing of results from before they were counted."""
    known = [each for each in found if "weights" in each]
    if not known:
        return ""
    return f"{fmean(each['weights'] for each in known):,.0f} of {fmean(each['kept'] for each in known):,.0f}"


def _scores(study: Study, against: str) -> Table:
    unit = cost_unit(study.rows, study.dense)
    gains = gains_of(study.rows, against)
    with_kept = any(row.kept_weights for row in study.rows)
    dense = means_by_finder(study.dense) if len(study.dense) > 1 else {}
    rows, measure = [], study.measure
    for row in study.rows:
        gain, adjusted = gains.get((row.finder, row.density), (None, None))
        rows.append(
            (
                row.finder,
                percent(row.density),
                f"{row.kept:,}",
                row.number,
                _interval(row.score, measure),
                str(row.score.n),
                f"{cost_of(row, unit):,.2f}",
                measure.signed(gain.summary.mean) if gain else "",
                _interval(gain.summary, measure) if gain else "",
                "" if adjusted is None else f"{adjusted:.3g}",
                gain.verdict if gain else "",
                *(_own_weights(row) if with_kept else ()),
                *((measure.number(dense[row.finder]),) if dense else ()),
            )
        )
    columns = (
        "finder", "density", "kept", f"test {measure.words}", "95 % interval", "n", unit, f"{against} gains",
        "interval", "p (Holm)", f"{against} is",
        *((f"kept weights{measure.words.removeprefix(measure.name)}",) if with_kept else ()),
        *(("dense",) if dense else ()),
    )  # fmt: skip
    note = (
        "Mean and standard deviation over seeds. Gains are paired by seed; their intervals hold over all densities "
        "together (Bonferroni), as p values do (Holm)."
    )
    if measure.in_percent:
        note += " Not worse: by half a point at most."
    if with_kept:
        note += " Kept weights: the network at the end of the finder's own training, whose mask moved; no ticket."
    if dense:
        note += " Dense: the mean of the dense network that was trained as the tickets of the row were."
    if why := why_seconds(study.rows, unit):
        note += f" {why}"
    title = "Accuracies" if measure == ACCURACY else measure.title
    return Table(title, note, columns, tuple(rows), tuple(f"row-{n}" for n in range(len(rows))))


def _own_weights(row: Row) -> tuple[str]:
    return (row.kept_weights.number if row.kept_weights else "",)


def _equal_cost(study: Study, against: str) -> Table:
    unit = cost_unit(study.rows, study.dense)
    rows = tuple(
        (
            percent(found.density),
            f"{found.budget:,.2f}",
            found.finder,
            found.label or "costs more",
            f"{found.cost:,.2f}",
            "" if found.score is None else study.measure.number(found.score),
            study.measure.signed(found.gain.summary.mean) if found.gain else "",
            found.gain.verdict if found.gain else "",
        )
        for found in equal_cost(study.rows, against, unit)
    )
    columns = (
        "density", f"{against} costs ({unit})", "finder", "its best within that", "which costs",
        f"test {study.measure.words}", f"{against} gains", f"{against} is",
    )  # fmt: skip
    note = (
        f"The best that every other finder, variants taken together, reaches for what {against} costs, or up to "
        f"{SAME_COST - 1:.0%} more."
    )
    return Table(f"{study.measure.title} at equal cost", note, columns, rows)


def _runs(study: Study, place: Path) -> list[dict[str, Any]]:
    """Return the runs of each row of the table, with links to them from where the page lies."""
    return [_runs_of(study, row, place) for row in study.rows]


def _runs_of(study: Study, row: Row, place: Path) -> dict[str, Any]:
    runs = [
        {
            "seed": cell.seed,
            "score": study.measure.shown(values[study.measure.test]),
            "name": cell.directory.name if cell.directory else "",
            "link": _link(cell.directory, place),
        }
        for cell, values in study.done
        if (cell.label, cell.density) == (row.finder, row.density)
    ]
    return {"finder": row.finder, "density": percent(row.density), "runs": runs, "failed": list(row.failed)}


def _link(directory: Path | None, place: Path) -> str:
    if directory is None:
        return ""
    return quote(os.path.relpath(directory.resolve(), place.resolve().parent)) + "/"


def _audit(values: dict[str, Any]) -> dict[str, Any]:
    every = (*(values.get("checks") or ()), *(values.get("transfers") or ()))
    checks = [check for check in every if isinstance(check, dict)]
    measure = measure_in(values)
    return {
        "name": values["directory"],
        "ticket": f"{values.get('finder')} at {_percent_of(values.get('density'))}, seed {values.get('seed')}",
        "score": _means(values.get(measure.tests), measure),
        "checks": [
            (str(c.get("name")), str(c.get("verdict")), c.get("why") or _means(c.get(measure.tests), measure))
            for c in checks
        ],
    }


def _percent_of(density: Any) -> str:
    return percent(density) if isinstance(density, float) else str(density)


def _means(values: Any, measure: Measure) -> str:
    if not values:
        return ""
    found = summarise(values)
    return measure.with_unit(measure.spread(found.mean, found.std))
