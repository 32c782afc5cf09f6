"""Ranks: processes that search and train together, each on its share of every batch; usually there is but one.

Nothing above asks how many there are. What is computed of a share becomes what it is of the whole batch by `mean`, and
gradients of all shares become one by `total`; all ranks then hold the same bits, and go on alike. What only one may do
(files, locks) is done by the leading one within `given`, and the others get what it made of it, errors included.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from tombola.core.seeds import CPU, seeded
from tombola.errors import TombolaError, UsageError, in_words

T = TypeVar("T")


class RankLost(TombolaError):
    """Another process of the same work has ended, or does not answer."""


class Ranks(Protocol):
    """The processes of one piece of work, seen from one of them."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0 on."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Return Σ share · value over the ranks, differentiable, whatever becomes of it on whichever rank.

        share: of the whole that this rank's value is a mean over; those of all ranks add up to 1.
        """

    def piece(self, value: Tensor) -> Tensor:
        """Return this rank's piece of a scalar that all have; gradients of the pieces add up to the scalar's own."""

    def total(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of tensors over the ranks, the same bits on all of them; without gradients."""

    def combine(self, leaves: Sequence[Tensor], averaged: Sequence[Tensor], value: Tensor) -> Tensor:
        """Add up, in place, the gradients of leaves that backward left on each rank; return the sum of a value.

        averaged: tensors that each become their mean over the ranks, rounded where they are whole numbers. A leaf keeps
        no gradient where no rank has any.
        """

    def given(self, make: Callable[[], T]) -> T:
        """Return what the leading rank makes; what it raises is raised on all."""

    def gathered(self, mine: T) -> list[T]:
        """Return what every rank has, in their order."""

    def apart(self, seed: int, *purpose: str | int, device: torch.device = CPU) -> AbstractContextManager[None]:
        """Let code in the block draw from the global generators what no other rank draws, which nobody after it sees.

        seed, purpose: what is drawn depends on them and on the rank.
        """


class Alone:
    """One process, which has all of every batch."""

    rank, size, leads = 0, 1, True

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Return the value."""
        return value

    def piece(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def total(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors."""
        return list(tensors)

    def combine(self, leaves: Sequence[Tensor], averaged: Sequence[Tensor], value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def given(self, make: Callable[[], T]) -> T:
        """Make it."""
        return make()

    def gathered(self, mine: T) -> list[T]:
        """Return what there is."""
        return [mine]

    def apart(self, seed: int, *purpose: str | int, device: torch.device = CPU) -> AbstractContextManager[None]:
        """Leave everything as it is."""
        return nullcontext()


ALONE = Alone()


class Together:
    """The processes of a Lightning Fabric that was launched with the strategy ddp."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank: int = fabric.global_rank
        self.size: int = fabric.world_size

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Return the sum of the shares."""
        return cast(Tensor, _Mean.apply(value, share, self))

    def piece(self, value: Tensor) -> Tensor:
        """Return as many-th part."""
        return value / self.size

    @torch.no_grad()
    def total(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Add up, all tensors of a type in one message."""
        found: list[Tensor | None] = [None] * len(tensors)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
            flat = torch.cat([tensors[place].detach().reshape(-1).to(self._fabric.device) for place in places])
            flat = flat.clone() if len(places) == 1 else flat
            self._ask(partial(self._fabric.all_reduce, flat, reduce_op="sum"))
            parts = flat.split([tensors[place].numel() for place in places])
            for place, part in zip(places, parts, strict=True):
                found[place] = part.view(tensors[place].shape).to(tensors[place].device)
        return [tensor for tensor in found if tensor is not None]

    @torch.no_grad()
    def combine(self, leaves: Sequence[Tensor], averaged: Sequence[Tensor], value: Tensor) -> Tensor:
        """Send everything in one message a type."""
        own = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.to_dense() for leaf in leaves]
        here = torch.tensor([float(leaf.grad is not None) for leaf in leaves], device="cpu")
        parts = [(each / self.size if _is_divisible(each) else each.double() / self.size) for each in averaged]
        found = self.total([*own, *parts, value.detach(), here])
        for leaf, gradient, ranks in zip(leaves, found, found[-1].tolist(), strict=False):
            if ranks:
                leaf.grad = torch.empty_like(leaf).copy_(gradient)
        for each, mean in zip(averaged, found[len(leaves) :], strict=False):
            each.copy_(mean if _is_divisible(each) else mean.round())
        return found[-2]

    def given(self, make: Callable[[], T]) -> T:
        """Make it where this is rank 0, and send it."""
        made: tuple[Any, Exception | None] = None, None
        if self.leads:
            try:
                made = make(), None
            except Exception as error:
                self._send((None, _sendable(error)))
                raise
        found, raised = self._send(made)
        if raised is not None:
            raise _heard(raised)
        return cast(T, found)

    def _send(self, made: Any) -> Any:
        return self._ask(lambda: self._fabric.broadcast(made, src=0))

    def gathered(self, mine: T) -> list[T]:
        """Ask all."""
        found: list[Any] = [None] * self.size
        self._ask(lambda: torch.distributed.all_gather_object(found, mine))
        return found

    @contextmanager
    def apart(self, seed: int, *purpose: str | int, device: torch.device = CPU) -> Iterator[None]:
        """Seed by the rank, too."""
        with seeded(seed, *purpose, "rank", self.rank, device=device):
            yield

    def _ask(self, how: Callable[[], T]) -> T:
        try:
            return how()
        except RuntimeError as error:  # of gloo and NCCL; a connection closed, or nothing heard for too long
            raise RankLost(
                f"another of the {self.size} processes has ended, or does not answer, and number {self.rank} ends too; "
                f"started again, all go on from the last checkpoint ({in_words(error).splitlines()[0][:120]})"
            ) from error


def _is_divisible(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


class _Mean(torch.autograd.Function):
    """Σ share · value over the ranks. What the sum goes into may differ from rank to rank, so gradients add up too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, share: float, ranks: Together) -> Tensor:
        ctx.share, ctx.ranks = share, ranks
        return ranks.total([value * share])[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.ranks.total(gradients)[0] * ctx.share, None, None


def _sendable(error: Exception) -> Exception:
    """Return an error that another process can read: itself, or its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - classes of the user's own may do anything there
        return TombolaError(in_words(error))
    return error


def _heard(error: Exception) -> Exception:
    """Mark an error as one that the leading rank has raised, and will speak of."""
    error.__dict__["heard"] = True
    return error


def ranks_of(fabric: Any) -> Ranks:
    """Return the processes of a Lightning Fabric, None being one process.

    Raises UsageError for what is no Fabric, was not launched, or does not hold whole models.
    """
    if fabric is None:
        return ALONE
    missing = [name for name in ("world_size", "global_rank", "strategy", "all_reduce") if not hasattr(fabric, name)]
    if missing:
        raise UsageError(f"must be a lightning_fabric.Fabric, got {type(fabric).__name__}", option="fabric")
    if fabric.world_size == 1:
        return ALONE
    strategy = type(fabric.strategy).__name__
    if strategy != "DDPStrategy":
        raise UsageError(
            f"must have the strategy ddp, by which every process holds the whole model, got {strategy}", option="fabric"
        )
    if not torch.distributed.is_initialized():
        raise UsageError("is not launched: call fabric.launch() first", option="fabric")
    return Together(fabric)
