"""Draws how the cost of a search's own work grows with the number of weights, from a file of benchmarks.

usage: python scripts/results/cost.py benchmarks/results/quick.json FILE.svg
"""

import json
import re
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from tombola.studies.figures.style import COLOURS

mpl.rcParams.update({"svg.hashsalt": "tombola", "font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False})

# What is drawn, and how its figures' names begin or end.
CURVES = {
    "one step's sampling, balance and Adam": r"mask arithmetic of ([\d,]+) weights",
    "ranking, once a ticket": r"ranking ([\d,]+) scores",
    "saving and loading a ticket of density 1 %": r"a ticket of ([\d,]+) bits, density 1%, saved and loaded",
    "saving and loading a ticket of density 10 %": r"a ticket of ([\d,]+) bits, density 10%, saved and loaded",
}


def points(figures: list[dict[str, object]], pattern: str) -> list[tuple[int, float]]:
    """Return (weights, seconds) of the figures whose names fit."""
    found = ((re.fullmatch(pattern, str(figure["name"])), figure["value"]) for figure in figures)
    return sorted((int(match[1].replace(",", "")), float(str(value))) for match, value in found if match)


def main(source: Path, target: Path) -> None:
    """Draw seconds over weights, both logarithmic."""
    figures = json.loads(source.read_text())["figures"]
    figure, axes = plt.subplots(figsize=(5.8, 3.6), layout="constrained")
    for (label, pattern), colour, marker in zip(CURVES.items(), COLOURS, "osDP", strict=False):
        axes.loglog(
            *zip(*points(figures, pattern), strict=True), marker=marker, markersize=4, color=colour, label=label
        )
    weights = [10**5, 10**8]
    axes.loglog(weights, [5e-9 * count for count in weights], color="0.6", linestyle=":", label="linear: 5 ns a weight")
    axes.set(xlabel="weights", ylabel="seconds")
    axes.legend(frameon=False)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
