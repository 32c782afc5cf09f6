"""TensorBoard."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tombola.core.parts import option
from tombola.trackers.base import Row, TrackedRun, Tracker, by_stage, flat


@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files that `tensorboard --logdir` of the runs' directory shows."""

    name: ClassVar[str] = "tensorboard"
    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)
    extra: ClassVar[str] = "tensorboard"
    folder: str | None = option(None, "folder of event files, one a run below it", unset="the run's own directory")

    def open(self, run: TrackedRun) -> "TensorBoardSink":
        """Return a writer of a new event file beside those that there are."""
        from torch.utils.tensorboard import SummaryWriter

        place = Path(self.folder) / run.directory.name if self.folder else run.directory
        writer = SummaryWriter(str(place))
        if not run.known_as:
            lines = (f"    {key}: {value}" for key, value in flat(run.config).items())
            writer.add_text("configuration", "\n".join(lines))
        return TensorBoardSink(writer, str(place))


class TensorBoardSink:
    """A writer of event files, which do not tell what they have."""

    sent: Mapping[str, int] | None = None

    def __init__(self, writer: Any, known_as: str) -> None:
        self.known_as = known_as
        self._writer = writer

    def log(self, row: Row) -> None:
        """Write a row's figures through to the disk."""
        for name, value in by_stage(row).items():
            self._writer.add_scalar(name, value, row.number)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()
