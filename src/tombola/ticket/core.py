"""Ticket: immutable masks by parameter name, and where they come from."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.core.compiling import numba_works
from tombola.errors import TicketWarning, UsageError
from tombola.networks.masking import Attachment, check_masks, pruned_of, zero_
from tombola.networks.network import private_copy
from tombola.networks.paths import Paths, effective_paths
from tombola.ticket import file
from tombola.ticket.bits import Bits
from tombola.ticket.provenance import Provenance


class Ticket(Mapping[str, Tensor]):
    """A sparse subnetwork: for each prunable parameter, which of its weights are kept.

    A mapping from canonical parameter names to bool tensors of the parameter's shape, True where kept. It cannot be
    changed: every access returns a fresh tensor. Two tickets are equal when names, shapes and masks are.

    masks: bool tensors by name. provenance: where they come from. scores: what they were ranked by, by name, the
    larger the better, if known; not part of the ticket file.
    """

    def __init__(
        self,
        masks: Mapping[str, Tensor],
        provenance: Provenance | None = None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> None:
        if not isinstance(masks, Mapping):
            raise UsageError(f"masks must be a mapping from parameter names to bool tensors, got {masks!r}")
        for name, mask in masks.items():
            if not isinstance(name, str) or not isinstance(mask, Tensor):
                raise UsageError(f"masks must map parameter names to bool tensors, got {mask!r} for {name!r}")
            if mask.dtype != torch.bool:
                raise UsageError(f"the mask of {name} must be of type bool, got {mask.dtype}")
        self._masks = {name: Bits.of(mask) for name, mask in masks.items()}
        self._provenance = provenance
        self._scores = dict(scores) if scores is not None else None

    @property
    def provenance(self) -> Provenance | None:
        """Where the ticket comes from."""
        return self._provenance

    @property
    def granularity(self) -> Any:
        """Which weights were kept or pruned together, as plain values; "weight" where nothing says."""
        return self._provenance.finder.get("granularity", "weight") if self._provenance else "weight"

    @property
    def silent(self) -> bool:
        """Whether pruned channels are pruned whole, biases and normalisation included, as the ticket trains."""
        granularity = self.granularity
        return isinstance(granularity, Mapping) and granularity.get("silent") is True

    @property
    def scores(self) -> dict[str, Tensor] | None:
        """What the weights were ranked by, by name."""
        return self._scores

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The masked parameters' shapes."""
        return {name: mask.shape for name, mask in self._masks.items()}

    @property
    def packed(self) -> dict[str, np.ndarray]:
        """The masks' bits in row-major order, eight to a byte, read-only, by name: a whole study's fit into memory."""
        return {name: mask.packed for name, mask in self._masks.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name].unpack()

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ticket):
            return NotImplemented
        return self.shapes == other.shapes and all(
            np.array_equal(mask.packed, other._masks[name].packed) for name, mask in self._masks.items()
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Ticket({self.kept:,} of {self.prunable:,} weights, density {self.density:.4%})"

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes and masks."""
        total = hashlib.sha256()
        for name in sorted(self._masks):
            mask = self._masks[name]
            total.update(f"{name}|{mask.shape}|".encode() + mask.packed.tobytes())
        return total.hexdigest()

    @property
    def kept_by_layer(self) -> dict[str, int]:
        """Number of weights kept, by parameter."""
        return {name: mask.kept for name, mask in self._masks.items()}

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return sum(mask.kept for mask in self._masks.values())

    @property
    def prunable(self) -> int:
        """Number of weights that the masks cover."""
        return sum(mask.total for mask in self._masks.values())

    @property
    def density(self) -> float:
        """Fraction of prunable weights kept, in [0, 1]; 1 where there are none."""
        return self.kept / self.prunable if self.prunable else 1.0

    @property
    def density_by_layer(self) -> dict[str, float]:
        """Fraction kept, by parameter; 1 for one without weights."""
        return {name: mask.density for name, mask in self._masks.items()}

    @property
    def dead_units(self) -> dict[str, int]:
        """By parameter, the number of units (entries of the first dimension) none of whose weights are kept."""
        return {name: int((~mask.flatten(1).any(dim=1)).sum()) for name, mask in self.items() if mask.dim() > 1}

    @property
    def unread_units(self) -> dict[str, int]:
        """By parameter, the number of inputs (entries of the second dimension) that none of the kept weights read."""
        return {
            name: int((~mask.transpose(0, 1).flatten(1).any(dim=1)).sum())
            for name, mask in self.items()
            if mask.dim() > 1
        }

    def overlap(self, other: "Ticket") -> float:
        """Return the intersection over the union of two tickets' kept weights, in [0, 1]."""
        if not isinstance(other, Ticket) or self.shapes != other.shapes:
            raise UsageError("overlap needs two tickets of the same parameters and shapes")
        pairs = [(mask.packed, other._masks[name].packed) for name, mask in self._masks.items()]
        both = sum(int(np.bitwise_count(mine & theirs).sum(dtype=np.int64)) for mine, theirs in pairs)
        either = sum(int(np.bitwise_count(mine | theirs).sum(dtype=np.int64)) for mine, theirs in pairs)
        return both / either if either else 1.0

    def check(self, model: nn.Module) -> None:
        """Raise UsageError, naming every difference, unless the masks fit the model's parameters."""
        check_masks(model, self)

    def apply_(self, model: nn.Module) -> nn.Module:
        """Set the model's pruned weights to zero, once and in place, and return the model."""
        parameters = check_masks(model, self)
        zero_(parameters, pruned_of(parameters, self))
        return model

    def accelerate(self, model: nn.Module) -> nn.Module:
        """Return a module that computes what the model does under the ticket, by its kept weights alone.

        For use on a CPU: in evaluation, without gradients, in float32, on inputs (N, ...) of any N; outputs are equal
        to rounding. The model is not changed; `.dense()` of what is returned is a plain copy of it, pruned weights
        zero. A model that cannot be traced or holds other operations than are known runs dense, which the first call
        says by a TicketWarning. Raises UsageError where numba is missing (`pip install 'tombola[fast]'`), or the ticket
        does not fit.
        """
        if not numba_works():
            raise UsageError("accelerate needs numba: pip install 'tombola[fast]'")
        from tombola.sparse.inference import Accelerated

        return Accelerated(self.apply_(private_copy(model)), self)

    def attach(self, model: nn.Module, *optimizers: Optimizer, example: Tensor | None = None) -> Attachment:
        """Keep the model's pruned weights at zero, now and after every step of the optimizers, until detached.

        example: a batch of inputs, (N, ...), of which the shape counts. With one, the biases of channels that a ticket
        of granularity channel leaves without input, and their scales and shifts of BatchNorm, are kept at zero too, as
        `sparsify` does, so that the channels are zero and `compact` takes them out.

        At each step gradients of pruned weights are set to zero, so that an optimizer that looks at whole tensors moves
        kept weights as if there were no others. Optimizers that wrap others are looked through (Lightning Fabric's,
        lookahead, sharpness-aware ones), and a GradScaler changes nothing. Averaged copies, such as
        torch.optim.swa_utils.AveragedModel, hold weights of their own: use `apply_` on them. Raises UsageError for what
        is no optimizer, or when the optimizers hold none of the ticket's parameters; issues a TicketWarning when they
        lack some that ask for gradients, and the first time that pruned weights have come alive outside of their steps.
        """
        if example is None and self.silent:
            warnings.warn(
                "the biases, scales and shifts of pruned channels train on, and keep the channels in the network: give "
                "attach(..., example=inputs)",
                TicketWarning,
                stacklevel=2,
            )
        return Attachment(model, optimizers, self if example is None else {**self, **self._silenced(model, example)})

    def _silenced(self, model: nn.Module, example: Tensor) -> dict[str, Tensor]:
        from tombola.sparse.channels import silenced

        if not self.silent:
            raise UsageError(f"example is for tickets of granularity channel, this one's is {self.granularity}")
        try:
            return silenced(model, self, example)
        except UsageError as error:
            raise UsageError(f"the model's channels cannot be followed: {error.message}; leave out example") from None

    def compact(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Return a smaller copy of the model, dead units removed, whose outputs are the masked one's up to rounding.

        The copy is in eval mode, of the model's class, with the same names of parameters. example: a batch of inputs,
        (N, ...). Raises UsageError for a model whose channels torch.fx cannot follow, naming the operation.
        """
        from tombola.sparse.compaction import compact

        return compact(model, self, example)

    def paths(self, model: nn.Module, example: Tensor) -> Paths:
        """Return how many units, and paths from inputs to outputs, the ticket leaves of a model.

        example: a batch of inputs, (N, ...), of which the shape counts. Raises UsageError for a network in which paths
        cannot be counted, saying why.
        """
        return effective_paths(model, self, example)

    def save(self, path: str | Path) -> None:
        """Write the ticket to a safetensors file, atomically."""
        file.write(Path(path), self._masks, self._provenance)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> "Ticket":
        """Read a ticket file; with `model`, check also that it fits.

        Raises UsageError saying what is wrong: no such file, no ticket, another format version, masks whose sizes or
        counts do not add up, or names and shapes that differ from the model's.
        """
        ticket = cls({})
        ticket._masks, ticket._provenance = file.read(Path(path))
        if model is not None:
            ticket.check(model)
        return ticket
