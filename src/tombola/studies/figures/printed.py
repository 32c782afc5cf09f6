"""Figures for print, by matplotlib: SVG, PDF, PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.literal import literal
from tombola.studies.figures.drawing import AnyPanel, Dots, Figure, Heat, Level, Line, Name, Panel, are_named, names_of
from tombola.studies.figures.scales import Axis
from tombola.studies.figures.style import DENSE, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "cross": "P", "triangle-up": "^", "x": "X", "triangle-down": "v",
    "star": "*", "pentagon": "p", "hexagon": "h",
}  # fmt: skip
_DASHES: dict[str, Any] = {
    "solid": "-", "dash": (0, (5, 2)), "dot": (0, (1, 1.4)), "dashdot": (0, (5, 1.6, 1, 1.6)), "longdash": (0, (9, 2)),
}  # fmt: skip
# Inches.
_WIDTH, _HEIGHT, _ROW, _NAME = 5.8, 3.6, 0.21, 0.15
_FONT = 8.0
# Cells of a table in colours that have room for their numbers, and letters of its names.
_MOST_NUMBERS, _LONGEST = 14, 34
_METADATA: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def draw(figure: Figure, path: Path) -> None:
    """Draw a figure into a file, whose ending says how; the same figure gives the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    settings: Any = {"svg.hashsalt": "tombola", "font.size": _FONT, "axes.titlesize": 9, "pdf.fonttype": 42}
    with mpl.rc_context(settings):
        columns = 1 if len(figure.panels) == 1 else 2
        width, legend = columns * _width(figure.panels), _legend_of(figure)
        across = max(1, int(width / (0.55 + 0.07 * max(map(len, legend), default=0))))
        rows = [figure.panels[start : start + columns] for start in range(0, len(figure.panels), columns)]
        heights = [max(_height(panel) for panel in row) for row in rows]
        below = 0.17 * -(-len(legend) // across) + 0.3
        canvas = Canvas(figsize=(width, sum(heights) + below), layout="constrained")
        grid = canvas.add_gridspec(len(rows), columns, height_ratios=heights)
        if figure.title:
            canvas.suptitle(_plain(figure.title), fontsize=11, fontweight="bold")
        for number, panel in enumerate(figure.panels):
            _draw_panel(canvas.add_subplot(grid[divmod(number, columns)]), panel)
        if legend:
            _draw_legend(canvas, legend, across)
        canvas.savefig(path, dpi=160, metadata=_METADATA.get(path.suffix))


def _names(panel: Panel) -> list[Name]:
    return names_of(panel, _NAME / (_HEIGHT - 0.8))


def _legend_of(figure: Figure) -> dict[str, Line]:
    """Return the lines of a figure by label, where some panel has no room for all names; else nothing."""
    panels = [panel for panel in figure.panels if isinstance(panel, Panel)]
    if all(are_named(panel, _names(panel)) for panel in panels):
        return {}
    return {line.label: line for panel in panels for line in panel.lines if not line.quiet}


def _draw_legend(canvas: Any, lines: dict[str, Line], across: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=line.style.colour, marker=_MARKERS[line.style.marker], markersize=4.5, linewidth=1.2,
            linestyle=_DASHES[line.style.dash] if line.joined else "none", label=_plain(shortened(label, _LONGEST)),
        )
        for label, line in lines.items()
    ]  # fmt: skip
    canvas.legend(handles=handles, loc="outside lower center", ncols=across, fontsize=6.5, frameon=False)


def _width(panels: Sequence[AnyPanel]) -> float:
    widest = max((len(panel.columns) for panel in panels if isinstance(panel, Heat)), default=0)
    return max(_WIDTH, 2.2 + 0.24 * widest)


def _height(panel: AnyPanel) -> float:
    if isinstance(panel, Panel):
        return _HEIGHT
    count = len(panel.rows) if isinstance(panel, Heat) else len(panel.lines)
    below = min(_LONGEST, max(map(len, panel.columns))) * 0.075 if isinstance(panel, Heat) else 0.3
    return 0.9 + _ROW * max(count, 4) + below


def _draw_panel(axes: "Axes", panel: AnyPanel) -> None:
    if panel.title:
        axes.set_title(_plain(panel.title))
    if isinstance(panel, Heat):
        _draw_heat(axes, panel)
    elif isinstance(panel, Dots):
        _draw_dots(axes, panel)
    else:
        _draw_lines(axes, panel)


def _plain(label: str) -> str:
    """Return a label as matplotlib shows it literally: a pair of dollars would make a formula."""
    return literal(label).replace("$", r"\$")


def _scaled(axis: Axis, direction: Any, set_limits: Any) -> None:
    """Put an axis' ends and ticks onto matplotlib's, which is linear: values are placed by us."""
    direction.set_ticks([axis.place(value) for value, _ in axis.ticks], [text for _, text in axis.ticks])
    set_limits(*axis.ends)


def _draw_lines(axes: "Axes", panel: Panel) -> None:
    for line in panel.lines:
        _draw_line(axes, panel, line)
    if panel.front:
        steps = [(panel.x.place(x), panel.y.place(y)) for x, y in panel.front]
        axes.plot(*zip(*steps, strict=True), color="black", linewidth=1.1, alpha=0.55, zorder=2)
    if panel.level:
        _draw_level(axes.axhline, axes.axhspan, panel.level, panel.y)
    _scaled(panel.x, axes.xaxis, axes.set_xlim)
    _scaled(panel.y, axes.yaxis, axes.set_ylim)
    axes.set(xlabel=_plain(panel.x.title), ylabel=_plain(panel.y.title))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _name_lines(axes, panel)


def _draw_line(axes: "Axes", panel: Panel, line: Line) -> None:
    style, marks = line.style, line.marks
    x, y = [panel.x.place(mark.x) for mark in marks], [panel.y.place(mark.y) for mark in marks]
    look: dict[str, Any] = {"color": style.colour, "label": _plain(line.label)}
    if line.quiet:
        axes.plot(x, y, linewidth=2.2, alpha=0.3, linestyle=_DASHES[style.dash], zorder=1, **look)
        return
    low = [y_ if mark.low is None else panel.y.place(mark.low) for mark, y_ in zip(marks, y, strict=True)]
    high = [y_ if mark.high is None else panel.y.place(mark.high) for mark, y_ in zip(marks, y, strict=True)]
    spaced = max(1, len(marks) // 12)
    if line.joined:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.12, linewidth=0)
        axes.plot(
            x, y, marker=_MARKERS[style.marker], markersize=4.5, markevery=spaced, linewidth=1.4,
            linestyle=_DASHES[style.dash], zorder=3, **look,
        )  # fmt: skip
        return
    axes.vlines(x, low, high, color=style.colour, alpha=0.6, linewidth=1, zorder=2)
    axes.plot(x, y, marker=_MARKERS[style.marker], markersize=6, linestyle="none", zorder=3, **look)


def _draw_level(line: Any, span: Any, level: Level, axis: Axis) -> None:
    line(axis.place(level.value), color=DENSE, linewidth=1.2, zorder=1, label=_plain(level.label) or None)
    if level.low is not None and level.high is not None:
        span(axis.place(level.low), axis.place(level.high), color=DENSE, alpha=0.14, linewidth=0, zorder=0)


def _name_lines(axes: "Axes", panel: Panel) -> None:
    """Write names beside the ends of lines, with a hair line to each."""
    for name in _names(panel):
        # From the beginning of a name, not from its middle, which lies behind its neighbours.
        arrow = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0.0, 0.5)}
        axes.annotate(
            _plain(shortened(name.label)), xy=(name.x, name.y), xytext=(1.04, name.place), xycoords="axes fraction",
            textcoords="axes fraction", va="center", fontsize=7.5, annotation_clip=False, color=name.colour,
            arrowprops={**arrow, "color": name.colour},
        )  # fmt: skip


def _draw_dots(axes: "Axes", panel: Dots) -> None:
    for number, line in enumerate(panel.lines):
        mark, style = line.marks[0], line.style
        if mark.low is not None and mark.high is not None:
            axes.hlines(number, panel.x.place(mark.low), panel.x.place(mark.high), color=style.colour, linewidth=1.4)
        axes.plot(
            panel.x.place(mark.x), number, marker=_MARKERS[style.marker], color=style.colour, linestyle="none",
            markersize=5.5,
        )  # fmt: skip
    if panel.level:
        _draw_level(axes.axvline, axes.axvspan, panel.level, panel.x)
        if panel.level.label:
            axes.annotate(
                panel.level.label, (panel.x.share(panel.level.value), 1.0), xycoords="axes fraction", ha="center",
                va="bottom", fontsize=7, color=DENSE,
            )  # fmt: skip
    axes.set_yticks(range(len(panel.lines)), [_plain(shortened(line.label, _LONGEST)) for line in panel.lines])
    axes.set_ylim(len(panel.lines) - 0.4, -0.6)
    _scaled(panel.x, axes.xaxis, axes.set_xlim)
    axes.set(xlabel=_plain(panel.x.title))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_heat(axes: "Axes", panel: Heat) -> None:
    values = [[float("nan") if value is None else value for value in row] for row in panel.values]
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=panel.top, aspect="auto", interpolation="nearest")
    axes.set_xticks(
        range(len(panel.columns)), [_plain(shortened(name, _LONGEST)) for name in panel.columns], rotation=90
    )
    axes.set_yticks(range(len(panel.rows)), [_plain(shortened(name, _LONGEST)) for name in panel.rows])
    axes.tick_params(length=0, labelsize=7)
    if axes.figure is not None:
        axes.figure.colorbar(image, ax=axes, label=panel.unit, shrink=0.9, pad=0.02)
    if max(len(panel.rows), len(panel.columns)) > _MOST_NUMBERS:
        return
    for row, found in enumerate(panel.values):
        for column, value in enumerate(found):
            if value is not None:
                colour = "black" if value > 0.6 * panel.top else "white"
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=7)
