"""All randomness comes from a run's seed, through generators made for one purpose each.

A generator is derived from the seed and the words that say what it is for, so adding a new use of randomness
never changes the numbers that an old one sees.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every word of `purpose`."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for one purpose."""
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    For code that offers no generator argument: modules' own initialisation, dropout.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *purpose))
        yield
