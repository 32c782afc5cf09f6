"""Which parameters are prunable, what they are called, and how a ticket is held in a model."""

from tombola.networks.masking.holding import Attachment, check_masks, hold, pruned_of, zero_
from tombola.networks.masking.names import architecture, by_canonical_name, named_parameters, state_names, unwrap
from tombola.networks.masking.prunable import Entry, Patterns, Survey, survey

__all__ = [
    "Attachment",
    "Entry",
    "Patterns",
    "Survey",
    "architecture",
    "by_canonical_name",
    "check_masks",
    "hold",
    "named_parameters",
    "pruned_of",
    "state_names",
    "survey",
    "unwrap",
    "zero_",
]
