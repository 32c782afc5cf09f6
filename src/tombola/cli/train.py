"""`tombola train`: train a ticket, and evaluate it."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from tombola.cli.options import add_output_options, add_ticket_options, make_parser, out_directory
from tombola.cli.processes import add_processes_options, begin, join
from tombola.cli.runs import configure_for_ticket
from tombola.cli.show import show_json, show_table, show_ticket_words
from tombola.core.measure import measure_in


def _parser() -> ArgumentParser:
    parser = make_parser(
        "train",
        "Train a ticket from the weights that it belongs to, its pruned weights held at zero, and evaluate it. In "
        "a run directory the ticket knows its model, data and recipe; options given here take their place.",
        "tombola train runs/RUN/ticket.safetensors --seed 1",
        "TICKET",
    )
    add_ticket_options(parser, "to train from")
    add_output_options(parser)
    add_processes_options(parser)
    return parser


def main(arguments: Sequence[str]) -> int | None:
    """Run the command; return the exit status of processes that were started for it."""
    options, config, directory, ticket = configure_for_ticket(
        _parser, arguments, ("data", "model", "training", "machine")
    )
    out = out_directory(options)
    status = begin("train", arguments, options, config)
    if status is not None:
        return status
    beside = directory / "start.safetensors"
    start = Path(options.weights) if options.weights else beside if beside.is_file() else None

    from tombola.runs.pipeline import train

    joined = join(options, config)
    result = train(config, ticket, start, out, joined.progress, ranks=joined.ranks)
    values = result.values
    if not joined.ranks.leads:
        return None
    if options.json:
        show_json({**values, "repeated": result.repeated})
        return None
    measure = measure_in(values)
    weights = f"{values['kept']:,} of {values['prunable']:,}"
    row = (values.get("finder", "ticket"), measure.shown(values[measure.test]), weights, f"{values['seconds']:.1f}")
    columns = ("ticket", f"test {measure.name}", "weights kept", "seconds of training")
    show_table(f"{config.title}, seed {config.seed}", columns, [row])
    show_ticket_words(values)
    return None
