"""Following: a run's rows on their way to a tracker, each once, however often the run is stopped."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tombola.core.measure import measure_in
from tombola.core.parts import describe
from tombola.errors import TombolaError, in_words
from tombola.storage.files import read_json_object, write_json
from tombola.trackers.base import Row, Sink, TrackedRun, Tracker

# Remembers, in the run directory, how the tracker calls the run and what it has, where that cannot be asked.
NOTE = "tracker.json"
# What is told of a finished run beside its journal and its scores.
RESULT = ("dense_test_loss", "density", "kept", "seconds", "dense_equivalents")


class Following:
    """Follows one run without a tracker: what it is told goes nowhere."""

    def see(self, kind: str, row: Mapping[str, Any]) -> None:
        """Learn of a row that the journal of an entry of the store, of some kind, has just got."""

    def watch(self, *kinds: str) -> None:
        """Take rows of entries of these kinds alone from now on, since those of others are not the run's."""

    def catch_up(self, rows: Iterable[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        """Send whatever the run's journal has that was not seen when it was measured, and the result."""

    def close(self) -> None:
        """Let go of the tracker."""


class Sending(Following):
    """Follows one run with a tracker, which is opened when there is something to send.

    A stage's rows rise in their epochs or steps; one that is measured again after a stop is known by that. A tracker
    that fails stops no run: that is said, and the same command sends later what is missing. What has been sent is noted
    after every row, so that at worst the row is sent twice between which and its note a process was killed.
    """

    def __init__(self, tracker: Tracker, run: TrackedRun, say: Callable[[str], None]) -> None:
        self._tracker, self._run, self._say = tracker, run, say
        self._kinds: tuple[str, ...] = ()
        self._sink: Sink | None = None
        self._failed, self._finished = False, False
        note = _read(run.directory / NOTE, describe(tracker))
        self._known_as, self._sent = str(note.get("known_as", "")), dict(note.get("sent", {}))

    def see(self, kind: str, row: Mapping[str, Any]) -> None:
        """Send a row; one that says neither epoch nor step waits for the end."""
        if kind in self._kinds and (row.get("step") is not None or row.get("epoch") is not None):
            self._send(_row(row, 0))

    def watch(self, *kinds: str) -> None:
        """Take rows of entries of these kinds alone from now on."""
        self._kinds = kinds

    def catch_up(self, rows: Iterable[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        """Send what is missing, rows without a number of their own counted within their stage."""
        counts: dict[str, int] = {}
        for row in rows:
            stage = str(row.get("stage", ""))
            counts[stage] = counts.get(stage, -1) + 1
            self._send(_row(row, counts[stage]))
        measure = measure_in(result)
        names = (measure.test, "test_loss", measure.dense_test, *RESULT)
        known = {name: result[name] for name in names if name in result}
        self._send(_row({"stage": "result", "step": 0, **known}, 0))
        self._finished = True

    def close(self) -> None:
        """Let go of the tracker; a run that did not come to its result may go on later."""
        if self._sink is not None:
            with self._guarded("it may show the run as one that goes on"):
                self._sink.close(self._finished)

    def _send(self, row: Row) -> None:
        if self._failed or row.number <= self._sent.get(row.stage, -1) or not row.figures:
            return
        with self._guarded("the run goes on without it, and the same command sends later what is missing"):
            sink = self._opened()
            if row.number <= self._sent.get(row.stage, -1):
                return  # the sink itself knows
            sink.log(row)
            self._sent[row.stage] = row.number
            self._note(sink)

    def _opened(self) -> Sink:
        if self._sink is None:
            run = TrackedRun(self._run.directory, self._run.config, self._known_as)
            self._sink = self._tracker.open(run)
            self._known_as = self._sink.known_as
            if self._sink.sent is not None:
                self._sent = dict(self._sink.sent)
            self._note(self._sink)
        return self._sink

    def _note(self, sink: Sink) -> None:
        if sink.sent is None:
            found = {"tracker": describe(self._tracker), "known_as": self._known_as, "sent": self._sent}
            write_json(self._run.directory / NOTE, found)

    @contextmanager
    def _guarded(self, consequence: str) -> Iterator[None]:
        """Say what a tracker failed of, and leave it alone from then on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - anything may come out of other people's packages and networks
            self._failed = True
            self._say(f"tracker {self._tracker.name} failed ({in_words(error)}); {consequence}")


def _row(values: Mapping[str, Any], count: int) -> Row:
    axis = "step" if values.get("step") is not None else "epoch"
    number = values.get(axis)
    figures = {
        name: value
        for name, value in values.items()
        if name not in ("stage", axis) and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Row(str(values.get("stage", "")), axis, count if number is None else int(number), figures)


def _read(path: Path, tracker: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was noted for a tracker with the same options; nothing where there is none, or it is damaged."""
    try:
        found = read_json_object(path)
    except (FileNotFoundError, TombolaError):
        return {}
    return found if found.get("tracker") == tracker and isinstance(found.get("sent"), dict) else {}


@contextmanager
def follow(
    tracker: Tracker | None, directory: Path, config: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Following]:
    """Give what follows a run while it is worked on; say: shows one line."""
    following = Sending(tracker, TrackedRun(directory, config), say) if tracker else Following()
    try:
        yield following
    finally:
        following.close()
