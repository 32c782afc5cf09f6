"""`tombola export`: plain weights with zeros, for any framework that knows nothing of tickets."""

from collections.abc import Sequence
from pathlib import Path

from tombola.cli.options import add_ticket_options, is_run, make_parser, parse, run_and_ticket, weights_for
from tombola.cli.show import show_text
from tombola.errors import UsageError


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "export",
        "Write a plain state_dict in which the weights that a ticket prunes are zero.",
        "tombola export runs/RUN/ticket.safetensors --weights runs/RUN/weights.safetensors --out plain.safetensors",
        "TICKET",
    )
    add_ticket_options(parser, "to prune")
    parser.add_argument("--out", type=str, default="plain.safetensors", help="file to write, .safetensors or .pt")
    options = parse(parser, arguments)
    directory, path = run_and_ticket(options.ticket)

    from tombola.networks.models import read_weights, write_weights
    from tombola.ticket import Ticket, pruned_state

    ticket = Ticket.load(path)
    weights = weights_for(options.weights, directory)
    out = Path(options.out)
    if out.resolve().parent == directory.resolve() and is_run(directory):
        raise UsageError(f"--out {out} lies in the run directory, whose files are the run's own: choose another place")
    if out.resolve() in {path.resolve(), weights.resolve()}:
        raise UsageError(f"--out {out} is a file that is being read: choose another name")
    of_run = directory / "weights.safetensors"
    trained = read_weights(of_run) if is_run(directory) and of_run.is_file() else None
    tensors = read_weights(weights)
    try:
        plain = pruned_state(ticket, tensors, trained)
    except UsageError as error:
        raise UsageError(f"--weights {weights}: {error}") from None
    write_weights(out, plain)
    show_text(f"{options.out}: plain weights, {ticket.prunable - ticket.kept:,} of {ticket.prunable:,} set to zero")
