"""Weights & Biases."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.core.parts import one_of, option
from tombola.trackers.base import Row, TrackedRun, Tracker, by_stage

MODES = ("online", "offline", "disabled")


@dataclass(frozen=True)
class WandB(Tracker):
    """Weights & Biases, of whose projects each run is one run."""

    name: ClassVar[str] = "wandb"
    packages: ClassVar[tuple[str, ...]] = ("wandb",)
    extra: ClassVar[str] = "wandb"
    project: str = option("tombola", "project of the runs")
    entity: str | None = option(None, "user or team", unset="that of the login")
    mode: str | None = option(None, "online, offline or disabled", must=one_of(MODES), unset="WANDB_MODE, else online")

    def open(self, run: TrackedRun) -> "WandBSink":
        """Return a run of the project, the same as before where there was one."""
        import wandb

        known_as = run.known_as or secrets.token_hex(4)
        opened = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            name=run.directory.name,
            id=known_as,
            resume="allow",
            config=dict(run.config),
            dir=str(run.directory),
            settings=wandb.Settings(console="off"),  # progress is no output of the run
        )
        return WandBSink(opened, known_as)


class WandBSink:
    """A run; what it has is on another machine."""

    sent: Mapping[str, int] | None = None

    def __init__(self, run: Any, known_as: str) -> None:
        self.known_as = known_as
        self._run = run
        self._defined: set[str] = set()

    def log(self, row: Row) -> None:
        """Log a row's figures over the stage's own epochs or steps."""
        figures = by_stage(row)
        stage = next(iter(figures)).partition("/")[0]
        axis = f"{stage}/{row.axis}"
        if stage not in self._defined:
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=axis)
            self._defined.add(stage)
        self._run.log({**figures, axis: row.number})

    def close(self, finished: bool) -> None:
        """End the run, as one that can be resumed."""
        self._run.finish(exit_code=0 if finished else 1)
