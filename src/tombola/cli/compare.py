"""`tombola compare`: several finders at several densities over several seeds, in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from tombola.cli.board import Later, board
from tombola.cli.options import add_output_options, make_parser, out_directory, split_list
from tombola.cli.runs import configure_many
from tombola.cli.show import (
    FEW_SEEDS,
    Column,
    fitted_table,
    print_table,
    show_json,
    show_table,
    show_text,
    terminal_width,
)
from tombola.core.parts import written_name
from tombola.errors import UsageError

if TYPE_CHECKING:
    from tombola.studies import CellOutcome, Row


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status: 1 where some cell failed."""
    parser = make_parser(
        "compare",
        "Draw and train tickets by several finders, at several densities, over several seeds, and compare them. What "
        "they share is done once; started again, it goes on from the last checkpoint. --density and --sparsity take "
        "lists.",
        "tombola compare --preset digits --density 0.05,0.02 --finders cts,snip,random --seeds 3",
    )
    parser.add_argument(
        "--finders",
        type=str,
        default="cts,snip,random",
        help="finders to compare, each with options of its own behind colons: cts,cts:objective=loss,ltr",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from --seed on")
    parser.add_argument("--plot", type=str, default="", help="picture of accuracy over density and cost, .svg or .png")
    parser.add_argument(
        "--dynamics",
        action="store_true",
        help="measure also how each ticket's training follows the dense network's: two more trainings a cell",
    )
    add_output_options(parser)
    options, layers, densities = configure_many(parser, arguments)
    out = out_directory(options)

    from tombola.studies import measure_dynamics, plan, run_all, summary, tabulate, write_tables
    from tombola.studies.figure import check_picture, draw_study

    if options.plot:
        check_picture(Path(options.plot))
    finders = split_list(options.finders)
    cells = plan(layers, finders, densities, options.seeds)
    config = cells[0].config
    title = f"{written_name(config.model)} on {written_name(config.data)}"
    with board() as shown:
        outcomes = run_all(
            cells,
            out,
            shown,
            lambda found: shown.show(Later(lambda width: _table(title, tabulate(found), finders[0], width)[0])),
            [measure_dynamics] if options.dynamics else [],
        )
    rows = tabulate(outcomes)
    if not rows:
        raise UsageError(f"--finders: every cell failed; the first said: {outcomes[0].failure}")
    found = summary(rows, outcomes)
    write_tables(rows, found, finders[0], out)
    status = 1 if found["failures"] else 0
    if options.plot:
        draw_study(rows, found["dense_test_accuracy_mean"], Path(options.plot))
    if options.json:
        show_json(found)
        return status
    table, left_out = _table(title, rows, finders[0], terminal_width())
    print_table(table)
    if left_out:
        show_text(f"There is no room for {', '.join(left_out)}; {out / 'table.csv'} has them.")
    _explain(rows, found["dense_test_accuracy_mean"], outcomes, left_out)
    _show_objectives(rows)
    _show_dynamics(rows)
    return status


def _table(title: str, rows: "Sequence[Row]", first: str, width: int | None) -> tuple[Table, list[str]]:
    """Return the table for a terminal of some width, and the titles of the columns for which it has no room."""
    ahead = {row.density: row for row in rows if row.finder == first}
    gains = [ahead[row.density].differences.get(row.finder) if row.density in ahead else None for row in rows]
    columns = (
        Column("finder", tuple(row.finder for row in rows)),
        Column("density", tuple(f"{100 * row.density:.4g} %" for row in rows)),
        Column("kept", tuple(f"{row.kept:,}" for row in rows), 3),
        Column("test accuracy", tuple(f"{row.accuracy} %" for row in rows)),
        Column("n", tuple(f"{row.accuracy.n}" for row in rows), 1),
        Column("seconds", tuple(f"{row.seconds:,.1f}" for row in rows), 2),
        Column(
            "dense trainings",
            tuple("" if row.dense_equivalents is None else f"{row.dense_equivalents:.2f}" for row in rows),
            5,
        ),
        Column("LTR takes", tuple("" if not row.speed_up else f"{row.speed_up:.1f} x as long" for row in rows), 4),
        Column(
            f"{first} is",
            tuple("" if gain is None else f"{gain[0].verdict} ({gain[0].summary.mean:+.2f})" for gain in gains),
        ),
    )
    return fitted_table(title, columns, width)


def _explain(rows: "Sequence[Row]", dense: float, outcomes: "Sequence[CellOutcome]", left_out: Sequence[str]) -> None:
    show_text(
        f"dense network: {dense:.2f} %. seconds, and dense trainings' worth of work, count from the initial weights on."
    )
    if len({row.finder for row in rows}) > 1:
        show_text(
            "The last column says what the first finder is beside this one, by the 95 % interval of its gain, paired "
            "by seed and holding over all densities together: better, worse, not worse (by half a point), or undecided."
        )
    from tombola.studies import failures

    if any(row.speed_up for row in rows) and "LTR takes" not in left_out:
        show_text("LTR takes: its seconds over the finder's, where the finder's mean accuracy is at least LTR's.")
    if any(row.accuracy.indicative for row in rows):
        show_text(FEW_SEEDS)
    for row in rows:
        for warning in row.warnings:
            show_text(f"warning: {row.finder} at {100 * row.density:.4g} %: {warning}")
    for failure in failures(outcomes):
        show_text(f"failed: {failure['finder']} at {failure['density']:.4g}, seed {failure['seed']}: {failure['why']}")


def _show_objectives(rows: "Sequence[Row]") -> None:
    """Show what the finders that minimise something arrived at."""
    found = [row for row in rows if row.objective]
    cells = [
        (row.finder, f"{100 * row.density:.4g} %", row.objective["name"], f"{row.objective['hard']:.5g}")
        for row in found
        if row.objective
    ]
    if cells:
        show_table(
            "objectives of the tickets before training, on the same batches for all",
            ("finder", "density", "objective", "value"),
            cells,
        )


def _show_dynamics(rows: "Sequence[Row]") -> None:
    """Show where training began and where it ended, beside the dense network trained in the same order."""
    cells = [
        (
            row.finder,
            f"{100 * row.density:.4g} %",
            *(f"{row.dynamics[at][kind]:.4f}" for kind in (1, 2) for at in (0, -1)),
        )
        for row in rows
        if row.dynamics
    ]
    if cells:
        show_table(
            "the ticket's training beside the dense network's",
            ("finder", "density", "KL at its start", "at its end", "cosine of gradients at its start", "at its end"),
            cells,
        )
