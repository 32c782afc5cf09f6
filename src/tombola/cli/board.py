"""A table that grows while a study runs, with the bars of the work under way below it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tombola import alive
from tombola.core.progress import Bar, Lines, bar_on, bars_for
from tombola.literal import literal


class Later:
    """A table that is made when it is looked at first, which may be never."""

    def __init__(self, make: Callable[[int], RenderableType]) -> None:
        """Keep what makes it; make: takes the width of the terminal."""
        self._make = make
        self._made: tuple[int, RenderableType] | None = None

    def at(self, width: int) -> RenderableType:
        """Return the table for a terminal of some width."""
        if self._made is None or self._made[0] != width:
            self._made = width, self._make(width)
        return self._made[1]


class Board:
    """Progress of a study on a terminal: one live display for the table and for all bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = bars_for(console)
        self._table: RenderableType | Later = ""
        self._live = Live(get_renderable=self._both, console=console, refresh_per_second=4, transient=True)

    def _both(self) -> Group:
        table = self._table.at(self._console.width) if isinstance(self._table, Later) else self._table
        return Group(table, self._bars)

    def show(self, table: RenderableType | Later) -> None:
        """Put a new table in place of the old one."""
        self._table = table

    @contextmanager
    def track(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show one more bar until the work ends."""
        tracker, remove = bar_on(self._bars, title, total, done)
        try:
            yield tracker
        finally:
            remove()

    def say(self, text: str) -> None:
        """Print one line above the table."""
        self._console.print(Text(literal(text)))

    def __enter__(self) -> "Board":
        alive.end()
        self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        # A study that ends prints its table itself; of one that was interrupted, this one stays.
        self._live.transient = error[0] is None
        if self._live.transient:
            self._table = Group()
        self._live.stop()


class PlainBoard(Lines):
    """The same for files and pipes: lines, and no table before the end."""

    def show(self, table: RenderableType | Later) -> None:
        """Show nothing: the table is printed when it is whole."""

    def __enter__(self) -> "PlainBoard":
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def board() -> AbstractContextManager[Board | PlainBoard]:
    """Return the board that fits standard error."""
    return Board(Console(file=sys.stderr)) if sys.stderr.isatty() else PlainBoard(sys.stderr)
