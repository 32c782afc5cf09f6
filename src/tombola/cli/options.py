"""Parsers of the command line; errors as one sentence."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from tombola import alive
from tombola.errors import OF_ONE_CELL, UsageError, nearest

# What else people call an option; of several, the first that a command has is meant.
_SYNONYMS = {
    "lr": ("learning_rate",),
    "bs": ("batch_size",),
    "batch": ("batch_size",),
    "wd": ("weight_decay",),
    "decay": ("weight_decay",),
    "gpu": ("device",),
    "gpus": ("device",),
    "cuda": ("device",),
    "cpu": ("device",),
    "cpus": ("threads",),
    "workers": ("threads",),
    "jobs": ("jobs", "threads"),
    "seed": ("seed", "seeds"),
    "seeds": ("seeds", "seed"),
    "sparsities": ("sparsity",),
    "densities": ("density",),
    "keep": ("density",),
    "ratio": ("sparsity",),
    "method": ("finders", "finder"),
    "methods": ("finders", "finder"),
    "dataset": ("data",),
    "data_path": ("data_dir",),
    "arch": ("model",),
    "architecture": ("model",),
    "network": ("model",),
    "checkpoint": ("weights",),
    "output": ("out",),
    "output_dir": ("out",),
    "out_dir": ("out",),
    "dtype": ("precision",),
    "amp": ("precision",),
}
# What may not be empty, though nothing else would say so: an empty one would count as not given.
_NEVER_EMPTY = {
    "out": "a directory",
    "weights": "a file",
    "plot": "a picture, .svg, .pdf or .png",
    "figures": "a directory",
    "against": "a finder",
    "directory": "the directory of a comparison",
    "data_dir": "a folder",
    "data": "a dataset",
    "model": "a model",
    "fit": "a function, my_module:function",
    "preset": "a preset",
    "recipe": "a recipe",
    "ticket": "a ticket file or a run directory",
}
# A path as long as any that comes to lie below --out.
_DEEPEST = Path("store") / ("x" * 40) / ("x" * 40)


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
    parser.add_argument("ticket", metavar="TICKET", type=str, help="ticket file, or run directory")
    parser.add_argument(
        "--weights", type=str, default="", help=f"state_dict {purpose}, .safetensors or .pt (default: the run's)"
    )


def add_json_option(parser: ArgumentParser) -> None:
    """Add the option of commands whose result can be read by programs."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def add_output_options(parser: ArgumentParser) -> None:
    """Add the options of commands that make a run directory."""
    parser.add_argument("--out", type=str, default="runs", help="directory below which the run directory lies")
    add_json_option(parser)


def add_study_option(parser: ArgumentParser) -> None:
    """Add the option of commands that read a directory in which several studies may lie."""
    parser.add_argument(
        "--study", type=str, default="", help="which of several studies in DIR (default: the one run last)"
    )


def out_directory(options: Namespace) -> Path:
    """Return what --out names; raises UsageError when it names nothing, or what no disk can have."""
    if not options.out:
        raise UsageError("--out must name a directory")
    out = Path(options.out)
    try:
        (out / _DEEPEST).exists()
    except OSError as error:
        raise UsageError(f"--out cannot be {options.out}: {error.strerror}") from None
    return out


def split_list(text: str) -> list[str]:
    """Return the entries of a list such as "a,b:c=[d,e]", which may stand in brackets itself."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    # A comma within brackets belongs to an entry.
    return [entry.strip() for entry in re.split(r",(?![^\[]*\])", inner) if entry.strip()]


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse arguments; raises UsageError with one sentence for what cannot be parsed."""
    known = {action.dest: action for action in parser._actions if action.option_strings}
    if "finders" in known and "finder" in known:
        known["finder"].help = argparse.SUPPRESS  # part of a configuration, but not to be given beside a list
    try:
        found = parser.parse_args(list(arguments))
    except ArgumentError as error:
        options = [name for name in known if name != "finder" or "finders" not in known]
        raise UsageError(_miscounted(str(error), parser) or _sentence(str(error), options)) from None
    _refuse_empty(parser, found, arguments)
    alive.options_are_read()
    return found


def _miscounted(message: str, parser: ArgumentParser) -> str:
    """Return what a missing argument would be, or one too many is, in one sentence; nothing where there is neither."""
    known = {action.dest: action for action in parser._actions if not action.option_strings}
    missing = re.search(r"the following arguments are required: (\w+)", message)
    if missing and missing[1] in known:
        return f"{known[missing[1]].metavar} is missing: {known[missing[1]].help}"
    more = re.search(r"unrecognized arguments: (?!-)(.*?)(?: -|$)", message)
    if not more:
        return ""
    if not known:
        return f"takes options alone, which begin with --, not {more[1]}"
    action = next(iter(known.values()))
    return f"give one {action.metavar} ({action.help}), not also {more[1]}"


def _refuse_empty(parser: ArgumentParser, found: Namespace, arguments: Sequence[str]) -> None:
    """Raise UsageError for a path, a name or a number that was given as nothing, which would count as not given."""
    following = zip(arguments, [*arguments, None][1:], strict=True)
    emptied = {word.removesuffix("=") for word, after in following if word.endswith("=") or after == ""}
    for action in parser._actions:
        value, what = getattr(found, action.dest, None), _NEVER_EMPTY.get(action.dest)
        name = f"--{action.dest.replace('_', '-')}" if action.option_strings else action.dest
        given = bool(emptied & set(action.option_strings))
        if what and value == "" and (given or action.default != ""):
            raise UsageError(f"{name} must name {what}")
        if given and value is None:
            raise UsageError(f"{name} must have a value")


def _sentence(message: str, known: Sequence[str]) -> str:
    """Return jsonargparse's message in one sentence that names the option and what is allowed, `known` being all."""
    wrong_type = re.search(r'Parser key "(\w+)"', message)
    if wrong_type:
        given = re.search(r"(?:Given|Got) value: (.*)", message)
        # Options of runs are texts here, and read later; commands have but numbers of their own.
        kind = "number" if "float" in message else "whole number"
        return f"--{wrong_type[1].replace('_', '-')} must be a {kind}, got {given[1] if given else 'something else'}"
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: (--?[^\s=]+)", message)
    if unknown:
        name = (unknown[1] or unknown[2]).lstrip("-").replace("-", "_")
        if name in ("devices", "num_nodes") and "jobs" in known:
            return f"{unknown[1] or unknown[2]} {OF_ONE_CELL}"
        near = _meant(name, known)
        hint = f"; did you mean {near if unknown[1] else '--' + near.replace('_', '-')}?" if near else ""
        return f"{unknown[1] or unknown[2]} is not an option{hint}"
    return " ".join(message.split())


def _meant(name: str, known: Sequence[str]) -> str:
    """Return the option that an unknown name probably stands for, or nothing."""
    all_known = [*known, "sparsity"] if "density" in known else list(known)
    synonyms = [option for option in _SYNONYMS.get(name, ()) if option in all_known]
    return synonyms[0] if synonyms else nearest(name, all_known)


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
