import os
import platform
import subprocess
import sys

import pytest

from tombola import process

FAULTS = """
import resource, sys
from tombola import process
if "tuned" in sys.argv:
    process.tune()
import torch
def work():
    (torch.ones(10 * 2**20) + 1).sum()  # 40 MiB each
for _ in range(6):  # until large tensors have found their places between small ones
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Page faults of twelve allocations of 40 MiB after the first twelve."""
    found = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return int(found.stdout)


@pytest.mark.hard
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_freed_memory_is_kept():
    plain = faults("plain")
    assert faults("tuned") < plain / 5
    assert faults("tuned", MALLOC_MMAP_MAX_="65536") > plain / 2


def test_the_environments_word_comes_first(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1"))
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    process.tune()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    process.tune()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
