"""Times of several calls, one beside another, so that whatever else the machine does slows all of them alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

# Rounds: at least, whatever the time; at most; and those before, which are not timed.
LEAST, MOST, WARM = 5, 1000, 2


def interleaved(calls: Mapping[Key, Callable[[], object]], seconds: float) -> dict[Key, float]:
    """Return each call's median time, in seconds.

    In every round each is called twice and timed the second time, when caches hold what is its own. seconds: how long
    rounds begin.
    """
    for _ in range(WARM):
        for call in calls.values():
            call()
    times: dict[Key, list[float]] = {key: [] for key in calls}
    end = time.perf_counter() + seconds
    for done in range(MOST):
        if done >= LEAST and time.perf_counter() > end:
            break
        for key, call in calls.items():
            call()
            begin = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - begin)
    return {key: median(each) for key, each in times.items()}
