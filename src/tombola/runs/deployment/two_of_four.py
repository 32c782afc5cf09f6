"""Whether a ticket's weights lie as torch's semi-structured format asks for: at most 2 of every 4 along the inputs."""

import glob

import torch
from torch import nn
from torch.sparse import to_sparse_semi_structured

from tombola.networks.masking import by_canonical_name, survey
from tombola.ticket import Ticket

# Rows and columns of a matrix in float16 must be multiples of these.
_ROWS, _COLUMNS = 32, 64
# What sums of float16 products may differ by, relative to the largest.
_ROUNDING = 1e-2


def lies_two_of_four(mask: torch.Tensor) -> bool:
    """Return whether every 4 weights that follow each other along the inputs hold 2 kept ones at most.

    mask: of a weight (outputs, inputs, ...).
    """
    if mask.dim() < 2 or mask.shape[1] % 4:
        return False
    return bool((mask.movedim(1, -1).reshape(-1, 4).sum(dim=1) <= 2).all())


def semi_structured(ticket: Ticket, model: nn.Module) -> str:
    """Return in words how many of a ticket's layers are in that format, and what came of converting them.

    model: trained, its pruned weights zero. Converted and multiplied, in float16, are the matrices that the format
    takes, where there is a GPU.
    """
    layout = survey(model, include=[glob.escape(name) for name in ticket]).layout
    first = {name for place, name in enumerate(layout.names) if layout.wiring(place).inputs_first}
    fitting = [name for name, mask in ticket.items() if lies_two_of_four(_turned(mask, name in first))]
    found = f"{len(fitting)} of {len(ticket)} layers keep at most 2 of every 4 weights along their inputs"
    if not fitting:
        return found
    parameters = by_canonical_name(model)
    taken = [name for name in fitting if _is_taken(_turned(ticket[name], name in first).shape)]
    if not torch.cuda.is_available():
        return f"{found}, {len(taken)} of them matrices that the format takes; not converted, which needs a GPU"
    right = sum(_agrees(_turned(parameters[name].detach(), name in first)) for name in taken)
    return f"{found}; of {len(taken)} matrices that the format takes {right} converted multiply as they do dense"


def _turned(tensor: torch.Tensor, inputs_first: bool) -> torch.Tensor:
    """Return a weight or its mask with the outputs first."""
    return tensor.transpose(0, 1).contiguous() if inputs_first else tensor


def _is_taken(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not shape[0] % _ROWS and not shape[1] % _COLUMNS


def _agrees(weight: torch.Tensor) -> bool:
    """Return whether a weight multiplies the same after its conversion."""
    dense = weight.cuda().half()
    samples = torch.eye(dense.shape[1], dtype=dense.dtype, device=dense.device)
    found = to_sparse_semi_structured(dense) @ samples
    return float((found - dense).abs().max()) <= _ROUNDING * float(dense.abs().max())
