"""`tombola list`: the runs below a directory and how they stand."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.cli.options import add_json_option, make_parser, parse
from tombola.cli.show import show_json, show_table, show_text, size_words

if TYPE_CHECKING:
    from tombola.runs.inventory import ListedRun


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "list",
        "List the runs, trainings and audits below a directory, one a row: finished, drawn (only the ticket is there), "
        "unfinished, or damaged (a file is missing or is not as it was written; the same command makes it again).",
        "tombola list runs",
        "DIR",
    )
    parser.add_argument("directory", type=str, help="the --out that the runs were made with")
    add_json_option(parser)
    options = parse(parser, arguments)

    from tombola.runs.inventory import list_runs
    from tombola.runs.rundir import STORE
    from tombola.storage.files import size_of

    out = Path(options.directory)
    found = list_runs(out)
    store = size_of(out / STORE)
    if options.json:
        show_json({"runs": [run.to_dict() for run in found], "store_bytes": store})
        return
    columns = ("name", "finder", "density", "seed", "state", "test accuracy", "size")
    show_table(options.directory, columns, map(_row, found))
    show_text(f"what they share (in {STORE}): {size_words(store)}; tombola clean {options.directory} makes it smaller")


def _row(run: "ListedRun") -> tuple[str, ...]:
    return (
        run.name,
        run.finder or "",
        "" if run.density is None else f"{100 * run.density:.4g} %",
        "" if run.seed is None else str(run.seed),
        run.state,
        "" if run.test_accuracy is None else f"{run.test_accuracy:.2f} %",
        size_words(run.bytes),
    )
