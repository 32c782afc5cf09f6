"""What a tracker is: a place outside the run directory that gets the same metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tombola.core.parts import Part
from tombola.errors import UsageError


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers see it.

    directory: of the run, whose name is the run's. config: its configuration as plain values. known_as: how the tracker
    called it when it was opened before, empty the first time.
    """

    directory: Path
    config: Mapping[str, Any]
    known_as: str = ""


@dataclass(frozen=True)
class Row:
    """Figures of one moment. stage: the title of the work; number: its epoch or step, whichever `axis` says."""

    stage: str
    axis: str
    number: int
    figures: Mapping[str, float]


class Sink(Protocol):
    """One run in a tracker, open."""

    @property
    def known_as(self) -> str:
        """How the tracker finds the run again."""

    @property
    def sent(self) -> Mapping[str, int] | None:
        """By stage, the number of the last row that it has; None where it cannot tell, and the run remembers."""

    def log(self, row: Row) -> None:
        """Take a row, so that it survives the process."""

    def close(self, finished: bool) -> None:
        """Let go of the run, which is finished or may go on later."""


@dataclass(frozen=True)
class Tracker(Part):
    """A tracker; its fields are its options. packages: what must be there; extra: of tombola, which brings them."""

    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    def check(self) -> None:
        """Raise UsageError where a package is missing; nothing is imported."""
        for package in self.packages:
            if find_spec(package) is None:
                words = f'needs the package {package}: pip install "tombola[{self.extra}]"'
                raise UsageError(f"{self.name} {words}", option="tracker")

    def open(self, run: TrackedRun) -> Sink:
        """Return where the metrics of a run go."""
        raise NotImplementedError


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by one name each, such as finder.steps, without those that are not set."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value not in (None, []):
            found[f"{prefix}{key}"] = value
    return found


def by_stage(row: Row) -> dict[str, float]:
    """Return a row's figures under names that say the stage, such as search/objective."""
    stage = row.stage.replace(",", "").replace(" ", "-") or "run"
    return {f"{stage}/{name}": value for name, value in row.figures.items()}
