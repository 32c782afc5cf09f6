"""What grows with the number of weights: ranking, ticket files, memory; and how fast the command line starts."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.cases import ARITHMETIC, Case, without_numba
from benchmarks.figures import Figure, in_own_process
from tombola import Ticket
from tombola.core.ranking import keep_top

HUNDRED_MILLION = 10**8
SIZES = (10**5, 10**6, 10**7, HUNDRED_MILLION)


def _time(work: Callable[[], object], repeats: int = 3) -> float:
    seconds = []
    for _ in range(repeats):
        since = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - since)
    return median(seconds)


def ranking() -> list[Figure]:
    """Scores ranked, and tickets saved and loaded, from 10⁵ to 10⁸ weights."""
    figures = []
    for size in SIZES:
        goals = (3.0, 2.0) if size == HUNDRED_MILLION else (None, None)
        scores = torch.randn(size, generator=torch.Generator().manual_seed(0))
        ranked = _time(partial(keep_top, scores, len(scores) // 100))
        figures.append(Figure(f"ranking {size:,} scores", ranked, "s", goals[0]))
        for density in (0.01, 0.1):
            ticket = Ticket({"weight": keep_top(scores, int(density * size))})
            with TemporaryDirectory() as folder:
                path = Path(folder) / "ticket.safetensors"
                stored = _time(partial(_save_and_load, ticket, path))
            figures.append(
                Figure(f"a ticket of {size:,} bits, density {density:.0%}, saved and loaded", stored, "s", goals[1])
            )
    return figures


def _save_and_load(ticket: Ticket, path: Path) -> None:
    ticket.save(path)
    Ticket.load(path)


def arithmetic() -> list[Figure]:
    """Sampling, balance and Adam of a step of a search, from 10⁵ to 10⁸ weights, as they run here and without numba."""
    figures = []
    for size in SIZES:
        case = Case.of_weights(size)
        works = {"mask arithmetic": case.search(ARITHMETIC)}
        with without_numba():
            works["mask arithmetic without numba"] = case.search(ARITHMETIC)
        for name, steps in works.items():
            steps.take(1)
            figures.append(Figure(f"{name} of {size:,} weights", _time(partial(steps.take, 1), 5), "s"))
    return figures


_MEMORY = """
import re
from pathlib import Path
from tombola import process
process.tune()
from benchmarks.cases import REVERSE_KL, Case

def peak():  # of this program; getrusage's would begin with that of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

case = Case.make("resnet20", (3, 32, 32), 10, 512, 2)
before = peak()
{work}
print(peak() - before)
"""


def memory() -> list[Figure]:
    """Peak memory of a search over that of dense training, ResNet-20, batch 512; each in a process of its own."""

    def peak(work: str) -> float:
        return 1024 * in_own_process(_MEMORY.format(work=work))

    dense, search = peak("case.training().take(3)"), peak("case.search(REVERSE_KL).take(3)")
    allowed = 6 * 4 * 291_376
    return [
        Figure(
            "ResNet-20: (peak memory of a search - 6 floats a weight) / training",
            (search - allowed) / dense,
            "times",
            1.1,
        ),
        Figure("ResNet-20: peak memory of training", dense / 2**20, "MiB"),
        Figure("ResNet-20: peak memory of a search", search / 2**20, "MiB"),
    ]


def startup() -> list[Figure]:
    """How long the command line takes to show its help."""
    command = [sys.executable, "-m", "tombola", "--help"]
    return [
        Figure("tombola --help", _time(lambda: subprocess.run(command, check=True, capture_output=True), 7), "s", 0.5)
    ]
