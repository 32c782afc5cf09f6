"""`tombola draw`: the first half of a run, as far as the ticket."""

from collections.abc import Sequence

from tombola.cli.options import add_output_options, make_parser, out_directory
from tombola.cli.processes import add_processes_options, begin, join
from tombola.cli.runs import configure
from tombola.cli.show import show_json, show_table, show_ticket_words


def main(arguments: Sequence[str]) -> int | None:
    """Run the command; return the exit status of processes that were started for it."""
    parser = make_parser(
        "draw",
        "Pretrain a network to the rewind point and draw a ticket, and stop there. `tombola train` trains the ticket; "
        "`tombola run` with the same options goes on from here.",
        "tombola draw --model my_module:build --data my_module:datasets --sparsity 99%",
    )
    add_output_options(parser)
    add_processes_options(parser)
    options, config = configure(parser, arguments)
    out = out_directory(options)
    status = begin("draw", arguments, options, config)
    if status is not None:
        return status

    from tombola.runs.pipeline import draw

    joined = join(options, config)
    result = draw(config, out, joined.progress, ranks=joined.ranks)
    values = result.values
    if not joined.ranks.leads:
        return None
    if options.json:
        show_json({**values, "repeated": result.repeated})
        return None
    row = (values["finder"], f"{values['kept']:,} of {values['prunable']:,}", f"{values['seconds']:.1f}")
    show_table(
        f"{config.title}, seed {config.seed}",
        ("ticket", "weights kept", "seconds"),
        [row],
    )
    show_ticket_words(values)
    return None
