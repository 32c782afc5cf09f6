"""What a benchmark gives, and how times are taken so that a busy moment hits all sides alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

Work = Callable[[], None]


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
