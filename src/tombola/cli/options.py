"""Parsers of the command line; errors as one sentence."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from tombola.errors import UsageError


class _Formatter(DefaultHelpFormatter):
    """Shows an option's help and its default, in words, and nothing of Python's types."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.default if action.option_strings else None
        if "(default:" in text or isinstance(shown, bool) or shown in (None, argparse.SUPPRESS, "", ()):
            return text
        return f"{text} (default: {shown})"


def make_parser(command: str, description: str, example: str, positional: str = "") -> ArgumentParser:
    """Return an empty parser for one command."""
    return ArgumentParser(
        prog=f"tombola {command}",
        usage=f"tombola {command} {positional + ' ' if positional else ''}[options]",
        description=description,
        epilog=f"example: {example}",
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
        print_config=None,
    )


def add_ticket_options(parser: ArgumentParser, purpose: str) -> None:
    """Add the options of commands about a ticket; purpose: what its weights are for, such as "to train from"."""
    parser.add_argument("ticket", type=str, help="ticket file, or run directory")
    parser.add_argument(
        "--weights", type=str, default="", help=f"state_dict {purpose}, .safetensors or .pt (default: the run's)"
    )


def add_output_options(parser: ArgumentParser) -> None:
    """Add the options of commands that make a run directory."""
    parser.add_argument("--out", type=str, default="runs", help="directory below which the run directory lies")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def out_directory(options: Namespace) -> Path:
    """Return what --out names; raises UsageError when it names nothing."""
    if not options.out:
        raise UsageError("--out must name a directory")
    return Path(options.out)


def split_list(text: str) -> list[str]:
    """Return the entries of a list such as "a,b:c=[d,e]", which may stand in brackets itself."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    # A comma within brackets belongs to an entry.
    return [entry.strip() for entry in re.split(r",(?![^\[]*\])", inner) if entry.strip()]


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse arguments; raises UsageError with one sentence for what cannot be parsed."""
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        known = [action.dest for action in parser._actions if action.option_strings]
        raise UsageError(_sentence(str(error), known)) from None


def _sentence(message: str, known: Sequence[str]) -> str:
    """Return jsonargparse's message in one sentence that names the option and what is allowed, `known` being all."""
    wrong_type = re.search(r'Parser key "(\w+)"', message)
    if wrong_type:
        given = re.search(r"(?:Given|Got) value: (.*)", message)
        # Options of runs are texts here, and read later; commands have but whole numbers of their own.
        return (
            f"--{wrong_type[1].replace('_', '-')} must be a whole number, got {given[1] if given else 'something else'}"
        )
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+)", message)
    if unknown:
        name = (unknown[1] or unknown[2]).replace("-", "_")
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0] if unknown[1] else '--' + near[0].replace('_', '-')}?" if near else ""
        return f"{unknown[1] or '--' + unknown[2]} is not an option{hint}"
    return " ".join(message.split())


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's, not one in which a configuration of other origin lies beside a ticket."""
    return all((directory / name).is_file() for name in ("config.yaml", "identity.json"))


def run_and_ticket(given: str) -> tuple[Path, Path]:
    """Return the run directory and the ticket file that a path means: either of the two.

    Raises UsageError where there is no such file.
    """
    path = Path(given)
    ticket = path / "ticket.safetensors" if path.is_dir() else path
    if path.is_dir() and not ticket.is_file():
        raise UsageError(f"{given} is not a run directory with a ticket: there is no {ticket}")
    if not ticket.is_file():
        raise UsageError(f"there is no ticket file {ticket}")
    return ticket.parent, ticket


def weights_for(given: str, directory: Path) -> Path:
    """Return the weights file that --weights names, or the trained one of a run directory.

    Raises UsageError where the ticket lies in no run directory, or has not been trained yet.
    """
    if given:
        return Path(given)
    if not is_run(directory):
        raise UsageError("--weights: the ticket lies in no run directory; give a state_dict, .safetensors or .pt")
    weights = directory / "weights.safetensors"
    if not weights.is_file():
        raise UsageError(f"--weights: the ticket in {directory} is not trained yet; train it, or give a state_dict")
    return weights
