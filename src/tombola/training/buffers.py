"""Buffers that training changes, on ranks each of which has seen its share of a batch alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from torch import Tensor, nn

from tombola.core.ranks import Ranks
from tombola.networks.network import same_values, statistics_modules


class SharedBuffers:
    """The buffers of a network of which ranks take the mean after every step.

    They are the running statistics of normalisation layers, and what else the first step here changes and leaves in its
    shape. What batches make grow or shrink differs from rank to rank, and has no mean.
    """

    def __init__(self, network: nn.Module, ranks: Ranks) -> None:
        self._network, self._ranks = network, ranks
        layers = statistics_modules(network)
        running = [each for layer in layers for each in (layer.running_mean, layer.running_var)]
        self._statistics = [each for each in running if each is not None]
        # Layers' counters of batches too: those are the same on all ranks.
        self._known = {id(buffer) for layer in layers for buffer in layer.buffers(recurse=False)}
        self._others: list[str] | None = [] if ranks.size == 1 else None

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Find out, in the first block, which buffers are changed inside."""
        if self._others is not None:
            yield
            return
        before = {n: b.clone() for n, b in self._network.named_buffers() if id(b) not in self._known}
        yield
        now = dict(self._network.named_buffers())
        changed = [n for n, b in before.items() if n in now and now[n].shape == b.shape and not same_values(now[n], b)]
        self._others = sorted(set(chain.from_iterable(self._ranks.gathered(changed))))

    def tensors(self) -> list[Tensor]:
        """Return them, as the network holds them now."""
        held = dict(self._network.named_buffers()) if self._others else {}
        return [*self._statistics, *(held[name] for name in self._others or ())]
