"""`tombola evaluate`: measure a ticket's weights on data."""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from tombola.cli.options import add_json_option, add_ticket_options, make_parser, weights_for
from tombola.cli.runs import configure_for_ticket
from tombola.cli.show import show_json, show_table
from tombola.errors import check_one_of


def _parser() -> ArgumentParser:
    parser = make_parser(
        "evaluate",
        "Evaluate the trained ticket of a run directory, or other weights under its mask. In a run directory the "
        "ticket knows its model and data; options given here take their place.",
        "tombola evaluate runs/RUN --split held-out",
        "TICKET",
    )
    add_ticket_options(parser, "to evaluate")
    parser.add_argument("--split", type=str, default="test", help="test or held-out")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options, config, directory, ticket = configure_for_ticket(_parser, arguments, ("data", "model", "machine"))
    check_one_of(("test", "held-out"), options.split, "split")

    from tombola.core.progress import progress_on
    from tombola.runs.pipeline import evaluate_ticket
    from tombola.ticket.formats import is_network

    holds_weights = not options.weights and is_network(ticket)
    weights = None if holds_weights else weights_for(options.weights, directory)

    found, measure = evaluate_ticket(
        config, ticket, weights, options.split.replace("-", "_"), directory, progress_on(sys.stderr)
    )
    facts = {
        "ticket": str(ticket),
        "split": options.split,
        measure.key: measure.of(found.metric),
        "loss": found.loss,
        "samples": found.samples,
    }
    if options.json:
        show_json(facts)
        return
    row = (options.split, measure.shown(measure.of(found.metric)), f"{found.loss:.4f}", f"{found.samples:,}")
    show_table(str(ticket), ("split", measure.name, "loss", "samples"), [row])
