"""`tombola run`: one cell, start to end."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tombola.cli.options import add_run_options, find_preset, make_parser, parse, run_config, without_sparsity
from tombola.cli.show import cells_table, show_json, show_text
from tombola.errors import UsageError


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    arguments = without_sparsity(arguments)
    parser = make_parser(
        "run",
        "Pretrain a network to the rewind point, draw a ticket, train it, and evaluate it beside the dense network. "
        "Interrupted and started again, it goes on where it stopped; finished, it shows the result at once.",
        "tombola run --preset digits --sparsity 98% --finder cts",
    )
    add_run_options(parser, find_preset(arguments))
    parser.add_argument("--out", type=str, default="runs", help="directory below which the run directory lies")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    options = parse(parser, arguments)
    if not options.out:
        raise UsageError("--out must name a directory")
    config = run_config(options)

    from tombola.pipeline import run
    from tombola.progress import progress_on

    result = run(config, Path(options.out), progress_on(sys.stderr))
    if options.json:
        show_json({**result.values, "repeated": result.repeated})
        return
    if result.repeated:
        show_text(f"This run was finished already; its result lies in {result.directory}")
    values = result.values
    cells_table(f"{config.model} on {config.data}, seed {config.seed}", [values])
    for warning in values["warnings"]:
        show_text(f"warning: {warning}")
    show_text(f"ticket: {values['ticket']}")
