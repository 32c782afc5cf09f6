"""Figures for the page, by plotly: each panel as the data and the layout that plotly's script draws."""

import html
import json
from collections.abc import Sequence
from typing import Any

from tombola.literal import literal
from tombola.studies.figures.drawing import AnyPanel, Dots, Heat, Level, Line, Mark, Panel, names_of
from tombola.studies.figures.scales import Axis
from tombola.studies.figures.style import DENSE, shortened

_MARKERS = {"triangle-up": "triangle-up", "star": "star", "hexagon": "hexagon2"}
# Pixels.
_HEIGHT, _ROW, _NAME, _LETTER = 380, 24, 15, 6.3
_MOST_NUMBERS, _LONGEST = 14, 30


def plot(panel: AnyPanel) -> dict[str, Any]:
    """Return a panel as plain values: data, layout, and what the page's script needs to fit it to a screen.

    names: annotations and hair lines beside the lines, which a narrow screen has no room for, and their width. marks:
    how many points of its own the panel has.
    """
    from plotly.graph_objects import Figure

    if isinstance(panel, Heat):
        made, names, marks = _heat(panel), None, sum(v is not None for row in panel.values for v in row)
    else:
        made, names = (_dots(panel), None) if isinstance(panel, Dots) else (_lines(panel), _names(panel))
        marks = sum(len(line.marks) for line in panel.lines)
    # plotly checks the names and values of every property here, not the reader's browser.
    found: dict[str, Any] = json.loads(Figure(**made).to_json())
    found["layout"].pop("template", None)
    return {**found, "names": names, "marks": marks, "title": _shown(panel.title)}


def _shown(text: str) -> str:
    """Return a text as plotly, which reads a little HTML, shows it literally."""
    return html.escape(literal(text), quote=False)


def _hover(text: str) -> str:
    return "<br>".join(map(_shown, text.split("\n")))


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "title": {"text": _shown(axis.title)},
        "range": list(axis.ends),
        "tickvals": [axis.place(value) for value, _ in axis.ticks],
        "ticktext": [text for _, text in axis.ticks],
        "zeroline": False,
    }


def _layout(height: float, **more: Any) -> dict[str, Any]:
    margin = {"l": 56, "r": 12, "t": 8, "b": 44}
    return {"height": height, "margin": margin, "hovermode": "closest", "showlegend": False, **more}


def _lines(panel: Panel) -> dict[str, Any]:
    data = [trace for line in panel.lines for trace in _traces(panel, line)]
    if panel.front:
        x, y = zip(*((panel.x.place(x), panel.y.place(y)) for x, y in panel.front), strict=True)
        look = {"color": DENSE, "width": 1.5, "shape": "linear"}
        data.insert(0, {"type": "scatter", "x": x, "y": y, "mode": "lines", "line": look, "hoverinfo": "skip",
                        "name": "the best for their cost", "showlegend": len(x) > 1})  # fmt: skip
    shapes = _level(panel.level, panel.y, "y") if panel.level else []
    axes = {"xaxis": _axis(panel.x), "yaxis": _axis(panel.y)}
    several = len(panel.lines) > 1
    return {"data": data, "layout": _layout(_HEIGHT, **axes, shapes=shapes, showlegend=several)}


def _traces(panel: Panel, line: Line) -> list[dict[str, Any]]:
    style, marks = line.style, line.marks
    x, y = [panel.x.place(mark.x) for mark in marks], [panel.y.place(mark.y) for mark in marks]
    mode = "lines" if line.quiet else "lines+markers" if line.joined else "markers"
    trace = _points(line, x, y) | {
        "mode": mode,
        "line": {"color": style.colour, "dash": style.dash, "width": 3 if line.quiet else 2},
        "opacity": 0.4 if line.quiet else 1.0,
    }
    if all(mark.low is None for mark in marks):
        return [trace]
    low = [panel.y.place(mark.y if mark.low is None else mark.low) for mark in marks]
    high = [panel.y.place(mark.y if mark.high is None else mark.high) for mark in marks]
    if not line.joined:
        return [trace | {"error_y": _bars(y, low, high, style.colour)}]
    band = {
        "type": "scatter",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": _faint(style.colour, 0.14),
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": trace["legendgroup"],
        "name": trace["name"],
    }
    return [band, trace]


def _points(line: Line, x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    name = _shown(line.label)
    return {
        "type": "scatter",
        "x": list(x),
        "y": list(y),
        "name": _shown(shortened(line.label, 40)),
        "legendgroup": name,
        "hovertext": [_hover(mark.text) for mark in line.marks],
        "hoverinfo": "text",
        "customdata": [mark.cell for mark in line.marks],
        "marker": {"symbol": _MARKERS.get(line.style.marker, line.style.marker), "size": 8, "color": line.style.colour},
    }


def _bars(at: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [end - value for end, value in zip(high, at, strict=True)],
        "arrayminus": [value - end for end, value in zip(low, at, strict=True)],
        "color": _faint(colour, 0.7),
        "thickness": 1.5,
        "width": 0,
    }


def _faint(colour: str, share: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def _level(level: Level, axis: Axis, direction: str) -> list[dict[str, Any]]:
    """Return the shapes of a level: a line, and a band where it has an interval."""
    across = "x" if direction == "y" else "y"
    whole = {f"{across}ref": f"{across} domain", f"{across}0": 0, f"{across}1": 1, "layer": "below"}
    place = axis.place(level.value)
    shapes: list[dict[str, Any]] = [
        {
            "type": "line",
            **whole,
            f"{direction}0": place,
            f"{direction}1": place,
            "line": {"color": DENSE, "width": 1.5},
        }
    ]
    if level.low is not None and level.high is not None:
        ends = {f"{direction}0": axis.place(level.low), f"{direction}1": axis.place(level.high)}
        shapes.append({"type": "rect", **whole, **ends, "fillcolor": _faint(DENSE, 0.16), "line": {"width": 0}})
    return shapes


def _names(panel: Panel) -> dict[str, Any] | None:
    """Return names beside the lines' ends, with hair lines to them, and the width that they take."""
    names = names_of(panel, _NAME / (_HEIGHT - 130))
    if not names:
        return None
    annotations = [
        {"text": _shown(shortened(name.label, 22)), "x": 1.03, "y": name.place, "xref": "x domain", "yref": "y domain",
         "xanchor": "left", "yanchor": "middle", "showarrow": False, "font": {"size": 11, "color": name.colour}}
        for name in names
    ]  # fmt: skip
    shapes = [
        {"type": "line", "x0": name.x, "y0": name.y, "x1": 1.025, "y1": name.place, "xref": "x domain",
         "yref": "y domain", "line": {"color": name.colour, "width": 0.7}, "opacity": 0.6}
        for name in names
    ]  # fmt: skip
    width = 24 + _LETTER * max(len(shortened(name.label, 22)) for name in names)
    return {"annotations": annotations, "shapes": shapes, "width": width}


def _rows(labels: Sequence[str]) -> dict[str, Any]:
    """Return the axis of a figure with one row a name, the first on top."""
    return {
        "range": [len(labels) - 0.5, -0.5],
        "tickvals": list(range(len(labels))),
        "ticktext": [_shown(shortened(label, _LONGEST)) for label in labels],
        "automargin": True,
        "zeroline": False,
    }


def _dots(panel: Dots) -> dict[str, Any]:
    data = []
    for number, line in enumerate(panel.lines):
        mark: Mark = line.marks[0]
        place = panel.x.place(mark.x)
        trace = _points(line, [place], [number]) | {"mode": "markers"}
        if mark.low is not None and mark.high is not None:
            trace["error_x"] = _bars([place], [panel.x.place(mark.low)], [panel.x.place(mark.high)], line.style.colour)
        data.append(trace)
    shapes = _level(panel.level, panel.x, "x") if panel.level else []
    axes = {"xaxis": _axis(panel.x), "yaxis": _rows([line.label for line in panel.lines])}
    layout = _layout(104 + _ROW * max(4, len(panel.lines)), **axes, shapes=shapes)
    if panel.level and panel.level.label:
        at = {
            "x": panel.x.place(panel.level.value),
            "y": 1,
            "yref": "y domain",
            "yanchor": "bottom",
            "xanchor": "center",
        }
        layout["annotations"] = [{"text": panel.level.label, **at, "showarrow": False, "font": {"color": DENSE}}]
        layout["margin"]["t"] = 22
    return {"data": data, "layout": layout}


def _heat(panel: Heat) -> dict[str, Any]:
    hover = [
        [_hover(f"{row}\n{column}\n" + ("" if value is None else f"{value:.4g} {panel.unit}"))
         for column, value in zip(panel.columns, values, strict=True)]
        for row, values in zip(panel.rows, panel.values, strict=True)
    ]  # fmt: skip
    few = max(len(panel.rows), len(panel.columns)) <= _MOST_NUMBERS
    trace = {
        "type": "heatmap",
        "z": panel.values,
        "zmin": 0,
        "zmax": panel.top,
        "colorscale": "Cividis",
        "hovertext": hover,
        "hoverinfo": "text",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": _shown(panel.unit)}, "thickness": 10, "outlinewidth": 0},
        **({"texttemplate": "%{z:.3g}"} if few else {}),
    }
    bare = {"showgrid": False}  # else it shows where nothing is known
    columns = _rows(panel.columns) | {"range": [-0.5, len(panel.columns) - 0.5], "tickangle": -60, **bare}
    height = 130 + _ROW * max(4, len(panel.rows)) + _LETTER * min(_LONGEST, max(map(len, panel.columns)))
    return {"data": [trace], "layout": _layout(height, xaxis=columns, yaxis=_rows(panel.rows) | bare)}
