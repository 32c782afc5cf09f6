"""Results as tables for people, or as one JSON object for programs."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tombola import alive
from tombola.core.measure import ACCURACY, measure_in
from tombola.literal import literal

if TYPE_CHECKING:
    from tombola.studies import Study

FEW_SEEDS = (
    "Fewer than 5 seeds are indicative: they can seldom decide, and one alone never, however far apart the figures lie."
)
# Names fold where a terminal is narrow: to so many cells beside columns that could be left out, and at the very least.
ROOMY_NAME, NARROW_NAME = 20, 12
# Words in a title fold to so many cells, and any column where nothing else helps.
NARROW_TITLE, NARROW_COLUMN = 12, 8


def show_json(values: Mapping[str, Any]) -> None:
    """Print one object on standard output."""
    alive.end()
    print(json.dumps(values, indent=2))


@dataclass(frozen=True)
class Column:
    """A column of a table: its title and one text a row.

    rank: 0 of what is always shown; of the rest, the smaller one stays where there is not room for all.
    """

    title: str
    cells: tuple[str, ...]
    rank: int = 0

    @property
    def content(self) -> int:
        """Width of the widest cell."""
        return max((cell_len(literal(cell)) for cell in self.cells), default=0)

    @property
    def narrow(self) -> int:
        """Width at which no cell folds, though the title may."""
        words = max((cell_len(word) for word in literal(self.title).split()), default=0)
        return max(self.content, min(words, NARROW_TITLE))

    @property
    def wide(self) -> int:
        """Width at which nothing folds."""
        return max(self.content, cell_len(literal(self.title)))


def fitted_table(title: str, columns: Sequence[Column], room: int | None) -> tuple[Table, list[str]]:
    """Return a table that fits `room` cells, and the titles of the columns that it had to leave out; None: any width.

    The first column holds names, which fold but never vanish. Columns without any text are dropped. All texts are shown
    as they are.
    """
    filled = [column for number, column in enumerate(columns) if not number or any(column.cells)]
    chosen = filled if room is None else _chosen(filled, room)
    table = Table(title=Text(literal(title), style="bold"), title_justify="left")
    for number, (column, width) in enumerate(zip(chosen, _widths(chosen, room), strict=True)):
        side = "right" if number else "left"
        table.add_column(Text(literal(column.title)), justify=side, overflow="fold", width=width)  # type: ignore[arg-type]
    for cells in zip(*(column.cells for column in chosen), strict=True):
        table.add_row(*(Text(literal(cell)) for cell in cells))
    return table, [column.title for column in filled if column not in chosen]


def _frame(columns: Sequence[Column]) -> int:
    """Return the width of the lines around some columns, and of the blanks beside them."""
    return 3 * len(columns) + 1


def _chosen(columns: Sequence[Column], room: int) -> list[Column]:
    """Return the columns for which there is room, in their order; what ranks first is taken first."""
    chosen = [column for column in columns if not column.rank]
    for column in sorted((c for c in columns if c.rank), key=lambda c: c.rank):
        more = [*chosen, column]
        name = min(columns[0].wide, ROOMY_NAME)
        if name + sum(c.narrow for c in more if c is not columns[0]) + _frame(more) <= room:
            chosen = more
    return [column for column in columns if column in chosen]


def _widths(columns: Sequence[Column], room: int | None) -> list[int]:
    """Return the columns' widths: as wide as may be, then with folded titles, then with folded names and cells."""
    if room is None:
        return [column.wide for column in columns]
    name, *others = columns
    widths = [min(name.wide, NARROW_NAME), *(column.narrow for column in others)]
    left = room - _frame(columns) - sum(widths)
    while left < 0 and max(widths) > NARROW_COLUMN:
        widths[widths.index(max(widths))] -= 1
        left += 1
    for number, column in enumerate(columns):
        more = max(0, min(left, column.wide - widths[number]))
        widths[number] += more
        left -= more
    return widths


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output is, or None off one: cut cells help nobody in a file."""
    return Console().width if sys.stdout.isatty() else None


def show_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table, its first column aligned left and the others right."""
    texts = [[str(cell) for cell in row] for row in rows]
    made = [Column(name, tuple(row[number] for row in texts)) for number, name in enumerate(columns)]
    print_table(fitted_table(title, made, terminal_width())[0])


def print_table(table: Table) -> None:
    """Print a table as wide as it was made, its title on lines of their own, which may be wider."""
    title, table.title = table.title, None
    alive.end()
    if title:
        show_literal(str(title), "bold")
    width = sum(column.width or 0 for column in table.columns) + 3 * len(table.columns) + 1
    Console(width=terminal_width() or max(width, 80)).print(table)


def show_text(text: str) -> None:
    """Print a text on one line; a terminal that is narrower has it wrapped at words."""
    show_literal(literal(text))


def show_literal(line: str, style: str = "") -> None:
    """Do the same with what is literal already."""
    alive.end()
    console, room = Console(soft_wrap=True), terminal_width()
    for part in [line] if room is None else _wrapped(line, room):
        console.print(Text(part, style))


def _wrapped(line: str, room: int) -> list[str]:
    """Cut a line between words into parts of at most `room` cells.

    A word that is longer, such as a path, stays whole: from a terminal, which folds it, it can then be copied.
    """
    first, *words = line.split(" ")
    parts = [first]
    for word in words:
        longer = f"{parts[-1]} {word}"
        if cell_len(longer) <= room:
            parts[-1] = longer
        else:
            parts.append(word)
    return parts


def show_lines(text: str) -> None:
    """Print lines in which everything may be seen already, such as a survey's."""
    alive.end()
    print(text)


def show_ticket_words(values: Mapping[str, Any]) -> None:
    """Print the warnings of a ticket, how many of its weights are at work where some are not, and where it lies."""
    for warning in values.get("warnings", ()):
        show_text(f"warning: {warning}")
    at_work = (values.get("paths") or {}).get("weights")
    if at_work is not None and at_work < values["kept"]:
        show_text(f"on a path from an input to an output lie {at_work:,} of the {values['kept']:,} weights kept")
    show_text(f"ticket: {values['ticket']}")


def size_words(size: int) -> str:
    """Return a number of bytes in words, such as 12.3 MB."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def sparsity_words(kept: int, total: int) -> str:
    """Return the pruned share in percent: four digits, or more where those would say 100 though weights are kept."""
    digits = 4 if kept == 0 else max(4, 3 - math.floor(math.log10(100 * kept / total)))
    return f"{100 * (1 - kept / total):.{digits}g} %"


def show_others(study: "Study") -> None:
    """Name the comparisons that lie beside the one shown."""
    if study.others:
        show_text(f"{study.directory} holds also {', '.join(study.others)}; --study NAME shows one of them.")


def show_failures(failures: Iterable[Mapping[str, Any]]) -> None:
    """Say which cells of a comparison failed, and why; failures: as `tombola.studies.failures` gives them."""
    for failure in failures:
        show_text(f"failed: {failure['finder']} at {failure['density']:.4g}, seed {failure['seed']}: {failure['why']}")


def cells_table(title: str, results: Iterable[Mapping[str, Any]]) -> None:
    """Print the dense network and the tickets of several runs of one network beside each other."""
    rows: list[tuple[str, ...]] = []
    measure = ACCURACY
    for values in results:
        measure = measure_in(values)
        total, kept = values["prunable"], values["kept"]
        if not rows:
            dense = measure.shown(values[measure.dense_test])
            rows.append(("dense", dense, f"{total:,} of {total:,}", "0 %", f"{values['dense_seconds']:.1f}"))
        rows.append(
            (
                f"{values['finder']} ticket",
                measure.shown(values[measure.test]),
                f"{kept:,} of {total:,}",
                sparsity_words(kept, total),
                f"{values['seconds']:.1f}",
            )
        )
        if own := values.get("kept_weights"):
            score, seconds = measure.shown(own[measure.test]), f"{own['cost']['seconds']:.1f}"
            rows.append((f"{values['finder']}, kept weights", score, *rows[-1][2:4], seconds))
    show_table(title, ("network", f"test {measure.name}", "weights kept", "sparsity", "seconds"), rows)
