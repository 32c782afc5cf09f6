"""Check 2: reverse KL, forward KL and plain loss as objectives on one small network.

usage: python scripts/method/divergences.py OUT_DIR; resumable, about 30 minutes on two cores.
"""

import sys
from pathlib import Path
from typing import Any

from common import divergences, picture, rewind_problem, spread, table, write

from tombola.core.controllers import GradBalance
from tombola.finders import CTS
from tombola.finders import draw as draw_ticket
from tombola.objectives import OBJECTIVES as KNOWN

PRESET = "digits"
OBJECTIVES = ("reverse-kl", "forward-kl", "loss")
DENSITIES = (0.1, 0.05, 0.02, 0.01, 0.005)
SEEDS = range(5)
FIGURES = {"accuracy": "test accuracy (%)", "reverse_kl": "KL(sparse ‖ dense)", "forward_kl": "KL(dense ‖ sparse)"}


def main(out: Path) -> None:
    """Run what is missing, write JSON and a picture, print the table."""
    found: list[dict[str, Any]] = []
    for seed in SEEDS:
        cell, trainer, problem = rewind_problem(PRESET, seed, out)
        dense = 100 * cell.evaluate(trainer.dense_at(cell.config.training.epochs), "test").metric
        for density in DENSITIES:
            for objective in OBJECTIVES:
                finder = CTS(
                    objective=KNOWN.read(objective), controller=GradBalance(), lr_schedule="drop", batch_size=512
                )
                ticket = draw_ticket(finder, problem, density).ticket
                accuracy = 100 * cell.evaluate(problem.fit(ticket), "test").metric
                row = {"objective": objective, "density": density, "seed": seed, "accuracy": accuracy, "dense": dense}
                found.append(row | divergences(problem, ticket))
                write(out, "divergences", found)
    picture(out / "divergences.svg", len(FIGURES), lambda axes: draw(axes, found))
    table(
        ("density", "objective", *FIGURES.values()),
        [
            [f"{100 * d:g} %", o, *(spread(of(found, o, d, key), 2 if key == "accuracy" else 4) for key in FIGURES)]
            for d in DENSITIES
            for o in OBJECTIVES
        ],
    )
    print("dense:", spread({row["seed"]: float(row["dense"]) for row in found}.values(), 2))


def of(found: list[dict[str, Any]], objective: str, density: float, key: str) -> list[float]:
    """Return one figure of one cell, over seeds."""
    return [row[key] for row in found if (row["objective"], row["density"]) == (objective, density)]


def draw(axes: Any, found: list[dict[str, Any]]) -> None:
    """Plot each figure over densities."""
    for axis, (key, title) in zip(axes, FIGURES.items(), strict=True):
        for objective in OBJECTIVES:
            cells = [of(found, objective, density, key) for density in DENSITIES]
            means = [sum(cell) / len(cell) for cell in cells]
            low = [mean - min(cell) for mean, cell in zip(means, cells, strict=True)]
            high = [max(cell) - mean for mean, cell in zip(means, cells, strict=True)]
            axis.errorbar([100 * d for d in DENSITIES], means, yerr=[low, high], label=objective, capsize=2)
        axis.set(xscale="log", xlabel="density (%)", title=title, yscale="linear" if key == "accuracy" else "log")
        axis.legend()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
