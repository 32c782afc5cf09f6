"""What a figure consists of, whoever draws it: for print (`printed`) or for the page (`interactive`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tombola.core.measure import ACCURACY, Measure
from tombola.studies.figures.scales import Axis, spread
from tombola.studies.figures.style import DENSE, Style


@dataclass(frozen=True)
class Mark:
    """A point. low, high: its interval, None without one. text: what is known of it. cell: number of its row."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    cell: int | None = None


@dataclass(frozen=True)
class Line:
    """The points of one finder. joined: by a line. quiet: in the background. named: its name stands at its end."""

    label: str
    style: Style
    marks: tuple[Mark, ...]
    joined: bool = True
    quiet: bool = False
    named: bool = True


@dataclass(frozen=True)
class Level:
    """A horizontal (in `Dots`, vertical) line across a panel, and its interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """Lines over two axes. front: points that no other beats in both."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    level: Level | None = None
    front: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Dots:
    """One row a finder, from top to bottom: its value, and its interval."""

    title: str
    x: Axis
    lines: tuple[Line, ...]
    level: Level | None = None


@dataclass(frozen=True)
class Heat:
    """A table in colours. values: by row and column in [0, `top`], None where nothing is known. unit: of the scale."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str
    top: float
    texts: tuple[tuple[str, ...], ...] = field(default=())


AnyPanel = Panel | Dots | Heat


@dataclass(frozen=True)
class Name:
    """A name beside a panel. x, y: the end of its line; place: where it stands, all as shares of the axes."""

    label: str
    colour: str
    x: float
    y: float
    place: float


def names_of(panel: Panel, gap: float) -> list[Name]:
    """Return the names that stand beside a panel, at least `gap` of its height apart.

    A line is named at its last point that is seen. Where not all names fit, those on the front
    and the dense network's stand, or none.
    """
    ends = []
    for line in panel.lines:
        seen = [mark for mark in line.marks if 0 <= panel.y.share(mark.y) <= 1]
        if line.named and seen:
            best = (seen[-1].x, seen[-1].y) in panel.front
            ends.append((best, line.label, line.style.colour, panel.x.share(seen[-1].x), panel.y.share(seen[-1].y)))
    if panel.level and 0 <= panel.y.share(panel.level.value) <= 1:
        ends.append((True, panel.level.label, DENSE, 1.0, panel.y.share(panel.level.value)))
    for chosen in (ends, [end for end in ends if end[0]]):
        places = spread([end[-1] for end in chosen], gap)
        if places is not None:
            return [Name(*end[1:], place) for end, place in zip(chosen, places, strict=True)]
    return []


def are_named(panel: Panel, names: Sequence[Name]) -> bool:
    """Whether all lines that can be seen and are to be named have their names beside a panel."""
    seen = {
        line.label
        for line in panel.lines
        if not line.quiet and any(0 <= panel.y.share(mark.y) <= 1 for mark in line.marks)
    }
    return seen <= {name.label for name in names}


@dataclass(frozen=True)
class Figure:
    """A figure. name: of its file. caption: what it shows and how to read it, in sentences."""

    name: str
    title: str
    caption: str
    panels: tuple[AnyPanel, ...]


def front(points: Sequence[tuple[float, float]], measure: Measure = ACCURACY) -> tuple[tuple[float, float], ...]:
    """Return the (cost, score) pairs that no other beats in both, by rising cost."""
    found: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], measure.gain(0.0, point[1]))):
        if not found or measure.gain(score, found[-1][1]) > 0:
            found.append((cost, score))
    return tuple(found)
