"""`tombola table`: a comparison read back, as a table for people or for other programs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.cli.comparison import comparison_table, explain
from tombola.cli.options import add_study_option, make_parser, parse
from tombola.cli.show import print_table, show_others, show_table, show_text, terminal_width
from tombola.errors import UsageError, check_one_of
from tombola.literal import literal

if TYPE_CHECKING:
    from pandas import DataFrame

    from tombola.studies import Study

FORMATS = ("rich", "csv", "parquet", "markdown", "latex")
KINDS = ("summary", "differences", "equal-cost", "falls", "cells", "metrics", "layers")


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "table",
        "Show what a comparison found, read from its directory, also while cells of it are missing: nothing is run.",
        "tombola table runs --format markdown",
        "DIR",
    )
    parser.add_argument("directory", metavar="DIR", type=str, help="the --out of a comparison")
    add_study_option(parser)
    parser.add_argument(
        "--what",
        type=str,
        default="summary",
        help="summary (one row a finder and density), differences (paired by seed), equal-cost (what others reach for "
        "the same cost), falls (where finders fall a point below dense), cells, metrics (over time), layers",
    )
    parser.add_argument("--format", type=str, default="rich", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--against", type=str, default="", help="finder that others are held against (default: first)")
    parser.add_argument("--out", type=str, default="", help="file to write (default: standard output)")
    options = parse(parser, arguments)
    for name, allowed in (("what", KINDS), ("format", FORMATS)):
        check_one_of(allowed, getattr(options, name), name)
    if options.format == "parquet" and not options.out:
        raise UsageError("needs --out: parquet is not for a terminal", option="format")
    if options.format == "rich" and options.out:
        raise UsageError("is for a terminal; with --out, choose another", option="format")
    if options.out and not Path(options.out).parent.is_dir():
        raise UsageError(f"must be a file in a directory that exists, got {options.out}", option="out")

    from tombola.studies import read

    study = read(options.directory, options.study)
    against = study.chosen(options.against)
    if options.format == "rich" and options.what != "cells" and not study.dense:
        raise UsageError(f"no cell of {study.directory} is finished yet")
    if options.what in ("differences", "equal-cost") and len(study.finders) < 2:
        raise UsageError(f"{options.what} needs two finders; {study.directory} has {against} alone", option="what")
    if options.format == "rich" and options.what == "summary":
        _show(study, against)
        return
    frame = _frame(study, options.what, against)
    if options.format == "rich":
        show_table(f"{options.directory}: {options.what}", list(frame.columns), _texts(frame))
    else:
        _write(frame, options.format, options.out)


def _show(study: "Study", against: str) -> None:
    """Show the table that the comparison ended with, as far as it has come."""
    from tombola.studies import failures
    from tombola.studies.dense import means_by_finder
    from tombola.studies.report.words import title_of

    dense = means_by_finder(study.dense)
    table, left_out = comparison_table(title_of(study), study.rows, against, terminal_width(), dense)
    print_table(table)
    if left_out:
        show_text(f"There is no room for {', '.join(left_out)}; --format csv has them.")
    explain(study.rows, against, dense, failures(study.outcomes), left_out)
    show_others(study)
    if study.missing:
        show_text(f"{len(study.missing)} of {len(study.outcomes)} cells are missing.")
    for problem in study.problems:
        show_text(problem)


def _frame(study: "Study", what: str, against: str) -> "DataFrame":
    if what in ("cells", "metrics", "layers"):
        found: DataFrame = getattr(study, what)
        return found
    asked = {"summary": study.summary, "differences": study.differences, "equal-cost": study.equal_cost}
    return study.falls() if what == "falls" else asked[what](against)


def _texts(frame: "DataFrame") -> list[list[str]]:
    """Return a frame's cells as texts, of numbers the digits that say something."""
    rows = zip(frame.itertuples(index=False, name=None), frame.isna().itertuples(index=False, name=None), strict=True)
    return [["" if lacks else _text(value) for value, lacks in zip(*row, strict=True)] for row in rows]


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else literal(value)


def _write(frame: "DataFrame", style: str, out: str) -> None:
    from tombola.storage.files import write_atomically, write_bytes

    if style == "parquet":
        try:
            write_atomically(Path(out), lambda sink: sink.write(frame.to_parquet(index=False)))
        except ImportError:
            raise UsageError("parquet needs pyarrow: pip install 'tombola[parquet]'", option="format") from None
        return
    text = {"csv": _csv, "markdown": _markdown, "latex": _latex}[style](frame)
    # A name may come from a file system and be no text.
    content = text.encode(errors="backslashreplace")
    if out:
        write_bytes(Path(out), content)
    else:
        sys.stdout.write(content.decode())


def _csv(frame: "DataFrame") -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def _markdown(frame: "DataFrame") -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for cell in cells)
        return f"| {' | '.join(escaped)} |\n"

    rule = f"|{'|'.join(' --- ' for _ in frame.columns)}|\n"
    return line(list(map(str, frame.columns))) + rule + "".join(map(line, _texts(frame)))


def _latex(frame: "DataFrame") -> str:
    import pandas as pd

    names = [str(name).replace("_", " ") for name in frame.columns]
    style = pd.DataFrame(_texts(frame), columns=names).style.hide(axis="index")
    made: str = style.format(escape="latex").to_latex(hrules=True)
    return made
