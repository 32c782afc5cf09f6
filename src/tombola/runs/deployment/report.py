"""What a deployment measured: rows, what they mean, and both as JSON and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tombola.core.measure import ACCURACY, Measure

# By how much a median has to be better for anybody to speak of a gain.
GAIN = 1.05


@dataclass(frozen=True, order=True)
class Setting:
    """How a network is run: on so many threads, with so many samples at once."""

    threads: int
    batch: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Row:
    """One contender.

    score: on test data, as its measure shows it, if known. bytes: on disk. seconds: the median for one batch in each
    setting, in the layout that is the faster one there. why: the reason where it could not be built, and is no
    contender.
    """

    network: str
    runtime: str
    score: float | None = None
    bytes: int = 0
    seconds: Mapping[Setting, float] = field(default_factory=dict)
    layouts: Mapping[Setting, str] = field(default_factory=dict)
    why: str = ""
    measure: Measure = ACCURACY

    @property
    def name(self) -> str:
        """Network and runtime."""
        return f"{self.network}, {self.runtime}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        head: dict[str, Any] = {"network": self.network, "runtime": self.runtime}
        if self.why:
            return {**head, "why_not": self.why}
        times = [
            {
                "threads": setting.threads,
                "batch": setting.batch,
                "layout": self.layouts[setting],
                "latency_ms": 1000 * seconds,
                "throughput": setting.batch / seconds,
            }
            for setting, seconds in self.seconds.items()
        ]
        return {**head, self.measure.test: self.score, "bytes": self.bytes, "times": times}


@dataclass(frozen=True)
class Report:
    """All contenders of one ticket, measured in one run. facts: what was measured, and with what."""

    rows: Sequence[Row]
    facts: Mapping[str, Any]

    @property
    def settings(self) -> list[Setting]:
        """The settings, in order."""
        return sorted({setting for row in self.rows for setting in row.seconds})

    @property
    def verdicts(self) -> list[str]:
        """What the figures say of each sparse network beside the best dense one, and who could not be measured."""
        dense = [row for row in self.rows if row.network == "dense" and not row.why]
        found = [_verdict(row, dense) for row in self.rows if row.network != "dense" and not row.why]
        return found + [f"{row.name}: not measured: {row.why}" for row in self.rows if row.why]

    def columns(self) -> list[str]:
        """Return the titles of the table."""
        measure = self.rows[0].measure if self.rows else ACCURACY
        titles = ["network", f"test {measure.name}", "bytes"]
        for setting in self.settings:
            titles.append(f"ms, {setting}")
            if setting.batch > 1:
                titles.append(f"samples/s, {setting}")
        return titles

    def cells(self) -> list[list[str]]:
        """Return the texts of the table, a list a row."""
        return [self._cells(row) for row in self.rows]

    def _cells(self, row: Row) -> list[str]:
        if row.why:
            return [row.name] + ["-"] * (len(self.columns()) - 1)
        found = [row.name, "-" if row.score is None else row.measure.shown(row.score), f"{row.bytes:,}"]
        for setting in self.settings:
            found.append(f"{1000 * row.seconds[setting]:.4g}")
            if setting.batch > 1:
                found.append(f"{setting.batch / row.seconds[setting]:,.0f}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.facts, "rows": [row.to_dict() for row in self.rows], "verdicts": self.verdicts}

    def to_markdown(self) -> str:
        """Return the table, the sentences and the facts as a page."""
        titles = self.columns()
        lines = ["# Deployment", "", _line(titles), _line(["---"] + ["---:"] * (len(titles) - 1))]
        lines += [_line(cells) for cells in self.cells()]
        lines += ["", *(f"- {_escaped(verdict)}" for verdict in self.verdicts), ""]
        lines += [f"- {key.replace('_', ' ')}: {_escaped(value)}" for key, value in self.facts.items()]
        return "\n".join(lines) + "\n"


def _verdict(row: Row, dense: Sequence[Row]) -> str:
    """Return what a row gains over the fastest dense network in each setting, and over the smallest one on disk."""
    speed = {setting: min(each.seconds[setting] for each in dense) / row.seconds[setting] for setting in row.seconds}
    size = min(each.bytes for each in dense) / row.bytes
    ratios = {f"{_times(ratio)}as fast at {setting}": ratio for setting, ratio in speed.items()}
    ratios[f"{_times(size)}as small on disk" if size >= GAIN else f"{_times(1 / size)}as large on disk"] = size
    gained = [words for words, ratio in ratios.items() if ratio >= GAIN]
    rest = [words for words, ratio in ratios.items() if ratio < GAIN]
    nothing = [f"nothing is gained {'otherwise' if gained else 'at all'} ({', '.join(rest)})"] if rest else []
    return f"{row.name}, beside the best dense network: {'; '.join([*gained, *nothing])}"


def _times(ratio: float) -> str:
    """Return a ratio in words; nothing of one that is 1."""
    digits = f"{ratio:.3g}"
    return "" if digits == "1" else f"{digits} times "


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: object) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
