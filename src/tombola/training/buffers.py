"""Buffers that training changes, on ranks each of which has seen its share of a batch alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from tombola.core.numeric import same_values
from tombola.core.ranks import Ranks
from tombola.errors import UsageError
from tombola.networks.network import statistics_modules


class SharedBuffers:
    """The buffers of a network of which ranks take the mean after every step.

    They are the running statistics of normalisation layers, and what else a training's first step changes on some rank
    and leaves in its shape on all. What batches make grow or shrink has no mean.
    """

    def __init__(self, network: nn.Module, ranks: Ranks) -> None:
        self._network, self._ranks = network, ranks
        layers = statistics_modules(network)
        running = [each for layer in layers for each in (layer.running_mean, layer.running_var)]
        self._statistics = [each for each in running if each is not None]
        # Layers' counters of batches too: those are the same on all ranks.
        self._known = {id(buffer) for layer in layers for buffer in layer.buffers(recurse=False)}
        self._others: dict[str, list[int]] | None = {} if ranks.size == 1 else None

    def state(self) -> dict[str, list[int]] | None:
        """Return the others' shapes by name, None before the first step."""
        return self._others

    def restore(self, state: dict[str, list[int]] | None) -> None:
        """Go on with those that an earlier first step found."""
        self._others = {} if self._ranks.size == 1 else state

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Find out, in the first block, which buffers are changed inside."""
        if self._others is not None:
            yield
            return
        before = {n: b.clone() for n, b in self._network.named_buffers() if id(b) not in self._known}
        yield
        now = dict(self._network.named_buffers())
        kept = {n for n, b in before.items() if n in now and now[n].shape == b.shape}
        changed = [n for n in kept if not same_values(now[n], before[n])]
        found = self._ranks.gathered((changed, [n for n in before if n not in kept]))
        names = {n for here, _ in found for n in here} - {n for _, reshaped in found for n in reshaped}
        self._others = {n: list(before[n].shape) for n in sorted(names)}

    def tensors(self) -> list[Tensor]:
        """Return them, as the network holds them now; raises UsageError where one has another shape by now."""
        others = self._others or {}
        held = dict(self._network.named_buffers()) if others else {}
        for name, shape in others.items():
            if name not in held or list(held[name].shape) != shape:
                raise UsageError(
                    f"model changes the shape of its buffer {name} between steps, so that processes cannot take its "
                    "mean; train it in one process"
                )
        return [*self._statistics, *(held[name] for name in others)]
