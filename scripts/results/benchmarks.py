"""Prints a file of benchmarks as Markdown: one row for each figure.

usage: python scripts/results/benchmarks.py benchmarks/results/full.json
"""

import json
import sys
from pathlib import Path


def main(path: Path) -> None:
    """Print figures, goals, and whether these were met."""
    print("| figure | value | goal | met |\n| --- | --- | --- | --- |")
    for figure in json.loads(path.read_text())["figures"]:
        goal = "" if figure["goal"] is None else f"{'at least' if figure['at_least'] else 'at most'} {figure['goal']:g}"
        met = {None: "", True: "yes", False: "**no**"}[figure["met"]]
        print(f"| {figure['name']} | {figure['value']:.3g} {figure['unit']} | {goal} | {met} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
