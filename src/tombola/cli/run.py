"""`tombola run`: one cell, start to end."""

from collections.abc import Sequence

from tombola.cli.options import add_output_options, make_parser, out_directory
from tombola.cli.processes import add_processes_options, begin, join
from tombola.cli.runs import configure
from tombola.cli.show import cells_table, show_json, show_text, show_ticket_words


def main(arguments: Sequence[str]) -> int | None:
    """Run the command; return the exit status of processes that were started for it."""
    parser = make_parser(
        "run",
        "Pretrain a network to the rewind point, draw a ticket, train it, and evaluate it beside the dense network. "
        "Interrupted and started again, it goes on from the last checkpoint; finished, it shows the result at once.",
        "tombola run --preset digits --sparsity 98% --finder cts",
    )
    add_output_options(parser)
    add_processes_options(parser)
    options, config = configure(parser, arguments)
    out = out_directory(options)
    status = begin("run", arguments, options, config)
    if status is not None:
        return status

    from tombola.runs.pipeline import run

    joined = join(options, config)
    result = run(config, out, joined.progress, ranks=joined.ranks)
    if not joined.ranks.leads:
        return None
    if options.json:
        show_json({**result.values, "repeated": result.repeated})
        return None
    if result.repeated:
        show_text(f"This run was finished already; its result lies in {result.directory}")
    cells_table(f"{config.title}, seed {config.seed}", [result.values])
    show_ticket_words(result.values)
    return None
