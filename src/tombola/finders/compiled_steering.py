"""Steering compiled by numba: three passes over memory a step, shared by PyTorch's number of threads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy
import torch
from torch import Tensor

from tombola.core import compiled
from tombola.core.compiling import shared_threads
from tombola.core.concrete import LOWEST_TEMPERATURE, slope
from tombola.core.controllers import Controller, Figures, Gradients, Push
from tombola.core.flat import PIECE
from tombola.core.seeds import stream_state
from tombola.core.selection import Pool, Selection
from tombola.finders.balance import Balance

_BETAS = 0.9, 0.999
# Pieces that a thread takes at a time: enough that it seldom asks for more, few enough that all end together.
_AT_A_TIME = 4


@dataclass(frozen=True)
class _Piece:
    """A fixed part of the vectors. cuts: (s + 1,) where its pools change, from 0 on; owners: (s,) their numbers."""

    begin: int
    cuts: Any
    owners: Any

    def of(self, *vectors: Tensor) -> Any:
        """Return its part of vectors, as numpy sees them."""
        end = self.begin + int(self.cuts[-1])
        return [vector[self.begin : end].numpy() for vector in vectors]


def _pieces(counts: Sequence[int], pools: Sequence[Pool]) -> list[_Piece]:
    """Return pieces of the parts of the groups; what belongs to none of the pools is owned by -1."""
    owner_of = {part: number for number, pool in enumerate(pools) for part in pool.parts}
    owners = numpy.array([owner_of.get(part, -1) for part in range(len(counts))])
    ends = numpy.array(list(accumulate(counts)))
    # Neighbours of one owner are one.
    last = numpy.append(owners[1:] != owners[:-1], True)
    owners, ends = owners[last], ends[last]
    found = []
    for begin in range(0, int(ends[-1]), PIECE):
        end = min(begin + PIECE, int(ends[-1]))
        first, past = numpy.searchsorted(ends, [begin, end - 1], side="right")
        cuts = numpy.array([begin, *ends[first:past], end]) - begin
        found.append(_Piece(begin, cuts, owners[first : past + 1]))
    return found


class CompiledSteering:
    """Steering in three passes: masks and sums of the logits, the gradient's norm, and Adam along both gradients.

    What depends on a pass before, the gradients pulled back and pushed, is formed where it is used and never stored.
    Noise is that of `gates.Sampled`; sums are added up piece by piece, whichever threads formed them.
    """

    def __init__(
        self,
        selection: Selection,
        start: Tensor,
        temperature: float,
        controller: Controller,
        seed: int,
        epsilon: float,
    ) -> None:
        self._logits, self._first, self._second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        self._formed = torch.empty_like(start)
        self._groups, self._seed, self._epsilon = selection.groups, seed, epsilon
        self._sharpness = numpy.float32(1 / max(temperature, LOWEST_TEMPERATURE))
        self._balance = Balance(controller, selection, start)
        self._pieces = _pieces(selection.groups.layout().counts, self._balance.pools)
        self._steps = 0
        self._sums: list[Any] = []
        self._by_mask = torch.empty(0)
        self._seen: list[Gradients] = []
        self._pushes: list[Push] = []

    @property
    def logits(self) -> Tensor:
        """The logits a (g,)."""
        return self._logits

    def mask(self, step: int) -> Tensor:
        """Return the mask (d,) of a step; its memory is that of the next."""

        def sample(piece: _Piece) -> Any:
            stream = stream_state(self._seed, "concrete", step, piece.begin)
            logits, mask = piece.of(self._logits, self._formed)
            return compiled.sample(stream, logits, mask, piece.cuts, self._sharpness)

        self._sums = self._over_pieces(sample)
        return self._groups.expand(self._formed).detach().requires_grad_()

    def weigh(self, gradient: Tensor, wanted: Callable[[float], float], learning_rate: float, share: float) -> Figures:
        """Return the figures of a step."""
        self._by_mask = self._groups.reduce(gradient.detach()).contiguous()

        def squares(piece: _Piece) -> Any:
            by_mask, mask = piece.of(self._by_mask, self._formed)
            return compiled.squares(by_mask, mask, piece.cuts)

        self._seen = self._gradients(self._over_pieces(squares))
        self._pushes, figures = self._balance.pushes(self._seen, wanted, learning_rate, share)
        return figures

    def _gradients(self, squares: list[Any]) -> list[Gradients]:
        """Return what is seen of each pool, given the squares of the task's gradient."""
        sums = numpy.zeros((len(self._balance.pools), 3))
        for piece, of_logits, of_task in zip(self._pieces, self._sums, squares, strict=True):
            mine = piece.owners >= 0
            numpy.add.at(sums, piece.owners[mine], numpy.column_stack([of_logits, of_task])[mine])
        found = []
        for pool, (gates, slopes, task) in zip(self._balance.pools, torch.from_numpy(sums), strict=True):
            total = sum(self._groups.layout().counts[part] for part in pool.parts)
            found.append(Gradients(gates / total, task.sqrt(), slopes.sqrt(), total))
        return found

    def pulled(self) -> Tensor:
        """Return ∂R/∂a (g,)."""
        return self._by_mask * slope(self._formed)

    def move(self, learning_rate: float) -> None:
        """Take Adam's step."""
        self._steps += 1
        adam = compiled.adam_factors(self._steps, learning_rate, _BETAS, self._epsilon)
        reaches = [seen.reach(push, torch.float32) for seen, push in zip(self._seen, self._pushes, strict=True)]
        pushes = numpy.array(reaches, dtype=numpy.float32)

        def move(piece: _Piece) -> None:
            by_mask, mask, logits = piece.of(self._by_mask, self._formed, self._logits)
            first, second = piece.of(self._first, self._second)
            compiled.move(by_mask, mask, logits, first, second, piece.cuts, piece.owners, pushes, adam)

        self._over_pieces(move)
        # Its memory is wanted by the network's next pass.
        self._by_mask = torch.empty(0)

    def clamp(self, low: float, high: float, parts: Sequence[int]) -> None:
        """Keep the logits of some parts of the groups between two bounds."""
        views = self._logits.split(list(self._groups.layout().counts))
        for part in parts:
            views[part].clamp_(low, high)

    def state(self) -> dict[str, Any]:
        """Return logits, Adam's moments and steps, and the balance."""
        gates = {"parameters": self._logits, "first": self._first, "second": self._second, "steps": self._steps}
        return {"gates": gates, "balance": self._balance.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        gates = state["gates"]
        for own, key in ((self._logits, "parameters"), (self._first, "first"), (self._second, "second")):
            own.copy_(gates[key])
        self._steps = gates["steps"]
        self._balance.restore(state["balance"])

    def _over_pieces(self, work: Callable[[_Piece], Any]) -> list[Any]:
        """Return what work gives of each piece, in order; threads take several pieces at a time."""

        def some(pieces: Sequence[_Piece]) -> list[Any]:
            return [work(piece) for piece in pieces]

        threads = torch.get_num_threads()
        if threads == 1:
            return some(self._pieces)
        shares = [self._pieces[i : i + _AT_A_TIME] for i in range(0, len(self._pieces), _AT_A_TIME)]
        return [found for share in shared_threads(threads).map(some, shares) for found in share]
