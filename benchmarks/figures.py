"""What a benchmark gives, and how times are taken so that a busy moment hits all sides alike."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

Work = Callable[[], None]
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Figure:
    """One measured value beside its goal, which it must not exceed; or reach, where more is better. No goal: a fact."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        met = None
        if self.goal is not None:
            met = self.value >= self.goal if self.at_least else self.value <= self.goal
        return {**asdict(self), "met": met}


def in_own_process(code: str) -> float:
    """Return the number that a program prints, started from the checkout as Python starts it, not tuned."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment, cwd=ROOT
    )
    return float(found.stdout)


def interleaved(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each piece of work, done in turns after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            _settle()
            since = time.perf_counter()
            work()
            _settle()
            if turn:
                seconds[name].append(time.perf_counter() - since)
    return seconds


def _settle() -> None:
    """Wait for what a GPU has still to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(seconds: Mapping[str, list[float]], name: str, other: str) -> float:
    """Return the median over turns of one work's time over another's."""
    return median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))
