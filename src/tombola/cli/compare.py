"""`tombola compare`: several finders at several densities over several seeds, in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from tombola.cli.board import board
from tombola.cli.options import add_output_options, make_parser, out_directory, split_list
from tombola.cli.runs import configure_many
from tombola.cli.show import print_table, show_json, show_table, show_text
from tombola.errors import UsageError
from tombola.parts import written_name

if TYPE_CHECKING:
    from tombola.studies import Outcome, Row


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status: 1 where some cell failed."""
    parser = make_parser(
        "compare",
        "Draw and train tickets by several finders, at several densities, over several seeds, and compare them. What "
        "they share is done once; started again, it goes on where it stopped. --density and --sparsity take lists.",
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

    from tombola.studies import failures, plan, read_dynamics, run_all, tabulate
    from tombola.studies.figure import check_picture, draw_study

    if options.plot:
        check_picture(Path(options.plot))
    finders = split_list(options.finders)
    members = plan(layers, finders, densities, options.seeds)
    config = members[0].config
    title = f"{written_name(config.model)} on {written_name(config.data)}"
    with board() as shown:
        outcomes = run_all(
            members,
            out,
            shown,
            lambda found: shown.show(_table(title, tabulate(found), finders[0])),
            [read_dynamics] if options.dynamics else [],
        )
    rows = tabulate(outcomes)
    if not rows:
        raise UsageError(f"--finders: every cell failed; the first said: {outcomes[0].failure}")
    dense = _dense(outcomes)
    failed = failures(outcomes)
    status = 1 if failed else 0
    if options.plot:
        draw_study(rows, dense, Path(options.plot))
    if options.json:
        show_json(
            {
                "rows": [row.to_dict() for row in rows],
                "dense_test_accuracy_mean": dense,
                "failures": failed,
            }
        )
        return status
    print_table(_table(title, rows, finders[0]))
    _explain(rows, dense, outcomes)
    _show_objectives(rows)
    _show_dynamics(rows)
    return status


def _table(title: str, rows: "Sequence[Row]", first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    columns = (
        "finder",
        "density",
        "kept",
        "test accuracy",
        "n",
        "seconds",
        "dense trainings",
        "LTR takes",
        f"{first} is",
    )
    for number, column in enumerate(columns):
        # Names may be long and fold; figures are never cut.
        table.add_column(column, justify="right" if number else "left", no_wrap=bool(number), overflow="fold")
    ahead = {row.density: row for row in rows if row.finder == first}
    for row in rows:
        gain = ahead[row.density].differences.get(row.finder) if row.density in ahead else None
        table.add_row(
            row.finder,
            f"{100 * row.density:.4g} %",
            f"{row.kept:,}",
            f"{row.accuracy} %",
            f"{row.accuracy.n}",
            f"{row.seconds:,.1f}",
            "" if row.dense_equivalents is None else f"{row.dense_equivalents:.2f}",
            "" if row.speed_up is None else f"{row.speed_up:.1f} x as long",
            "" if gain is None else f"{gain[0].verdict} ({gain[0].summary.mean:+.2f})",
        )
    return table


def _dense(outcomes: "Sequence[Outcome]") -> float:
    """Return the dense network's mean accuracy, one figure a seed."""
    by_seed = {o.member.config.seed: o.values["dense_test_accuracy"] for o in outcomes if o.values is not None}
    return sum(by_seed.values()) / len(by_seed)


def _explain(rows: "Sequence[Row]", dense: float, outcomes: "Sequence[Outcome]") -> None:
    show_text(
        f"dense network: {dense:.2f} %. seconds, and dense trainings' worth of work, count from the initial weights on."
    )
    show_text(
        "The last column says what the first finder is beside this one, by the 95 % interval of its gain, paired by "
        "seed and holding over all densities together: better, worse, not worse (by half a point), or undecided."
    )
    from tombola.studies import failures

    if any(row.speed_up for row in rows):
        show_text("LTR takes: its seconds over the finder's, where the finder's mean accuracy is at least LTR's.")
    if any(row.accuracy.indicative for row in rows):
        show_text("Fewer than 5 seeds: indicative.")
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
