"""`tombola compare`: several finders at several densities over several seeds, in one table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.cli.board import Later, board
from tombola.cli.comparison import comparison_table, explain
from tombola.cli.options import add_output_options, make_parser, out_directory, split_list
from tombola.cli.runs import configure_many
from tombola.cli.show import print_table, show_json, show_table, show_text, terminal_width

if TYPE_CHECKING:
    from tombola.studies import Row, Study


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
    parser.add_argument(
        "--plot", type=str, default="", help="picture of the score over density and cost, .svg, .pdf or .png"
    )
    parser.add_argument("--figures", type=str, default="", help="directory for all figures, as SVG, PDF and PNG")
    parser.add_argument(
        "--dynamics",
        action="store_true",
        help="measure also how each ticket's training follows the dense network's: two more trainings a cell",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that work at a time, which share the threads")
    add_output_options(parser)
    options, layers, densities = configure_many(parser, arguments)
    out = out_directory(options)

    from tombola.studies import StudyPlan, plan, read, tabulate
    from tombola.studies.comparison import carry_out
    from tombola.studies.engines import Local
    from tombola.studies.figures import check_directory, check_picture

    engine = Local(options.jobs)
    if options.plot:
        check_picture(Path(options.plot))
    if options.figures:
        check_directory(Path(options.figures))
    finders = split_list(options.finders)
    asked = StudyPlan("comparison", tuple(plan(layers, finders, densities, options.seeds)), options.dynamics)
    with board() as shown:
        rows, found, _ = carry_out(
            asked,
            out,
            shown,
            engine,
            seen=lambda done: shown.show(
                Later(lambda width: comparison_table(asked.title, tabulate(done), finders[0], width)[0])
            ),
            retry_failed=True,
            command=("compare", *arguments),
        )
    _draw(read(out), options.plot, options.figures)
    return show_comparison(asked.title, rows, found, finders[0], out, options.json)


def show_comparison(
    title: str, rows: "Sequence[Row]", found: "Mapping[str, Any]", first: str, out: Path, as_json: bool
) -> int:
    """Show what became of a study's cells; return the exit status: 1 where some cell failed."""
    status = 1 if found["failures"] else 0
    if as_json:
        show_json(found)
        return status
    from tombola.studies.table import dense_means

    dense = dense_means(found)
    table, left_out = comparison_table(title, rows, first, terminal_width(), dense)
    print_table(table)
    if left_out:
        show_text(f"There is no room for {', '.join(left_out)}; {out / 'table.csv'} has them.")
    explain(rows, first, dense, found["failures"], left_out)
    _show_objectives(rows)
    _show_dynamics(rows)
    return status


def _draw(study: "Study", plot: str, figures: str) -> None:
    from tombola.studies.figures import figures_of, overview, write_figure, write_figures

    if plot:
        write_figure(overview(study), Path(plot))
    if figures:
        write_figures(figures_of(study, study.chosen()), Path(figures))


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
