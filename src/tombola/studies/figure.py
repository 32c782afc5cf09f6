"""Pictures of a study: accuracy against density and against cost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tombola.errors import UsageError
from tombola.studies.table import Row

ENDINGS = (".svg", ".png")


def check_picture(path: Path) -> None:
    """Raise UsageError unless a picture can be written to a path."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"--plot {path} must end in {' or '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: {path.parent} is not a directory")


def draw_study(rows: Sequence[Row], dense: float, path: Path) -> None:
    """Draw test accuracy over density and over seconds into an SVG or PNG file; dense: accuracy of the dense network.

    Bars span the 95 % interval of the mean; without one (a single seed) there are none.
    """
    check_picture(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="tight")
    density, cost = figure.subplots(1, 2)
    _panel(density, rows, lambda row: 100 * row.density)
    density.set(xscale="log", xlabel="weights kept (%)", ylabel="test accuracy (%)")
    _panel(cost, rows, lambda row: row.seconds / 60)
    cost.set(xscale="log", xlabel="minutes from the initial weights on", ylabel="test accuracy (%)")
    for axes in (density, cost):
        axes.axhline(dense, color="black", linewidth=0.8, linestyle="dotted", label="dense")
    density.legend()
    with mpl.rc_context({"svg.hashsalt": "tombola"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Any, rows: Sequence[Row], x: Callable[[Row], float]) -> None:
    for label in dict.fromkeys(row.finder for row in rows):
        own = [row for row in rows if row.finder == label]
        reach = [(row.accuracy.high or row.accuracy.mean) - row.accuracy.mean for row in own]
        axes.errorbar(
            [x(row) for row in own], [row.accuracy.mean for row in own], yerr=reach, marker="o", capsize=2, label=label
        )
