"""All randomness comes from a run's seed, through generators made for one purpose each.

A generator is derived from the seed and the words that say what it is for, so adding a new use of randomness
never changes the numbers that an old one sees.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

CPU = torch.device("cpu")


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every word of `purpose`."""
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for one purpose."""
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


def fill_uniform(out: Tensor, seed: int, *purpose: str | int) -> None:
    """Fill a float tensor with uniform numbers in [0, 1), for one purpose.

    On a CPU with multiples of 2**-24 from SFC64, which is several times as fast as torch's Mersenne twister, and whose
    stream numpy promises to keep.
    """
    if out.device.type != "cpu":
        out.uniform_(generator=generator(seed, *purpose, device=out.device))
        return
    words = _stream(seed, *purpose).random_raw(-(-out.numel() // 2))
    halves = torch.from_numpy(words.view(numpy.int32))[: out.numel()].view(out.shape)
    unit = torch.tensor(2**-24, dtype=torch.float32, device="cpu")  # a number alone has torch's default type
    torch.mul(halves.bitwise_right_shift_(8), unit, out=out).add_(0.5)


def stream_state(seed: int, *purpose: str | int) -> Any:
    """Return the four words of SFC64's state where the CPU's `fill_uniform` begins, for who draws from it himself."""
    return _stream(seed, *purpose).state["state"]["state"]


def _stream(seed: int, *purpose: str | int) -> numpy.random.SFC64:
    return numpy.random.SFC64(derive(seed, *purpose))


class GlobalState(NamedTuple):
    """The states of the generators that code without a generator argument draws from. cuda: of one device, if any."""

    cpu: Tensor
    numpy: Any
    python: Any
    cuda: Tensor | None = None

    @classmethod
    def now(cls, device: torch.device = CPU) -> "GlobalState":
        """Return the present states; device: whose generator is meant beside the CPU's."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), numpy.random.get_state(), random.getstate(), cuda)

    def restore(self, device: torch.device = CPU) -> None:
        """Go on from these states."""
        torch.set_rng_state(self.cpu)
        numpy.random.set_state(self.numpy)
        random.setstate(self.python)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, which a checkpoint can hold."""
        kind, words, *rest = self.numpy
        version, numbers, gauss = self.python  # 625 numbers, each of which pickle would look at
        plain = {"numpy": [kind, torch.from_numpy(words.astype("int64")), *rest]}
        return {**self._asdict(), **plain, "python": [version, torch.from_numpy(numpy.array(numbers)), gauss]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GlobalState":
        """Return the states that `to_dict` wrote."""
        kind, words, *rest = values["numpy"]
        version, numbers, gauss = values["python"]
        python = version, tuple(map(int, numbers)), gauss  # numbers: a tuple in checkpoints of older releases
        return cls(**{**values, "numpy": (kind, words.numpy().astype("uint32"), *rest), "python": python})


@contextmanager
def preserved(device: torch.device = CPU) -> Iterator[None]:
    """Restore the global generators after the block; device: whose is meant beside the CPU's."""
    before = GlobalState.now(device)
    try:
        yield
    finally:
        before.restore(device)


@contextmanager
def seeded(seed: int, *purpose: str | int, device: torch.device = CPU) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python inside the block and restore them after it.

    For code that offers no generator argument: modules' own initialisation, dropout, the user's datasets.
    device: where that code runs; generators of further devices are not looked at, which would start them. On a CUDA
    device cuDNN convolves by algorithms that repeat themselves, and float32 without TF32.
    """
    with preserved(device), _repeatable_convolutions(device):
        seeded_state(seed, *purpose, device=device).restore(device)
        yield


@contextmanager
def _repeatable_convolutions(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision
    try:
        cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = True, False, "ieee"
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision = before


def seeded_state(seed: int, *purpose: str | int, device: torch.device = CPU) -> GlobalState:
    """Return the states in which `seeded` begins."""
    derived = derive(seed, *purpose)
    cuda = generator(seed, *purpose, device=device).get_state() if device.type == "cuda" else None
    plain = numpy.random.RandomState(derived % 2**32).get_state(), random.Random(derived).getstate()
    return GlobalState(generator(seed, *purpose).get_state(), *plain, cuda)
