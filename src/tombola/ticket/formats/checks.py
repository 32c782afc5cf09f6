"""What is checked of a file before anybody is told that it is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tombola.core.numeric import distance
from tombola.errors import TombolaError
from tombola.ticket.formats import masked
from tombola.ticket.formats.base import Subject

# Other programs sum in another order; relative to the largest output.
_ROUNDING = 1e-3


def check_reading(path: Path, subject: Subject) -> None:
    """Raise TombolaError unless a file gives the ticket and the state_dict that it was written from."""
    ticket, state = masked.read(path)
    same = state.keys() == subject.state.keys() and ticket == subject.ticket
    if not same or not all(_is_same(value, subject.state[name]) for name, value in state.items()):
        raise TombolaError(f"{path} does not give back what was written to it")


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other.cpu())


@torch.no_grad()
def agrees(model: nn.Module, example: Tensor, run: Callable[[Tensor], Any]) -> bool:
    """Whether something gives a network's outputs but for rounding, on a batch (N, ...) and on its first sample.

    Of several outputs, in lists, tuples and mappings, all count, in their order; there must be one.
    """
    model.eval()
    for batch in (example, example[:1]):
        wanted, found = _tensors(model(batch)), _tensors(run(batch))
        if not wanted or len(wanted) != len(found) or not all(map(_is_close, wanted, found)):
            return False
    return True


def _tensors(output: object) -> list[Tensor]:
    return [each for each in tree_leaves(output) if isinstance(each, Tensor)]


def _is_close(wanted: Tensor, found: Tensor) -> bool:
    if not wanted.is_floating_point() or not wanted.numel():
        return torch.equal(wanted, found)
    return distance(wanted, found) <= _ROUNDING


def check_outputs(path: Path, subject: Subject, run: Callable[[Tensor], Any]) -> None:
    """Raise TombolaError unless what is to be written gives the masked network's outputs."""
    if not agrees(*subject.network(), run):
        raise TombolaError(f"{path} was not written: it gives other outputs than PyTorch does")
