"""`tombola demo`: a winning ticket on bundled data, beside a random one."""

import sys
from collections.abc import Sequence

from tombola.cli.options import add_json_option, make_parser, out_directory, parse
from tombola.cli.show import cells_table, show_json, show_text
from tombola.runs.config import built, load_preset


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "demo",
        "Draw a ticket that keeps 2 % of a digits classifier's weights by Concrete Ticket Search, train it, and show "
        "it beside a random ticket of the same size and the dense network. Takes under a minute on two cores.",
        "tombola demo",
    )
    parser.add_argument("--out", type=str, default="demo", help="directory for the results")
    add_json_option(parser)
    options = parse(parser, arguments)
    out = out_directory(options)

    from tombola.core.progress import progress_on
    from tombola.runs.pipeline import run

    progress, preset = progress_on(sys.stderr), load_preset("digits")
    results = [run(built([preset, {"finder": finder}]), out, progress) for finder in ("cts", "random")]
    if options.json:
        show_json({result.values["finder"]: dict(result.values) for result in results})
        return
    if all(result.repeated for result in results):
        show_text(f"The demo was finished already; these are its results, kept in {out}/")
    cells_table("64-300-100-10 network, scikit-learn's digits, one seed", [result.values for result in results])
    show_text("seconds: from the initial weights on; a ticket's include pretraining, search and training.")
    show_text(f"tombola info {results[0].values['ticket']}  shows the ticket layer by layer.")
