"""Runs benchmarks and writes one file; `python -m benchmarks.run --help` says how."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tombola import process

process.tune()  # before torch is imported, which reads the environment

import torch  # noqa: E402

from benchmarks import sizes, sparse, steps  # noqa: E402
from benchmarks.figures import Figure  # noqa: E402
from tombola.core.compiling import numba_works  # noqa: E402

QUICK: tuple[Callable[[], list[Figure]], ...] = (
    sizes.startup, sizes.ranking, sizes.arithmetic, sizes.memory, steps.search_steps, steps.training_steps,
)  # fmt: skip
LONG: tuple[Callable[[], list[Figure]], ...] = (steps.double_backward_steps, steps.kept_memory, steps.large_networks)


def main(out: Path, suites: Sequence[Callable[[], list[Figure]]]) -> None:
    """Run benchmarks one after another; a goal that is missed is written down and does not fail."""
    figures = []
    for suite in suites:
        for figure in suite():
            found = figure.to_dict()
            figures.append(found)
            word = "" if found["met"] is None else " met" if found["met"] else f" MISSED (goal {figure.goal:g})"
            print(f"{figure.name}: {figure.value:.4g} {figure.unit}{word}", flush=True)
    machine = {
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "numba": numba_works(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


def _suites(asked: argparse.Namespace) -> Sequence[Callable[[], list[Figure]]]:
    if asked.sparse:
        return sparse.SUITES
    if asked.steps:
        return (partial(steps.search_steps, asked.device),)
    if asked.large:
        return (sizes.arithmetic, steps.large_networks)
    return (*QUICK, *LONG) if asked.full else QUICK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Runs benchmarks, writes one file.")
    parser.add_argument("out", type=Path, help="file to write, .json")
    parser.add_argument("--full", action="store_true", help="also those that take long")
    parser.add_argument("--steps", action="store_true", help="the steps of search and training alone")
    parser.add_argument("--sparse", action="store_true", help="the sparse engine alone; onnxruntime is needed")
    parser.add_argument(
        "--large", action="store_true", help="the mask's arithmetic by size and on large networks alone"
    )
    parser.add_argument("--device", default="cpu", help="where --steps runs: cpu or cuda")
    options = parser.parse_args()
    main(options.out, _suites(options))
