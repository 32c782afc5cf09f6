"""Options of the command line, made from typed dataclasses; errors as one sentence."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace

from tombola.config import RunConfig, from_values, load_preset, parse_density, parse_sparsity, preset_names
from tombola.errors import UsageError

_WORDS = {
    int: "a whole number",
    int | None: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    str | None: "a text",
    tuple[int, ...]: "a list of whole numbers such as [40,80]",
    tuple[str, ...]: "a list of texts such as [fc.*,head.*]",
}


def make_parser(command: str, description: str, example: str) -> ArgumentParser:
    """Return an empty parser for one command."""
    return ArgumentParser(
        prog=f"tombola {command}",
        description=description,
        epilog=f"example: {example}",
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse arguments; raises UsageError with one sentence for what cannot be parsed."""
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise UsageError(_sentence(str(error))) from None


def _sentence(message: str) -> str:
    """Return jsonargparse's message in one sentence that names the option and what is allowed."""
    kinds: dict[str, Any] = {f.name: f.type for f in fields(RunConfig)}
    wrong_type = re.search(r'Parser key "(\w+)"', message)
    if wrong_type:
        given = re.search(r"(?:Given|Got) value: (.*)", message)
        allowed = _WORDS.get(kinds.get(wrong_type[1], str), "of another type")
        return f"--{wrong_type[1].replace('_', '-')} must be {allowed}, got {given[1] if given else 'something else'}"
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+)", message)
    if unknown:
        name = (unknown[1] or unknown[2]).replace("-", "_")
        near = get_close_matches(name, kinds, n=1)
        hint = f"; did you mean {near[0] if unknown[1] else '--' + near[0].replace('_', '-')}?" if near else ""
        return f"{unknown[1] or '--' + unknown[2]} is not an option{hint}"
    return " ".join(message.split())


def add_run_options(parser: ArgumentParser, preset: str) -> None:
    """Add an option for every field of RunConfig, with a preset's values as defaults."""
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with values for any of these options")
    parser.add_argument("--preset", type=str, default=preset, help=f"where to start: {', '.join(preset_names())}")
    values = load_preset(preset)
    groups: dict[str, Any] = {}
    for f in fields(RunConfig):
        title = f.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        default = values.get(f.name, f.default)
        kind: Any = f.type
        if f.name == "density":
            kind = float | str
        elif isinstance(default, list):
            default = tuple(default)
        groups[title].add_argument(f"--{f.name.replace('_', '-')}", type=kind, default=default, help=f.metadata["help"])


def without_sparsity(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with --sparsity written as the --density that it means.

    Raises UsageError where both are given.
    """
    found: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name != "--sparsity":
            found.append(argument)
            continue
        if any(other.partition("=")[0] == "--density" for other in arguments):
            raise UsageError("--density and --sparsity exclude each other: give one of them")
        value = value if equals else next(waiting, "")
        found += ["--density", repr(parse_sparsity(value))]
    return found


def run_and_ticket(given: str) -> tuple[Path, Path]:
    """Return the run directory and the ticket file that a path means: either of the two."""
    path = Path(given)
    return (path, path / "ticket.safetensors") if path.is_dir() else (path.parent, path)


def find_preset(arguments: Sequence[str], default: str = "digits") -> str:
    """Return the preset that the arguments, or a configuration file among them, name."""
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scout.add_argument("--preset")
    scout.add_argument("--config", action="append", default=[])
    try:
        known, _ = scout.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    for path in known.config:
        if not Path(path).is_file():
            raise UsageError(f"--config: there is no file {path}")
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise UsageError(f"--config {path} must hold keys and values")
        named = content.get("preset", default)
        if known.preset and "preset" in content and named != known.preset:
            raise UsageError(f"--preset {known.preset} and --config {path} (preset {named}) exclude each other")
        default = named
    return known.preset or default


def run_config(namespace: Namespace) -> RunConfig:
    """Return the configuration that was parsed."""
    values = {f.name: getattr(namespace, f.name) for f in fields(RunConfig)}
    return from_values({**values, "density": parse_density(values["density"])})
