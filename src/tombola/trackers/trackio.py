"""Trackio."""

import secrets
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.core.parts import option
from tombola.trackers.base import Row, TrackedRun, Tracker, by_stage


@dataclass(frozen=True)
class Trackio(Tracker):
    """Trackio, in a database on this machine or in a Space."""

    name: ClassVar[str] = "trackio"
    packages: ClassVar[tuple[str, ...]] = ("trackio",)
    extra: ClassVar[str] = "trackio"
    project: str = option("tombola", "project of the runs")
    space: str | None = option(None, "Hugging Face Space, owner/name", unset="none: on this machine")

    def open(self, run: TrackedRun) -> "TrackioSink":
        """Return a run of the project, the same as before where there was one."""
        import trackio

        known_as = run.known_as or f"{run.directory.name}-{secrets.token_hex(2)}"
        with redirect_stdout(sys.stderr):  # results alone belong there
            opened = trackio.init(
                project=self.project,
                name=known_as,
                space_id=self.space,
                config=dict(run.config),
                resume="allow",
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return TrackioSink(opened, known_as)


class TrackioSink:
    """A run, which a thread of its own writes."""

    sent: Mapping[str, int] | None = None

    def __init__(self, run: Any, known_as: str) -> None:
        self.known_as = known_as
        self._run = run

    def log(self, row: Row) -> None:
        """Log a row's figures at their epoch or step."""
        self._run.log(by_stage(row), step=row.number)

    def close(self, finished: bool) -> None:
        """Wait until everything is written."""
        with redirect_stdout(sys.stderr):
            self._run.finish()
