"""Prints the ablation of Concrete Ticket Search, relaxation x controller x objective, as Markdown.

usage: python scripts/results/ablation.py finders           the list for `tombola compare --finders`
       python scripts/results/ablation.py table FILE.json   accuracies from what it printed with --json
"""

import json
import sys
from itertools import product
from pathlib import Path

RELAXATIONS = ("concrete", "straight-through", "deterministic")
CONTROLLERS = ("gradbalance", "proportional", "lagrangian")
OBJECTIVES = ("loss", "delta-loss", "grad-norm", "reverse-kl", "forward-kl", "feature-mse", "grad-match")


def label(relaxation: str, controller: str, objective: str) -> str:
    """Return a variant's name in a comparison."""
    return f"cts:relaxation={relaxation}:controller={controller}:objective={objective}"


def print_finders() -> None:
    """Print all variants, the published one first."""
    print(",".join(label(r, c, o) for r, c, o in product(RELAXATIONS, CONTROLLERS, OBJECTIVES)))


def print_table(path: Path) -> None:
    """Print one row for each relaxation and controller, one column for each objective."""
    rows = {row["finder"]: row for row in json.loads(path.read_text())["rows"]}
    print("| relaxation | controller | " + " | ".join(OBJECTIVES) + " |")
    print("| --- " * (2 + len(OBJECTIVES)) + "|")
    for relaxation, controller in product(RELAXATIONS, CONTROLLERS):
        found = [rows.get(label(relaxation, controller, objective)) for objective in OBJECTIVES]
        cells = [f"{row['test_accuracy_mean']:.1f} ± {row['test_accuracy_std']:.1f}" if row else "" for row in found]
        print(f"| {relaxation} | {controller} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        print_table(Path(sys.argv[2]))
    else:
        print_finders()
