"""Prints where the time of a search's step goes: ResNet-20, batch 512, reverse KL, by operator.

usage: python scripts/results/profile_step.py   (from the checkout)
"""

import sys
from pathlib import Path

from tombola import process

process.tune()
sys.path.insert(0, str(Path(__file__).parents[2]))

from torch.profiler import ProfilerActivity, profile  # noqa: E402

from benchmarks.cases import REVERSE_KL, Case  # noqa: E402


def main(steps: int = 4) -> None:
    """Profile some steps after one that does not count."""
    search = Case.make("resnet20", (3, 32, 32), 10, 512, 2).search(REVERSE_KL)
    search.take(1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        search.take(steps)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:10]:
        print(f"{event.self_cpu_time_total / total:6.1%} {event.key}")


if __name__ == "__main__":
    main()
