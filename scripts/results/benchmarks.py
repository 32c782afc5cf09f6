"""Prints files of benchmarks as Markdown: one row for each figure, one column for each file.

usage: python scripts/results/benchmarks.py benchmarks/results/full.json benchmarks/results/full-bf16.json
"""

import json
import sys
from pathlib import Path
from typing import Any

MET = {None: "", True: ", met", False: ", **missed**"}


def main(*paths: Path) -> None:
    """Print figures, goals, and whether these were met."""
    files = [{figure["name"]: figure for figure in json.loads(path.read_text())["figures"]} for path in paths]
    print("| " + " | ".join(["figure", "goal", *(path.stem for path in paths)]) + " |")
    print("| --- " * (2 + len(paths)) + "|")
    for name, figure in files[0].items():
        goal = "" if figure["goal"] is None else f"{'at least' if figure['at_least'] else 'at most'} {figure['goal']:g}"
        print("| " + " | ".join([name, goal, *(cell(found.get(name)) for found in files)]) + " |")


def cell(figure: dict[str, Any] | None) -> str:
    """Return a figure's value, and whether it meets its goal; nothing where a file lacks it."""
    return f"{figure['value']:.3g} {figure['unit']}{MET[figure['met']]}" if figure else ""


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
