"""Results as tables for people, or as one JSON object for programs."""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def show_json(values: Mapping[str, Any]) -> None:
    """Print one object on standard output."""
    print(json.dumps(values, indent=2))


def show_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table, its first column aligned left and the others right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    print_table(table)


def print_table(table: Table) -> None:
    """Print a table; off a terminal as wide as it needs to be, since cut cells help nobody in a file."""
    if sys.stdout.isatty():
        Console().print(table)
    else:
        needed = Measurement.get(Console(width=10_000), Console(width=10_000).options, table).maximum
        Console(width=max(needed, 80)).print(table)


def show_text(text: str) -> None:
    """Print one line as it is."""
    Console(soft_wrap=True).print(text, highlight=False, markup=False)


def show_ticket_words(values: Mapping[str, Any]) -> None:
    """Print the warnings of a ticket, and where it lies."""
    for warning in values.get("warnings", ()):
        show_text(f"warning: {warning}")
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


def cells_table(title: str, results: Iterable[Mapping[str, Any]]) -> None:
    """Print the dense network and the tickets of several runs of one network beside each other."""
    rows: list[tuple[str, ...]] = []
    for values in results:
        total, kept = values["prunable"], values["kept"]
        if not rows:
            dense = f"{values['dense_test_accuracy']:.2f} %"
            rows.append(("dense", dense, f"{total:,} of {total:,}", "0 %", f"{values['dense_seconds']:.1f}"))
        rows.append(
            (
                f"{values['finder']} ticket",
                f"{values['test_accuracy']:.2f} %",
                f"{kept:,} of {total:,}",
                sparsity_words(kept, total),
                f"{values['seconds']:.1f}",
            )
        )
    show_table(title, ("network", "test accuracy", "weights kept", "sparsity", "seconds"), rows)
