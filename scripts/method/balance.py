"""Check 1: how well three controllers hold the density, from 50 % to 0.5 %, and what their tickets are worth.

usage: python scripts/method/balance.py OUT_DIR; resumable, about 45 minutes on two cores.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

from common import look_of, picture, rewind_problem, spread, table, write

from tombola.core.controllers import Controller, GradBalance, Lagrangian, ProportionalBalance
from tombola.core.parts import written_name
from tombola.finders import CTS
from tombola.finders import draw as draw_ticket
from tombola.finders.problem import Problem

PRESETS = ("digits", "fashion-mnist-lenet")
DENSITIES = (0.5, 0.1, 0.02, 0.01, 0.005)
SEEDS = range(3)
CONTROLLERS: tuple[Controller, ...] = (GradBalance(), ProportionalBalance(), Lagrangian.published("reverse-kl"))


def measure(problem: Problem, controller: Controller, density: float) -> dict[str, Any]:
    """Draw one ticket and return how its search went."""
    finder = CTS(controller=controller, lr_schedule="drop", batch_size=512)
    found = draw_ticket(finder, problem, density)
    ticket, rows = found.ticket, found.rows
    forces = [row["multiplier"] * row["density_norm"] / row["task_norm"] for row in rows[len(rows) // 2 :]]
    assert ticket.provenance is not None
    outcome = ticket.provenance.objective
    return {
        "controller": written_name(controller),
        "density": density,
        "seed": problem.seed,
        "expected": outcome["expected_density"] / density,
        "hard": outcome["hard_density"] / density,
        "swing": statistics.pstdev(forces),
        "kl_search": outcome["hard"],
        "kl_held_out": outcome["held_out"],
        "path": [[row["step"], row["expected_density"] / density] for row in rows[::4]],
        "warnings": list(ticket.provenance.warnings),
    }


def main(out: Path) -> None:
    """Run what is missing, write JSON and a picture, print the table."""
    found = []
    for preset in PRESETS:
        for seed in SEEDS:
            _, _, problem = rewind_problem(preset, seed, out)
            for density in DENSITIES:
                for controller in CONTROLLERS:
                    found.append({"preset": preset, **measure(problem, controller, density)})
                    write(out, "balance", found)
    picture(out / "balance.svg", len(PRESETS), lambda axes: draw(axes, found))
    columns = ("data", "density", "controller", "expected / κ", "hard / κ", "swing of λ", "KL held out")
    table(
        columns, [line(found, preset, d, written_name(c)) for preset in PRESETS for d in DENSITIES for c in CONTROLLERS]
    )


def of(found: list[dict[str, Any]], preset: str, density: float, controller: str) -> list[dict[str, Any]]:
    """Return the rows of one cell, over seeds."""
    wanted = {"preset": preset, "density": density, "controller": controller}
    return [row for row in found if wanted.items() <= row.items()]


def line(found: list[dict[str, Any]], preset: str, density: float, controller: str) -> list[str]:
    """Return one line of the table."""
    rows = of(found, preset, density, controller)
    figures = [
        spread((row[key] for row in rows), digits)
        for key, digits in (("expected", 2), ("hard", 2), ("swing", 2), ("kl_held_out", 4))
    ]
    return [preset, f"{100 * density:g} %", controller, *figures]


def draw(axes: Any, found: list[dict[str, Any]]) -> None:
    """Plot the expected density along the search at the lowest density."""
    for axis, preset in zip(axes, PRESETS, strict=True):
        for number, controller in enumerate(CONTROLLERS):
            for row in of(found, preset, DENSITIES[-1], written_name(controller)):
                label = written_name(controller) if row["seed"] == SEEDS[0] else None
                axis.plot(*zip(*row["path"], strict=True), **look_of(number), label=label, linewidth=1)
        axis.axhline(1, color="black", linewidth=0.5)
        axis.set(title=f"{preset}, κ = {DENSITIES[-1]:.1%}", xlabel="step", ylabel="expected density / κ")
        axis.legend()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
