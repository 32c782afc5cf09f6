"""Searches that go on step by step on frozen weights, and the loop that they share."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Protocol

from tombola.core.seeds import GlobalState, seeded
from tombola.data import Item, forever
from tombola.finders.problem import Problem

RECORD_EVERY = 20


class ResumableSearch(Protocol):
    """A search that goes on step by step."""

    step: int

    def advance(self, item: Item) -> dict[str, Any] | None:
        """Take one step on a batch; return a row of metrics when one is due."""

    def state(self) -> dict[str, Any]:
        """Return everything of its own that the rest of the search depends on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from an earlier `state()`."""


def run_steps(search: ResumableSearch, steps: int, problem: Problem, name: str = "loss") -> None:
    """Take the steps of a search, from where the checkpoint of the problem's entry left it; name: of its objective."""
    device, entry = problem.runtime.device, problem.entry
    with seeded(problem.seed, "search", device=device):
        checkpoint = entry.resume()
        if checkpoint is not None:
            search.restore(checkpoint)
            GlobalState.from_dict(checkpoint["generators"]).restore(device)
            problem.progress.say(f"search: goes on at step {search.step} of {steps}")
        with problem.progress.track("search", steps, search.step) as tracker:
            for item in islice(forever(problem.feed, search.step), steps - search.step):
                row = search.advance(item)
                if row is not None:
                    entry.record(row)
                tracker.update(search.step, f"{name} {row['objective']:.4g}" if row else "")
                if entry.due():
                    entry.checkpoint({**search.state(), "generators": GlobalState.now(device).to_dict()})
