"""What a batch and an output are, where a batch has its targets, and how many samples it holds."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tombola.errors import UsageError

Batch = Any
Output = Any

# What targets are called where a batch is a mapping; Hugging Face's names among them.
TARGETS = (
    "labels", "label", "targets", "target", "y", "start_positions", "end_positions", "next_sentence_label",
)  # fmt: skip


def batch_size(batch: Batch) -> int:
    """Return the number of samples in a batch: as many as it has targets, else the length that all its tensors share.

    Targets are the last of two or more entries, or what a mapping calls so. Raises UsageError where neither tells.
    """
    size = counted_targets(batch)
    if size is None:
        size = _shared_length(batch)
    if not size:
        raise UsageError("data gives a batch without samples")
    return size


def counted_targets(batch: Batch) -> int | None:
    """Return the number of samples that a batch has targets for, None where it does not tell."""
    keys = target_keys(batch)
    return _length(batch[keys[0]], _first(batch)) if keys else None


def target_keys(batch: Batch) -> list[Any]:
    """Return the keys or positions at which a batch has its targets."""
    if isinstance(batch, Mapping):
        return [name for name in TARGETS if batch.get(name) is not None]
    # Three entries or more without a tensor are rather as many samples.
    are_entries = _is_list(batch) and (len(batch) == 2 or any(isinstance(entry, Tensor) for entry in batch))
    return [len(batch) - 1] if are_entries and len(batch) > 1 else []


def _first(batch: Batch) -> Any:
    return batch[0] if _is_list(batch) else next((v for k, v in batch.items() if k not in TARGETS), None)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _length(targets: Any, inputs: Any) -> int | None:
    """Return how many samples some targets are for; inputs: those that they belong to, which tell where they do not."""
    if isinstance(targets, Tensor):
        return targets.shape[0] if targets.dim() else None
    if isinstance(targets, Mapping):
        return _only({_length(value, inputs) for value in targets.values()})
    if not _is_list(targets):
        return None
    if not all(isinstance(target, Tensor) for target in targets):
        return len(targets)  # labels, texts, dictionaries: one a sample
    # One tensor a sample, or one a kind of target, each with a row a sample.
    possible = {len(targets), _only({target.shape[0] if target.dim() else len(targets) for target in targets})} - {None}
    seen = _length(inputs, None) if isinstance(inputs, Tensor) else len(inputs) if _is_list(inputs) else None
    return _only(possible) or (seen if seen in possible else None)


def _only(lengths: set[int | None]) -> int | None:
    return next(iter(lengths)) if len(lengths) == 1 else None


def _shared_length(batch: Batch) -> int:
    parts = batch.values() if isinstance(batch, Mapping) else batch if _is_list(batch) else (batch,)
    lengths = {part.shape[0] for part in parts if isinstance(part, Tensor) and part.dim()}
    if not lengths:
        raise UsageError(
            f"a batch must hold a tensor, got {type(batch).__name__}, for its samples to be counted; give "
            "Task(samples=...), which counts them"
        )
    if len(lengths) > 1:
        raise UsageError(
            f"the tensors of a batch have the lengths {', '.join(map(str, sorted(lengths)))}, so its samples cannot be "
            "counted; give Task(samples=...), which counts them"
        )
    return lengths.pop()


def exchanged(batches: Sequence[Batch]) -> list[Batch] | None:
    """Return batches in which samples have each other's targets; None where they do not tell their targets.

    Targets go over the borders of batches where all have the same shape. Draws from the global generator.
    """
    keys, sizes = target_keys(batches[0]), [counted_targets(batch) for batch in batches]
    if not keys or None in sizes or any(target_keys(batch) != keys for batch in batches):
        return None
    if not all(_by_sample(batch[key], size) for batch, size in zip(batches, sizes, strict=True) for key in keys):
        return None
    order = torch.randperm(sum(size or 0 for size in sizes), device="cpu")
    columns = {key: _mixed([batch[key] for batch in batches], order) for key in keys}
    return [_with_targets(batch, {k: column[i] for k, column in columns.items()}) for i, batch in enumerate(batches)]


def _by_sample(targets: Any, size: int | None) -> bool:
    return isinstance(targets, Tensor | list | tuple) and len(targets) == size


def _mixed(parts: list[Any], order: Tensor) -> list[Any]:
    """Return the same parts with rows in another order: over all of them, or each its own where their shapes differ."""
    if not all(isinstance(part, Tensor) for part in parts):
        rows = [row for part in parts for row in part]
        mixed = iter([rows[i] for i in order.tolist()])
        return [[next(mixed) for _ in part] for part in parts]
    if len({part.shape[1:] for part in parts}) == 1:
        return list(torch.cat(parts)[order.to(parts[0].device)].split([len(part) for part in parts]))
    return [part[order[order < len(part)].to(part.device)] for part in parts]


def _with_targets(batch: Batch, targets: Mapping[Any, Any]) -> Batch:
    if isinstance(batch, Mapping):
        copied = copy.copy(batch)
        copied.update(targets)  # type: ignore[attr-defined]
        return copied
    entries = [targets.get(position, entry) for position, entry in enumerate(batch)]
    return type(batch)(*entries) if hasattr(batch, "_fields") else entries
