"""Progress of long work: bars with an ETA on a terminal or in a notebook, plain lines elsewhere, or nothing."""

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from statistics import median
from types import TracebackType
from typing import Protocol, TextIO

from tombola import alive
from tombola.literal import literal

# rich draws numbers as it is imported; the caller's are left alone.
_STATE = random.getstate()
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: E402
from rich.progress import Progress as RichProgress  # noqa: E402
from rich.table import Column  # noqa: E402
from rich.text import Text  # noqa: E402

random.setstate(_STATE)


class Bar(Protocol):
    """One piece of work under way."""

    def update(self, done: int, note: str = "") -> None:
        """Say how much is done, and optionally how it goes."""


class Progress(Protocol):
    """Where work reports how far it is."""

    def track(self, title: str, total: int, done: int = 0) -> "AbstractTracking":
        """Return a context manager that gives a Bar."""

    def say(self, text: str) -> None:
        """Show one line."""


class AbstractTracking(Protocol):
    """A context manager around one piece of work."""

    def __enter__(self) -> Bar: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


class _SilentBar:
    def update(self, done: int, note: str = "") -> None:
        pass


class Silent:
    """Shows nothing."""

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Track without showing."""
        yield _SilentBar()

    def say(self, text: str) -> None:
        """Say nothing."""


class _RichBar:
    def __init__(self, bars: RichProgress, title: str, total: int, done: int) -> None:
        self._bars = bars
        self._task = bars.add_task(literal(title), total=total, completed=done, note="")

    def remove(self) -> None:
        """Take the bar away."""
        self._bars.remove_task(self._task)

    def update(self, done: int, note: str = "") -> None:
        fields = {"note": literal(note)} if note else {}
        self._bars.update(self._task, completed=done, **fields)  # type: ignore[arg-type]


def bars_for(console: Console) -> RichProgress:
    """Return bars narrow enough that count and ETA survive 80 columns; only the note gives way."""
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(width=16, no_wrap=True)),
        BarColumn(bar_width=12),
        TextColumn("{task.completed}/{task.total}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(width=7, no_wrap=True)),
        TextColumn("left", table_column=Column(width=4)),
        TextColumn(
            "{task.fields[note]}",
            style="dim",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
    )
    return RichProgress(*columns, console=console, expand=True)


def bar_on(bars: RichProgress, title: str, total: int, done: int) -> tuple[Bar, Callable[[], None]]:
    """Add a bar to others; return it and what takes it away."""
    bar = _RichBar(bars, title, total, done)
    return bar, bar.remove


class Bars:
    """Bars with elapsed and remaining time, for terminals."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show one bar until the work ends."""
        alive.end()
        with bars_for(self._console) as bars:
            yield _RichBar(bars, title, total, done)

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        alive.end()
        self._console.print(Text(literal(text)))


class _PacedBar:
    """A bar that is shown anew at most once in so many seconds, and when the work is done."""

    def __init__(self, title: str, total: int, done: int, every: float) -> None:
        self._title, self._total, self._every = title, total, every
        self._first = done
        self._since = self._shown = time.monotonic()
        self._ended = False

    def update(self, done: int, note: str = "") -> None:
        now, ends = time.monotonic(), done >= self._total
        # The end is shown once, however often it is reported.
        is_told = self._ended if ends else now - self._shown < self._every
        if is_told:
            return
        self._shown, self._ended = now, ends
        left = (now - self._since) / max(done - self._first, 1) * (self._total - done)
        ending = f"done in {now - self._since:.1f} s" if ends else f"{left:.0f} s left"
        alive.end()
        self._show(literal(f"{self._title}: {done}/{self._total}, {ending} {note}".rstrip()), done)

    def _show(self, line: str, done: int) -> None:
        raise NotImplementedError


class _LineBar(_PacedBar):
    def __init__(self, stream: TextIO, title: str, total: int, done: int, every: float) -> None:
        super().__init__(title, total, done, every)
        self._stream = stream

    def _show(self, line: str, done: int) -> None:
        print(line, file=self._stream, flush=True)


class Lines:
    """Plain lines, one every few seconds and one at the end, for files and pipes."""

    def __init__(self, stream: TextIO, every: float = 10.0) -> None:
        self._stream = stream
        self._every = every

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Write a line now and then until the work ends."""
        yield _LineBar(self._stream, title, total, done, self._every)

    def say(self, text: str) -> None:
        """Write one line."""
        alive.end()
        print(literal(text), file=self._stream, flush=True)


class _NotebookBar(_PacedBar):
    def __init__(self, title: str, total: int, done: int, every: float) -> None:
        from IPython.display import display

        super().__init__(title, total, done, every)
        self._handle = display(self._content(literal(title), done), raw=True, display_id=True)

    def _show(self, line: str, done: int) -> None:
        self._handle.update(self._content(line, done), raw=True)

    def _content(self, line: str, done: int) -> dict[str, str]:
        bar = f'<progress value="{done}" max="{self._total}" style="width: 12em"></progress>'
        text = f'<span style="font-family: monospace; white-space: pre-wrap">{escape(line)}</span>'
        return {"text/plain": line, "text/html": f"{bar} {text}"}


class Notebook:
    """Bars in a cell's output that are changed in place; needs nothing but the kernel's own IPython."""

    def __init__(self, every: float = 0.25) -> None:
        self._every = every

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show one bar, which stays as it is when the work ends."""
        yield _NotebookBar(title, total, done, self._every)

    def say(self, text: str) -> None:
        """Write one line among the bars; standard error would be red."""
        print(literal(text), flush=True)


def progress_on(stream: TextIO | None = None) -> Progress:
    """Return the progress display that fits a stream, standard error by default, which in a notebook is a cell's."""
    stream = stream or sys.stderr
    console = Console(file=stream)
    if console.is_jupyter and stream is sys.stderr:
        return Notebook()
    return Bars(console) if stream.isatty() else Lines(stream)


def expected_time(parts: Mapping[str, tuple[Sequence[float], int]]) -> str:
    """Return what a piece of work will take, in one line such as "about 62 minutes: pretraining 1, search 58, ...".

    parts: by name, the seconds that a few steps took, of which the median counts, and how many steps there will be.
    """
    seconds = {name: median(measured) * steps for name, (measured, steps) in parts.items()}
    total = sum(seconds.values())
    unit, length, digits = next(each for each in _UNITS if total < 120 * each[1] or each is _UNITS[-1])

    def said(part: float) -> str:
        value = round(part / length, digits)
        return f"{value:.{digits}f}" if value or not part else f"under {10**-digits:g}"

    words = f"about {said(total)} {unit}"
    return (
        f"{words}: {', '.join(f'{name} {said(part)}' for name, part in seconds.items())}" if len(parts) > 1 else words
    )


_UNITS = (("seconds", 1.0, 0), ("minutes", 60.0, 0), ("hours", 3600.0, 1))
