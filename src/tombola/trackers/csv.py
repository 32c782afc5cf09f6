"""A CSV file in the run directory."""

import csv
import io
from collections.abc import Iterator
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
        """Return the file, from which a line is cut that a killed process left unfinished; its row is completed."""
        return CsvSink(run.directory / FILE)


class CsvSink:
    """The file itself tells what it has.

    A killed process may have written some lines of its last row alone: `sent` does not have that row, and where it
    comes again, it gets the figures that it lacks.
    """

    def __init__(self, path: Path) -> None:
        self.known_as = str(path)
        self._path = path
        self.sent: dict[str, int] = {}
        self._last: tuple[str, int] | None = None
        self._figures: set[str] = set()  # of the last row
        for line in self._lines():
            place = line["stage"], int(line["epoch"] or line["step"])
            if place != self._last:
                if self._last is not None:
                    self.sent[self._last[0]] = self._last[1]
                self._last, self._figures = place, set()
            self._figures.add(line["metric"])

    def _lines(self) -> Iterator[dict[str, str]]:
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            self._path.write_bytes(whole)
        return csv.DictReader(io.StringIO(whole.decode("utf-8")))

    def log(self, row: Row) -> None:
        """Add a row's figures, at once; of the row that the file ended with when it was opened, those that it lacks."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._path.exists() or not self._path.stat().st_size:
            writer.writerow(HEAD)
        place = [row.number if axis == row.axis else "" for axis in AXES]
        there = self._figures if (row.stage, row.number) == self._last else set()
        lacking = {name: value for name, value in row.figures.items() if name not in there}
        writer.writerows([row.stage, *place, name, value] for name, value in lacking.items())
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())

    def close(self, finished: bool) -> None:
        """Nothing is open between rows."""
