"""What is checked of a file before anybody is told that it is there."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

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
def agrees(model: nn.Module, example: Tensor, run: Callable[[Tensor], Tensor]) -> bool:
    """Whether something gives a network's outputs but for rounding, on a batch (N, ...) and on its first sample."""
    model.eval()
    for batch in (example, example[:1]):
        wanted, found = model(batch), run(batch)
        most = _ROUNDING * max(float(wanted.abs().max()), 1e-6)
        if wanted.shape != found.shape or not float((wanted - found).abs().max()) <= most:
            return False
    return True


def check_outputs(path: Path, subject: Subject, run: Callable[[Tensor], Tensor]) -> None:
    """Raise TombolaError unless what is to be written gives the masked network's outputs."""
    if not agrees(*subject.network(), run):
        raise TombolaError(f"{path} was not written: it gives other outputs than PyTorch does")
