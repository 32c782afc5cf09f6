"""A table that grows while a study runs, with the bars of the work under way below it."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live

from tombola.progress import Lines, Tracker, bars_for, tracker_on


class Board:
    """Progress of a study on a terminal: one live display for the table and for all bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = bars_for(console)
        self._table: RenderableType = ""
        self._live = Live(self._both(), console=console, refresh_per_second=4)

    def _both(self) -> Group:
        return Group(self._table, self._bars)

    def show(self, table: RenderableType) -> None:
        """Put a new table in place of the old one."""
        self._table = table
        self._live.update(self._both())

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """Show one more bar until the work ends."""
        tracker, remove = tracker_on(self._bars, title, total, done)
        try:
            yield tracker
        finally:
            remove()

    def say(self, text: str) -> None:
        """Print one line above the table."""
        self._console.print(text, highlight=False, markup=False)

    def __enter__(self) -> "Board":
        self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.stop()


class PlainBoard(Lines):
    """The same for files and pipes: lines, and no table before the end."""

    def show(self, table: RenderableType) -> None:
        """Show nothing: the table is printed when it is whole."""

    def __enter__(self) -> "PlainBoard":
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def board() -> AbstractContextManager[Board | PlainBoard]:
    """Return the board that fits standard error."""
    return Board(Console(file=sys.stderr)) if sys.stderr.isatty() else PlainBoard(sys.stderr)
