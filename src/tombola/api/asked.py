"""What the calls are asked for, read and checked."""

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from tombola.core.flat import Layout
from tombola.core.granularity import GRANULARITIES, Granularity
from tombola.core.parts import options_of, written_name
from tombola.core.ranks import Ranks
from tombola.data import Feed
from tombola.errors import TicketWarning, UsageError
from tombola.finders import CTS, FINDERS, Drawn, Finder, Finds, check_divides, needs_of
from tombola.literal import literal
from tombola.networks.division import over_ranks
from tombola.networks.masking import unwrap
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.storage.identity import digest_tensors
from tombola.training import State

# What may be given as data: batches, or a map-style dataset.
Data = Iterable[Any] | Dataset[Any]


def device_of(model: nn.Module, fabric: Any) -> torch.device:
    """Return where a model runs: a fabric's processes each have a device of their own."""
    device: torch.device = next(model.parameters()).device if fabric is None else fabric.device
    return device


def divided(
    runtime: Runtime,
    finder: Finds,
    model: nn.Module,
    layout: Layout,
    task: Task,
    feeds: Sequence[Feed],
    needs: Sequence[str],
) -> Runtime:
    """Return a runtime that knows what its processes change; raises UsageError where they cannot divide the work."""
    check_divides(finder, runtime.ranks.size)
    _check_alike(runtime.ranks, model, *feeds)
    return over_ranks(model, layout, task, feeds[0], runtime, needs)


def _check_alike(ranks: Ranks, model: nn.Module, *feeds: Feed) -> None:
    """Raise UsageError where processes that divide the work were not given the same."""
    if ranks.size == 1:
        return
    for what, mark in (("model", State.of(unwrap(model)).digest), ("data", [mark_of(feed) for feed in feeds])):
        if any(other != mark for other in ranks.gathered(mark)):
            raise UsageError(
                f"needs the same {what} in all {ranks.size} processes, which divide each batch themselves: the same "
                "weights, and all of the data in the same order, without a DistributedSampler",
                option="fabric",
            )


def finder_of(finder: Finds | str | None, settings: dict[str, Any], granularity: Granularity | str | None) -> Finds:
    """Return the finder that was asked for, CTS with some settings without one, at a granularity."""
    found = _of_settings(finder, settings)
    if granularity is None:
        return found
    if not isinstance(found, Finder):
        words = f"is no option of the finder {written_name(found)}, which does not derive from tombola.finders.Finder"
        raise UsageError(words, option="granularity")
    return replace(found, granularity=GRANULARITIES.read(granularity))


def _of_settings(finder: Finds | str | None, settings: dict[str, Any]) -> Finds:
    given = {name: value for name, value in settings.items() if value is not None}
    if finder is None:
        return CTS(**given)
    spec = FINDERS.parse(finder)
    known = ", ".join(f.name for f in options_of(spec.part))
    for name in given:
        if spec.find(name) is None:
            words = f"is not an option of the finder {written_name(spec.part)}, which has {known}"
            raise UsageError(words, option=name)
    if given:
        words = "excludes steps, objective and controller: give them to the finder itself, as in finder='cts:steps=500'"
        raise UsageError(words, option="finder")
    found: Finds = spec.build()
    return found


def batch_size_of(batch_size: int | None, finder: Finds) -> int:
    """Return how many samples a batch of a map-style dataset has: those that the finder needs, where nobody says."""
    if batch_size is None:
        return needs_of(finder).samples
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise UsageError(f"must be a whole number of at least 1, got {batch_size!r}", option="batch_size")
    return batch_size


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise UsageError unless an option is of a kind, or was not given."""
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"must be a tombola.{kind.__name__}, got {value!r}", option=name)


def check_seed(seed: int) -> None:
    """Raise UsageError unless a seed is a whole number from 0 on."""
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"must be a whole number that is not negative, got {seed!r}", option="seed")


def announced(found: Drawn, ranks: Ranks) -> Drawn:
    """Return what was drawn, its signs that something is off issued as warnings where the caller's own code stands."""
    for sign in found.ticket.provenance.warnings if found.ticket.provenance and ranks.leads else ():
        warnings.warn(literal(sign), TicketWarning, stacklevel=3)
    return found


def mark_of(feed: Feed) -> Any:
    """Return what tells one feed's data from another's: the tensors of its first batch, and its length."""
    first = [item.batch for item in itertools.islice(feed.epoch(0), 1)]
    leaves = {str(n): leaf for n, leaf in enumerate(tree_leaves(first)) if isinstance(leaf, torch.Tensor)}
    return [digest_tensors(leaves), feed.length]
