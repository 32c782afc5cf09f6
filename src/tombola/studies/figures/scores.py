"""Figures of scores: over density, over cost, and what the chosen finder gains."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tombola.core.measure import Measure
from tombola.studies.figures.drawing import AnyPanel, Dots, Figure, Level, Line, Mark, Panel, front
from tombola.studies.figures.published import Curve
from tombola.studies.figures.scales import Axis, linear_axis, log_axis, score_axis, zoom
from tombola.studies.figures.style import Style, family_of, styles
from tombola.studies.reading import Study
from tombola.studies.reading.questions import cost_of, cost_unit, why_seconds
from tombola.studies.statistics import Difference, Summary
from tombola.studies.table import Row, gains_of

# More lines than this in one panel cannot be told apart; families then have panels of their own.
MOST_LINES = 9
# Densities that have a panel of their own each, where a figure has one a density.
MOST_DENSITIES = 6

# With fewer seeds, an interval spans nearly everything and hides the rest.
FEWEST_SEEDS = 3
_INTERVALS = "Bands and bars span the 95 % interval of the mean, of three seeds and more."


def percent(density: float) -> str:
    """Return a density in percent, in words."""
    return f"{100 * density:.4g} %"


def some_densities(densities: Sequence[float], most: int = MOST_DENSITIES) -> list[float]:
    """Return at most so many densities, evenly chosen, the first and the last among them."""
    if len(densities) <= most:
        return list(densities)
    return [densities[round(number * (len(densities) - 1) / (most - 1))] for number in range(most)]


def dense_level(study: Study) -> Level | None:
    """Return the dense network's score and its interval over seeds; None where finders have several dense networks."""
    if len(study.dense) != 1:
        return None
    dense = study.dense[0].summary
    return Level("dense", dense.mean, *_within(dense, study.measure))


def _within(found: Summary, measure: Measure) -> tuple[float | None, float | None]:
    """Return an interval that can be drawn, cut off at what a score can be."""
    if found.low is None or found.high is None or found.n < FEWEST_SEEDS:
        return None, None
    return max(measure.lowest, found.low), min(measure.highest, found.high)


def about(row: Row) -> str:
    """Return what is known of a row, on lines."""
    number, low, high = row.measure.number, row.score.low, row.score.high
    interval = "" if low is None or high is None else f"\n95 % interval {number(low)} to {number(high)}"
    seeds = ", ".join(f"{seed}: {number(value)}" for seed, value in zip(row.seeds, row.scores, strict=True))
    work = "" if row.dense_equivalents is None else f", {row.dense_equivalents:.3g} dense trainings"
    return (
        f"{row.finder}\n{percent(row.density)} of the weights ({row.kept:,})\n{row.words} (n = {row.score.n})"
        f"{interval}\nby seed: {seeds}\n{row.seconds:,.1f} s{work}"
    )


def _mark(row: Row, number: int, x: float) -> Mark:
    return Mark(x, row.score.mean, *_within(row.score, row.measure), about(row), number)


def by_density(study: Study, curves: Sequence[Curve] = ()) -> Figure:
    """Return the score against density; curves: published ones, which lie underneath."""
    look, level = styles(study.finders), dense_level(study)
    if len(study.densities) == 1:
        panels: tuple[AnyPanel, ...] = (_ranked(study, study.densities[0], look, level),)
        caption = (
            f"Test {study.measure.name} at {percent(study.densities[0])} of the weights, the best first. {_INTERVALS}"
        )
    else:
        panels = _over_density(study, look, level, curves)
        caption = f"Test {study.measure.name} over the share of weights kept. {_INTERVALS}"
        if any(isinstance(panel, Panel) and panel.y.kind == "probit" for panel in panels):
            caption += (
                f" The axis of {study.measure.name} is a probit one, which gives the last points before 100 % room."
            )
    if level:
        caption += " The grey line is the dense network, with its interval over seeds."
        if len(panels) > 2:
            caption += " Families share an axis; finders far below all others stand in the first panel alone."
    if curves and len(study.densities) > 1:
        caption += " Pale lines are published by the authors of arXiv 2512.07142, not measured here."
    name, title = _named(study, "density")
    return Figure(name, title, caption, panels)


def _named(study: Study, other: str) -> tuple[str, str]:
    """Return name and title of the figure of scores against something."""
    return f"{study.measure.dashed}-by-{other}", f"{study.measure.title} against {other}"


def _ranked(study: Study, density: float, look: dict[str, Style], level: Level | None) -> Dots:
    rows = [(number, row) for number, row in enumerate(study.rows) if row.density == density]
    rows.sort(key=lambda found: study.measure.gain(0.0, found[1].score.mean))
    lines = tuple(Line(row.finder, look[row.finder], (_mark(row, n, row.score.mean),), False) for n, row in rows)
    return Dots(
        f"{percent(density)} of the weights",
        score_axis(_extent(lines, level), study.measure),
        lines,
        level,
    )


def _extent(lines: Sequence[Line], level: Level | None) -> list[float]:
    """Return what an axis must span: means, and the dense network's. Intervals of few seeds would squeeze them."""
    found = [*(mark.y for line in lines for mark in line.marks), *([level.value] if level else [])]
    return found or [0.0, 100.0]  # nothing is finished


def _over_density(
    study: Study, look: dict[str, Style], level: Level | None, curves: Sequence[Curve]
) -> tuple[Panel, ...]:
    lines = [_line(study, label, look[label]) for label in study.finders]
    lines = [line for line in lines if line.marks]
    x = log_axis([100 * d for d in study.densities], "weights kept (%)", reverse=True, own=True)
    pale = [line for curve in curves if (line := _published(curve, x)).marks]
    if len(lines) > MOST_LINES:
        return _multiples(lines, pale, x, level, study.measure)
    y = score_axis(_extent([*pale, *lines], level), study.measure)
    near = zoom(_extent(lines, level), measure=study.measure)
    whole = Panel("" if near is None else "all finders", x, y, (*pale, *lines), level)
    if near is None:
        return (whole,)
    side = "top" if study.measure.larger_is_better else "bottom"
    closer = Panel(f"the same, near the {side}", x, _closer(near, study.measure), (*pale, *lines), level)
    return whole, closer


def _closer(near: tuple[float, float], measure: Measure) -> Axis:
    return linear_axis(near, f"test {measure.words}", highest=measure.highest)


def _line(study: Study, label: str, style: Style) -> Line:
    found = [(number, row) for number, row in enumerate(study.rows) if row.finder == label]
    return Line(label, style, tuple(_mark(row, number, 100 * row.density) for number, row in found))


def _published(curve: Curve, x: Axis) -> Line:
    inside = [point for point in curve.points if x.low <= point[0] <= x.high]
    style = Style(curve.colour, "circle", curve.dash, "published")
    marks = tuple(
        Mark(kept, mean, None, None, f"published: {curve.label}\n{kept:.4g} % of the weights\n{mean:.2f} ± {std:.2f} %")
        for kept, mean, std in sorted(inside, reverse=True)
    )
    return Line(f"published: {curve.label}", style, marks, quiet=True, named=False)


def _multiples(
    lines: Sequence[Line], pale: Sequence[Line], x: Axis, level: Level | None, measure: Measure
) -> tuple[Panel, ...]:
    """Return a panel for all, without names, and one for each family, which share an axis; a large family has several.

    Where some finders lie far below the others at every density, the families' axis leaves them to the panel for all.
    """
    whole = score_axis(_extent([*pale, *lines], level), measure)
    everything = Panel("all finders", x, whole, tuple(replace(line, named=False) for line in lines), level)
    y, families = _axis_of_most(lines, level, measure) or whole, _families(lines)
    return everything, *(Panel(title, x, y, (*pale, *part), level) for title, part in families)


def _axis_of_most(lines: Sequence[Line], level: Level | None, measure: Measure) -> Axis | None:
    """Return the axis for those finders that keep together, None where lines run from there to further below."""
    near = zoom(_extent(lines, level), share=0.5, measure=measure)
    if near is None:
        return None
    inside = [[near[0] <= mark.y <= near[1] for mark in line.marks] for line in lines]
    if any(len(set(each)) > 1 for each in inside):
        return None
    return _closer(near, measure)


def _families(lines: Sequence[Line]) -> Iterator[tuple[str, list[Line]]]:
    families: dict[str, list[Line]] = {}
    for line in lines:
        families.setdefault(family_of(line.label), []).append(line)
    for family, own in families.items():
        each = math.ceil(len(own) / math.ceil(len(own) / MOST_LINES))
        parts = [own[start : start + each] for start in range(0, len(own), each)]
        for number, part in enumerate(parts, start=1):
            yield family if len(parts) == 1 else f"{family} ({number} of {len(parts)})", part


def by_cost(study: Study) -> Figure:
    """Return the score against cost, one point a finder, with the front of the best; a panel for each density."""
    unit, look, level = cost_unit(study.rows, study.dense), styles(study.finders), dense_level(study)
    title = "dense trainings' worth of work" if unit != "seconds" else "seconds from the initial weights on"
    costs = [cost for row in study.rows if (cost := cost_of(row, unit)) > 0]
    x = log_axis(costs or [1.0], title)
    panels = [_cost_panel(study, density, look, level, x, unit) for density in some_densities(study.densities)]
    caption = (
        f"Test {study.measure.name} over what finding and training the ticket cost, from the initial weights on: one "
        f"point a finder. The line joins those that no other finder beats in both. {_INTERVALS}"
    )
    if why := why_seconds(study.rows, unit):
        caption += f" {why}"
    name, heading = _named(study, "cost")
    return Figure(name, heading, caption, tuple(panels))


def _cost_panel(study: Study, density: float, look: dict[str, Style], level: Level | None, x: Axis, unit: str) -> Panel:
    found = [(n, row) for n, row in enumerate(study.rows) if row.density == density and cost_of(row, unit) > 0]
    lines = tuple(
        Line(row.finder, look[row.finder], (_mark(row, n, cost_of(row, unit)),), joined=False) for n, row in found
    )
    points = [(cost_of(row, unit), row.score.mean) for _, row in found]
    values = [score for _, score in points] + ([level.value] if level else [])
    y, best = score_axis(values or [0.0, 100.0], study.measure), front(points, study.measure)
    return Panel(f"{percent(density)} of the weights", x, y, lines, level, best)


def gains(study: Study, against: str) -> Figure | None:
    """Return what a finder gains on every other, a panel for each density; None where there is no other."""
    look, found = styles(study.finders), gains_of(study.rows, against)
    panels = []
    for density in some_densities(study.densities):
        lines = [
            _gain(row, number, against, found[row.finder, density][0], look[row.finder])
            for number, row in enumerate(study.rows)
            if row.density == density and (row.finder, density) in found
        ]
        if lines:
            lines.sort(key=lambda line: -line.marks[0].x)
            ends = [end for line in lines for m in line.marks for end in (m.low, m.x, m.high) if end is not None]
            axis = linear_axis([0.0, *ends], f"{_unit(study.measure)} that {against} gains", most=6)
            panels.append(Dots(f"{percent(density)} of the weights", axis, tuple(lines), Level("", 0.0)))
    if not panels:
        return None
    caption = (
        f"What {against} gains on every other finder, paired by seed, in {_unit(study.measure)} of test "
        f"{study.measure.name}. Bars span the 95 % interval, of three seeds and more, which holds over all densities "
        "together; where one crosses zero, the seeds do not decide."
    )
    return Figure("gains", f"What {against} gains", caption, tuple(panels))


def _gain(row: Row, number: int, against: str, found: Difference, style: Style) -> Line:
    gain = found.summary
    signed, low, high = row.measure.signed, gain.low, gain.high
    interval = "" if low is None or high is None else f"\n95 % interval {signed(low)} to {signed(high)}"
    text = f"{against} over {row.finder}\n{percent(row.density)} of the weights\n{signed(gain.mean)} "
    text += f"{_unit(row.measure)} (n = {gain.n})"
    ends = (gain.low, gain.high) if gain.n >= FEWEST_SEEDS else (None, None)
    mark = Mark(gain.mean, gain.mean, *ends, f"{text}{interval}\n{found.verdict}", number)
    return Line(row.finder, style, (mark,), joined=False)


def _unit(measure: Measure) -> str:
    """Return what gains are counted in."""
    return "points" if measure.in_percent else "units"
