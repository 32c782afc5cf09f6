"""A CSV file in the run directory."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tombola.trackers.base import Row, TrackedRun, Tracker

FILE = "metrics.csv"
AXES = ("epoch", "step")
HEAD = ("stage", *AXES, "metric", "value")


@dataclass(frozen=True)
class Csv(Tracker):
    """One line a figure (stage, epoch or step, metric, value), added as it is measured; needs no package."""

    name: ClassVar[str] = "csv"

    def open(self, run: TrackedRun) -> "CsvSink":
        """Return the file, from which a line is cut that a killed process left unfinished."""
        return CsvSink(run.directory / FILE)


class CsvSink:
    """The file itself tells what it has."""

    def __init__(self, path: Path) -> None:
        self.known_as = str(path)
        self._path = path
        self.sent: dict[str, int] = {}
        for stage, number in self._rows():
            self.sent[stage] = number

    def _rows(self) -> list[tuple[str, int]]:
        content = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        whole = content[: content.rfind("\n") + 1]
        if whole != content:
            self._path.write_text(whole, encoding="utf-8")
        lines = csv.DictReader(io.StringIO(whole))
        return [(line["stage"], int(line["epoch"] or line["step"])) for line in lines]

    def log(self, row: Row) -> None:
        """Add a row's figures, at once."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._path.exists() or not self._path.stat().st_size:
            writer.writerow(HEAD)
        place = [row.number if axis == row.axis else "" for axis in AXES]
        writer.writerows([row.stage, *place, name, value] for name, value in row.figures.items())
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())

    def close(self, finished: bool) -> None:
        """Nothing is open between rows."""
