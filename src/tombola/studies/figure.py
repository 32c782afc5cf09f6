"""Pictures of a study: accuracy against density and against cost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tombola.errors import UsageError
from tombola.literal import literal
from tombola.studies.table import Row

ENDINGS = (".svg", ".png")
_DYNAMICS = ("KL(sparse || dense) of outputs", "cosine of gradients, kept weights")


def check_picture(path: Path) -> None:
    """Raise UsageError unless a picture can be written to a path."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"plot {path} must end in {' or '.join(ENDINGS)}", option="plot")
    if not path.parent.is_dir():
        raise UsageError(f"plot {path}: {path.parent} is not a directory", option="plot")


def draw_study(rows: Sequence[Row], dense: float, path: Path) -> None:
    """Draw test accuracy over density and over seconds into an SVG or PNG file; dense: accuracy of the dense network.

    Bars span the 95 % interval of the mean; without one (a single seed) there are none. Where the dynamics of training
    were measured, two more panels show those at the smallest density.
    """
    check_picture(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    followed = [row for row in rows if row.dynamics and row.density == min(other.density for other in rows)]
    figure = Figure(figsize=(12, 8 if followed else 4), layout="constrained")
    (density, cost), *below = figure.subplots(2 if followed else 1, 2, squeeze=False)
    _panel(density, rows, lambda row: 100 * row.density)
    density.set(xscale="log", xlabel="weights kept (%)", ylabel="test accuracy (%)")
    ticks = sorted({100 * row.density for row in rows})
    density.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    density.minorticks_off()
    _panel(cost, rows, lambda row: row.seconds / 60)
    cost.set(xscale="log", xlabel="minutes from the initial weights on", ylabel="test accuracy (%)")
    for axes in (density, cost):
        axes.axhline(dense, color="black", linewidth=0.8, linestyle="dotted", label="dense")
    figure.legend(*density.get_legend_handles_labels(), loc="outside right upper")
    for axes, column, label in zip(below[0] if followed else (), (1, 2), _DYNAMICS, strict=bool(followed)):
        for row in followed:
            axes.plot(
                [point[0] for point in row.dynamics],
                [point[column] for point in row.dynamics],
                label=_plain(row.finder),
            )
        axes.set(xlabel="epoch", ylabel=label, title=f"{100 * row.density:.4g} % of the weights")
    with mpl.rc_context({"svg.hashsalt": "tombola"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _plain(label: str) -> str:
    """Return a label as matplotlib shows it literally: a pair of dollars would make a formula."""
    return literal(label).replace("$", r"\$")


def _panel(axes: Any, rows: Sequence[Row], x: Callable[[Row], float]) -> None:
    for label in dict.fromkeys(row.finder for row in rows):
        own = [row for row in rows if row.finder == label]
        means = [row.accuracy.mean for row in own]
        # An interval may reach beyond what an accuracy can be.
        below = [
            mean - max(0.0, mean if row.accuracy.low is None else row.accuracy.low)
            for mean, row in zip(means, own, strict=True)
        ]
        above = [
            min(100.0, mean if row.accuracy.high is None else row.accuracy.high) - mean
            for mean, row in zip(means, own, strict=True)
        ]
        axes.errorbar([x(row) for row in own], means, yerr=[below, above], marker="o", capsize=2, label=_plain(label))
