"""Exact compaction: a masked network as a smaller dense one, dead units removed and constants folded into biases."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tombola.core.numeric import distance
from tombola.networks.masking import check_masks, pruned_of, zero_
from tombola.networks.network import private_copy
from tombola.sparse.compaction.cutting import cut
from tombola.sparse.compaction.reading import read
from tombola.sparse.compaction.tracing import refusal, trace

__all__ = ["compact"]

# Sums of fewer summands round differently; what differs more than this, relative to the largest output, is a mistake.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}


@torch.no_grad()
def compact(model: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> nn.Module:
    """Return a smaller copy of a masked model, in eval mode, whose outputs there are the same up to rounding.

    Removed is every channel or feature that nothing reads, and every one that is constant because it has no incoming
    weights, where its constant can be folded into the biases of what reads it: in linear layers, in convolutions
    without padding, and anywhere if it is zero. The copy is of the model's own class and has the same names; a layer
    that needs a bias for constants gets one, and every layer keeps one channel at least.

    masks: bool tensors by canonical name. example: a batch of inputs, (N, ...), on the model's device. Raises
    UsageError where torch.fx cannot trace the model, or for an operation that does something unknown to channels.
    """
    check_masks(model, masks)
    twin = private_copy(model).eval()
    parameters = check_masks(twin, masks)
    zero_(parameters, pruned_of(parameters, masks))
    traced = trace(twin, example)
    masked = twin(example.clone())
    cut(twin, read(traced))
    try:
        agrees = _agree(masked, twin(example.clone()))
    except RuntimeError:  # shapes that do not go together
        agrees = False
    if not agrees:
        raise refusal("what it does depends on numbers of channels in a way that torch.fx does not show")
    return twin


def _agree(masked: object, compacted: object) -> bool:
    """Whether outputs are the same but for rounding: what torch.fx saw need not be all that a model does."""
    for one, other in zip(tree_leaves(masked), tree_leaves(compacted), strict=True):
        is_compared = isinstance(one, Tensor) and one.is_floating_point() and one.numel() > 0
        if is_compared and not distance(one, other) <= _ROUNDING.get(one.dtype, 0.05):
            return False
    return True
