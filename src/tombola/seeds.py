"""All randomness comes from a run's seed, through generators made for one purpose each.

A generator is derived from the seed and the words that say what it is for, so adding a new use of randomness
never changes the numbers that an old one sees.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every word of `purpose`."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for one purpose."""
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


class GlobalState(NamedTuple):
    """The states of the generators that code without a generator argument draws from, on the CPU."""

    torch: Tensor
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> "GlobalState":
        """Return the present states."""
        return cls(torch.get_rng_state(), numpy.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Go on from these states."""
        torch.set_rng_state(self.torch)
        numpy.random.set_state(self.numpy)
        random.setstate(self.python)


@contextmanager
def preserved(devices: Sequence[int] | None = None) -> Iterator[None]:
    """Restore all global generators after the block; devices: the CUDA ones among them, all by default."""
    before = GlobalState.now()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        before.restore()


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python inside the block and restore them after it.

    For code that offers no generator argument: modules' own initialisation, dropout, the user's datasets.
    """
    with preserved():
        torch.manual_seed(derive(seed, *purpose))
        _seed_plain(seed, *purpose)
        yield


def seeded_state(seed: int, *purpose: str | int) -> GlobalState:
    """Return the states in which `seeded` begins, on the CPU."""
    with preserved(devices=()):
        _seed_plain(seed, *purpose)
        return GlobalState(generator(seed, *purpose).get_state(), numpy.random.get_state(), random.getstate())


def _seed_plain(seed: int, *purpose: str | int) -> None:
    derived = derive(seed, *purpose)
    numpy.random.seed(derived % 2**32)
    random.seed(derived)
