"""A trained ticket's network as it is delivered: on the CPU, in float32, with samples to run it on."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.networks.models import load_into, read_weights
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig
from tombola.ticket import Ticket
from tombola.ticket.formats import Subject


@dataclass(frozen=True)
class Delivered:
    """A ticket, and two networks in eval mode: `model`, its pruned weights zero, and the `dense` one.

    cell: the data. samples: of the test data, (64, ...).
    """

    cell: Cell
    ticket: Ticket
    model: nn.Module
    dense: nn.Module
    samples: Tensor

    @property
    def subject(self) -> Subject:
        """What the formats of an export take."""
        return Subject(self.ticket, self.model.state_dict(), self.model, self.samples[:2])


def load(config: RunConfig, ticket_file: Path, weights: Path, samples: int = 64) -> Delivered:
    """Read a ticket and weights, and put them into the configured model; raises UsageError where they do not fit."""
    tensors = read_weights(weights)
    config = replace(config, weights=None, device="cpu", precision="32-true", layout="contiguous")
    cell = Cell.prepare(resolve(config))
    model = copy.deepcopy(cell.model)
    load_into(model, tensors, weights)
    ticket = Ticket.load(ticket_file, model)
    return Delivered(cell, ticket, ticket.apply_(model).eval(), cell.model.eval(), _samples(cell, samples))


def _samples(cell: Cell, count: int) -> Tensor:
    """Return the first test samples, (count, ...), from the beginning again where there are fewer."""
    item = next(iter(cell.splits.test.feed(count, 0, "deployment", shuffle=False).epoch(0)))
    first = item.batch[0] if isinstance(item.batch, tuple | list) else item.batch
    if not isinstance(first, Tensor):
        raise UsageError("must give inputs that are one tensor each", option="data")
    return torch.cat([first] * -(-count // len(first)))[:count]
