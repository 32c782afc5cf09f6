"""The options that make a run's configuration, and where their defaults come from: a preset, or an earlier run."""

import argparse
import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from tombola.cli.options import is_run, parse, run_and_ticket, split_list
from tombola.config import (
    FINDER_OPTIONS,
    STANDARD,
    RunConfig,
    from_dict,
    from_values,
    load_preset,
    parse_density,
    parse_sparsity,
    preset_names,
    recipe_names,
)
from tombola.digests import check_digest
from tombola.errors import UsageError
from tombola.files import read_yaml

_METAVARS: dict[Any, str] = {
    int: "N",
    int | None: "N",
    float: "X",
    float | None: "X",
    bool: "true|false",
    str: "TEXT",
    str | None: "TEXT",
    tuple[int, ...]: "[N,...]",
    tuple[float, ...]: "[X,...]",
    tuple[str, ...]: "[TEXT,...]",
}


def configure(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, RunConfig]:
    """Add the options of a run to a command's own, parse, and return both what was parsed and the configuration.

    With --print_config, prints the configuration, if it is sound, and ends the program.
    """
    arguments = _tidied(without_sparsity(arguments))
    preset, recipe = _start(arguments)
    _add_options(parser, _of_finder(load_preset(preset, recipe), arguments))
    parser.description = f"{parser.description} Defaults below are those of the preset {preset}."
    parser.set_defaults({"preset": preset, "recipe": recipe})
    namespace = parse(parser, [argument for argument in arguments if argument != "--print_config"])
    config = _config(namespace)
    if "--print_config" in arguments:
        from tombola.cell import resolve

        resolve(config)
        known = {"preset", "recipe", *(f.name for f in fields(RunConfig))}
        print(yaml.safe_dump({k: _plain(v) for k, v in vars(namespace).items() if k in known}, sort_keys=False), end="")
        raise SystemExit(0)
    return namespace, config


def configure_many(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, RunConfig, list[float]]:
    """Do the same for a command that takes lists of finders and densities; the configuration has the first density."""
    if any(argument.partition("=")[0] == "--finder" for argument in arguments):
        raise UsageError("--finder is not an option of compare, which takes a list: --finders cts,snip,random")
    rest, densities = _take_densities(arguments)
    first = ["--density", repr(densities[0])] if densities else []
    namespace, config = configure(parser, [*rest, *first])
    return namespace, config, densities or [config.density]


def _take_densities(arguments: Sequence[str]) -> tuple[list[str], list[float]]:
    """Take --density or --sparsity, a list such as 0.05,0.02, out of the arguments."""
    read = {"--density": parse_density, "--sparsity": parse_sparsity}
    rest, taken = _take(arguments, read)
    found = dict(taken)
    if len(found) > 1:
        raise UsageError("--density and --sparsity exclude each other: give one of them")
    densities = [read[name](part) for name, text in found.items() for part in (text or "").strip("[]").split(",")]
    if len(set(densities)) < len(densities):
        raise UsageError(f"{next(iter(found))} must be a list without repetitions, got {next(iter(found.values()))}")
    return rest, densities


def _take(arguments: Sequence[str], names: Container[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Take options out of the arguments; return the rest, and the options with their values, None where missing."""
    rest: list[str] = []
    taken: list[tuple[str, str | None]] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name in names:
            taken.append((name, value if equals else next(waiting, None)))
        else:
            rest.append(argument)
    return rest, taken


def configure_for_ticket(
    make: Callable[[], ArgumentParser], arguments: Sequence[str], groups: Sequence[str]
) -> tuple[Namespace, RunConfig, Path, Path]:
    """Do the same for a command about a TICKET, whose run, if it lies in one, gives the defaults.

    make: returns the command's parser. groups: the options that the command has. Returns also the run directory and
    the ticket file. Raises UsageError for a ticket in no run directory where nothing names its model and data.
    """
    arguments = _tidied(without_sparsity(arguments))
    preset, recipe = _start(arguments)
    scout = make()
    scout.description = f"{scout.description} Defaults below are the preset's; a run directory's take their place."
    _add_options(scout, load_preset(preset, recipe), groups)
    directory, ticket = run_and_ticket(parse(scout, arguments).ticket)
    given = {argument.partition("=")[0] for argument in arguments}
    # Nothing is drawn: whatever a preset says of that must not stand in the way.
    values = {**load_preset(preset, recipe), "draw_at": "init", "rewind_to": 0}
    if "--preset" not in given:
        if is_run(directory):
            values = read_config(directory).to_dict()
        elif not {"--model", "--data"} <= given:
            raise UsageError(f"{ticket} lies in no run directory: say --preset, or --model and --data")
    parser = make()
    _add_options(parser, values, groups)
    namespace = parse(parser, arguments)
    config = replace(_config(namespace, values), weights=None)
    if config.draw_at != "init" and config.rewind_to >= config.epochs:
        raise UsageError(f"--epochs must lie above {config.rewind_to}, the run's rewind point, got {config.epochs}")
    return namespace, config, directory, ticket


def read_config(directory: Path) -> RunConfig:
    """Return the configuration of a run directory; raises UsageError where there is none that can be read."""
    path = directory / "config.yaml"
    values = read_yaml(path, str(path))
    try:
        config = from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if not {"data", "model"} <= set(values):
        raise UsageError(f"{path} is not the configuration of a run: it must name data and model")
    check_digest(path)
    return config


def _add_options(parser: ArgumentParser, values: Mapping[str, Any], groups: Sequence[str] = ()) -> None:
    """Add an option for every field of RunConfig in some groups (all without any), with `values` as defaults."""
    if not groups:
        parser.add_argument("--config", action=ActionConfigFile, help="YAML file with values for any of these options")
        # jsonargparse's own checks nothing and lists flags that nobody needs; `configure` sees to it.
        parser.add_argument("--print_config", action="store_true", help="print the configuration and exit")
    parser.add_argument("--preset", type=str, default="digits", help=f"where to start: {', '.join(preset_names())}")
    parser.add_argument(
        "--recipe", type=str, default=STANDARD, help=f"how the preset trains: {', '.join(recipe_names())}"
    )
    headings: dict[str, Any] = {}
    for f in fields(RunConfig):
        title = f.metadata["group"]
        if groups and (title not in groups or f.name == "weights"):
            continue  # commands about a ticket have a --weights of their own
        if title not in headings:
            headings[title] = parser.add_argument_group(title)
        default = values.get(f.name, f.default)
        if isinstance(default, list):
            default = tuple(default)
        kind: Any = float | str if f.name == "density" else f.type
        unset = default is None or default == ()
        shown = f.metadata["unset"] if unset else ",".join(map(str, default)) if isinstance(default, tuple) else default
        headings[title].add_argument(
            f"--{f.name.replace('_', '-')}",
            type=kind,
            default=default,
            metavar=_METAVARS[f.type],
            help=f"{f.metadata['help']} (default: {str(shown).lower() if shown in (True, False) else shown})",
        )


def _tidied(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with configuration files first, so that options win, and lists in a form that YAML reads.

    A list may be given with brackets or without: [fc.*,head.*], *.weight or 40,80.
    """
    lists = {f"--{f.name.replace('_', '-')}": f.type for f in fields(RunConfig) if get_origin(f.type) is tuple}
    rest, taken = _take(arguments, {"--config", *lists})
    files = [part for name, value in taken if name == "--config" for part in (name, value) if part is not None]
    for name, value in taken:
        if name in lists:
            rest.append(name if value is None else f"{name}={_list(value, lists[name] == tuple[str, ...])}")
    # A --config without its file must stay the last word, for the parser to complain.
    return [*rest, *files] if ("--config", None) in taken else [*files, *rest]


def _list(text: str, quoted: bool) -> str:
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    parts = [part.strip().strip("'\"") for part in inner.split(",")]
    return f"[{','.join(json.dumps(part) if quoted else part for part in parts if part)}]"


def without_sparsity(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with --sparsity written as the --density that it means.

    Raises UsageError where both are given.
    """
    rest, taken = _take(arguments, {"--sparsity"})
    if taken and any(other.partition("=")[0] == "--density" for other in rest):
        raise UsageError("--density and --sparsity exclude each other: give one of them")
    densities = [part for _, value in taken for part in ("--density", repr(parse_sparsity(value or "")))]
    return [*densities, *rest]


def _start(arguments: Sequence[str]) -> tuple[str, str]:
    """Return the preset and the recipe that the arguments, or a configuration file among them, name."""
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scout.add_argument("--preset")
    scout.add_argument("--recipe")
    scout.add_argument("--config", action="append", default=[])
    try:
        known, _ = scout.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    named = {"preset": "digits", "recipe": STANDARD}
    for path in known.config:
        content = _read_yaml(Path(path))
        for key in named:
            asked = getattr(known, key)
            if asked and key in content and content[key] != asked:
                raise UsageError(f"--{key} {asked} and --config {path} ({key} {content[key]}) exclude each other")
            named[key] = content.get(key, named[key])
    return known.preset or named["preset"], known.recipe or named["recipe"]


def _of_finder(values: Mapping[str, Any], arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return a preset's values without its finder's own options where --finder or --finders name others alone."""
    _, taken = _take(arguments, {"--finder", "--finders"})
    named = {label.partition(":")[0] for _, labels in taken for label in split_list(labels or "")}
    if not named or values.get("finder", RunConfig.finder) in named:
        return values
    return {name: value for name, value in values.items() if name not in FINDER_OPTIONS}


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"--config: there is no file {path}")
    content = read_yaml(path, f"--config {path}")
    check_digest(path)
    return content


def _config(namespace: Namespace, base: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration that was parsed; fields that are no options of the command come from `base`."""
    parsed = {f.name: getattr(namespace, f.name) for f in fields(RunConfig) if hasattr(namespace, f.name)}
    values = RunConfig().to_dict() | dict(base or {}) | parsed
    return from_values({**values, "density": parse_density(values["density"])})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
