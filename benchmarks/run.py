"""Runs benchmarks and writes one file.

usage: python -m benchmarks.run OUT.json [--full]
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import sizes, steps
from benchmarks.figures import Figure

QUICK: tuple[Callable[[], list[Figure]], ...] = (
    sizes.startup, sizes.ranking, sizes.memory, steps.search_steps, steps.training_steps,
)  # fmt: skip
LONG: tuple[Callable[[], list[Figure]], ...] = (steps.double_backward_steps, steps.large_networks)


def main(out: Path, full: bool) -> None:
    """Run benchmarks one after another; a goal that is missed is written down and does not fail."""
    figures = []
    for suite in (*QUICK, *(LONG if full else ())):
        for figure in suite():
            found = figure.to_dict()
            figures.append(found)
            word = "" if found["met"] is None else " met" if found["met"] else f" MISSED (goal {figure.goal:g})"
            print(f"{figure.name}: {figure.value:.4g} {figure.unit}{word}", flush=True)
    machine = {"cores": os.cpu_count(), "torch": torch.__version__, "processor": platform.machine()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main(Path(sys.argv[1]), "--full" in sys.argv[2:])
