"""`tombola export`: a ticket's network in one file, for whoever knows nothing of tickets or wants it small."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import add_ticket_options, is_run, make_parser, parse, run_and_ticket, weights_for
from tombola.cli.show import show_text, size_words
from tombola.errors import UsageError

if TYPE_CHECKING:
    from tombola.ticket.formats import Format, Subject

# Named here too, for the help and so that a path that leads nowhere is found before PyTorch is loaded.
FORMATS = {
    "plain": "a state_dict with zeros, .safetensors or .pt",
    "sparse": "values and indices, .safetensors",
    "tombola": "the ticket with the values of its weights, .tombola",
    "compacted": "the network without dead units, weights and code, by torch.export, .pt2",
    "onnx": "the same for onnxruntime, .onnx; needs tombola[onnx]",
}
NEED_MODEL = ("compacted", "onnx")


def _parser() -> ArgumentParser:
    parser = make_parser(
        "export",
        "Write a ticket's network to one file, check the file, and say how large it is. The formats "
        f"{' and '.join(NEED_MODEL)} need the model: with them, options of model and data are taken as by evaluate.",
        "tombola export runs/RUN --format tombola --out network.tombola",
        "TICKET",
    )
    add_ticket_options(parser, "to prune")
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser.add_argument("--format", type=str, default="plain", help=formats)
    parser.add_argument(
        "--out", type=str, default="", help="file to write (default: plain.safetensors, network.onnx and so on)"
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    name = _format_name(arguments)
    if name in NEED_MODEL:
        from tombola.cli.runs import configure_for_ticket

        options, config, directory, path = configure_for_ticket(_parser, arguments, ("data", "model", "machine"))
    else:
        options, config = parse(_parser(), arguments), None
        directory, path = run_and_ticket(options.ticket)

    from tombola.ticket.formats import format_named

    chosen = format_named(options.format)
    weights = weights_for(options.weights, directory)
    out = _out(options, chosen, directory, {path, weights})
    words = chosen.write(out, _subject(config, directory, path, weights))
    show_text(f"{out}: {words}; {size_words(out.stat().st_size)}")


def _format_name(arguments: Sequence[str]) -> str:
    """Return the format that the arguments name."""
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scout.add_argument("--format", default="plain")
    try:
        known, _ = scout.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    return str(known.format)


def _out(options: Namespace, chosen: "Format", directory: Path, read: set[Path]) -> Path:
    """Return the file to write; raises UsageError for one of the wrong kind, and for any that is not ours to write."""
    from tombola.ticket.formats import check_ending

    out = Path(options.out or chosen.default)
    check_ending(out, chosen)
    if out.resolve().parent == directory.resolve() and is_run(directory):
        raise UsageError(f"--out {out} lies in the run directory, whose files are the run's own: choose another place")
    if out.resolve() in {each.resolve() for each in read}:
        raise UsageError(f"--out {out} is a file that is being read: choose another name")
    return out


def _subject(config: Any, directory: Path, path: Path, weights: Path) -> "Subject":
    """Return what is exported: the network where there is a configuration, else the weights alone."""
    from tombola.networks.models import read_weights
    from tombola.ticket import Ticket, pruned_state
    from tombola.ticket.formats import Subject

    if config is not None:
        from tombola.runs.deployment import load

        return load(config, path, weights).subject
    ticket, tensors = Ticket.load(path), read_weights(weights)
    of_run = directory / "weights.safetensors"
    trained = read_weights(of_run) if is_run(directory) and of_run.is_file() else None
    try:
        return Subject(ticket, pruned_state(ticket, tensors, trained))
    except UsageError as error:
        raise UsageError(f"--weights {weights}: {error}") from None
