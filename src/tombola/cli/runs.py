"""The options that make a run's configuration, and where their defaults come from: a preset, or an earlier run."""

import argparse
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace

from tombola.cli.options import is_run, parse, run_and_ticket
from tombola.core.parts import flag_of, is_own, is_part, options_of, written_name
from tombola.core.selection import Density
from tombola.core.written import Spec, unbracketed
from tombola.errors import UsageError
from tombola.finders import FINDERS
from tombola.runs.config import (
    STANDARD,
    RunConfig,
    ShortForm,
    built,
    density_list,
    from_dict,
    lay_over,
    load_preset,
    parse_sparsity,
    path_of,
    preset_named,
    preset_names,
    recipe_names,
    short_forms,
    start,
)
from tombola.runs.config.layers import VARIANT
from tombola.storage.digests import check_digest
from tombola.storage.files import read_yaml

# Shows the configuration of one run.
PRINT = "print_config"
_METAVARS: dict[Any, str] = {int: "N", float: "X", bool: "true|false"}
# Layers of values, the later over the earlier.
Layers = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Asked:
    """What the command line asked for: what was parsed, and the layers of values that make the configuration."""

    options: Namespace
    layers: Layers

    @property
    def config(self) -> RunConfig:
        """The configuration."""
        return built(self.layers)


def configure(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, RunConfig]:
    """Add the options of a run to a command's own, parse, and return both what was parsed and the configuration.

    With --print-config, prints the configuration, if it is sound, and ends the program.
    """
    asked = ask(parser, arguments)
    with preset_named(asked.layers):
        config = asked.config
        config.check()
    if asked.options.print_config:
        from tombola.runs.cell import resolve

        resolve(config)
        head = {"preset": asked.options.preset, "recipe": asked.options.recipe}
        print(yaml.safe_dump({**head, **config.to_dict()}, sort_keys=False), end="")
        raise SystemExit(0)
    return asked.options, config


def configure_many(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, Layers, list[Density]]:
    """Do the same for a command that takes lists of finders and densities; return the layers that they share."""
    if any(argument.partition("=")[0] == "--finder" for argument in arguments):
        raise UsageError("is not an option of compare, which takes a list: --finders cts,snip,random", option="finder")
    rest, densities = _take_densities(arguments)
    asked = ask(parser, rest, hidden=("finder", PRINT))
    # The configuration itself need not exist: what belongs to some of the finders fits no single one.
    shared = [{key: value for key, value in layer.items() if key == "density"} for layer in asked.layers]
    return asked.options, asked.layers, densities or [built(shared).density]


def ask(
    parser: ArgumentParser, arguments: Sequence[str], groups: Sequence[str] = (), hidden: Container[str] = ()
) -> Asked:
    """Add the options of a run in some groups (all without any) to a command's own, and parse."""
    arguments = without_sparsity(arguments)
    named, files = _start(arguments)
    preset = load_preset(named["preset"], named["recipe"])
    _add_options(parser, [preset], groups, hidden)
    if {"-h", "--help"} & set(arguments):
        _add_own_options(parser, arguments)
    parser.description = f"{parser.description} Defaults below are those of the preset {named['preset']}."
    options = parse(parser, arguments)
    options.preset, options.recipe = named["preset"], named["recipe"]
    return Asked(options, [preset, *files, _given(options)])


def _given(options: Namespace) -> dict[str, Any]:
    """Return what the command line itself gave of a run's options."""
    known = {**short_forms(), VARIANT: None}
    return {name: value for name, value in vars(options).items() if name in known}


def _take_densities(arguments: Sequence[str]) -> tuple[list[str], list[Density]]:
    """Take --density or --sparsity, a list such as 0.05,0.02, out of the arguments."""
    read: dict[str, Callable[[str], list[Density]]] = {
        "--density": density_list,
        "--sparsity": lambda text: [parse_sparsity(text)],
    }
    rest, taken = _take(arguments, read)
    found = dict(taken)
    if len(found) > 1:
        raise UsageError("excludes --sparsity: give one of them", option="density")
    parts = [(name, part) for name, text in found.items() for part in _unbracketed(text or "").split(",")]
    densities = [density for name, part in parts for density in read[name](part)]
    if any(densities.count(density) > 1 for density in densities):
        name, text = next(iter(found.items()))
        raise UsageError(f"must be a list without repetitions, got {text}", option=name.removeprefix("--"))
    return rest, densities


def _unbracketed(text: str) -> str:
    """Return a list without its brackets, not those of 0.8**[2..22]; raises UsageError where some are open."""
    try:
        return unbracketed(text)
    except ValueError:
        raise UsageError(f"must close its brackets, got {text}", option="density") from None


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
    scout = make()
    scout.description = f"{scout.description} A run directory's values take the place of the preset's."
    asked = ask(scout, arguments, groups)
    options, (preset, *files, given) = asked.options, asked.layers
    directory, ticket = run_and_ticket(options.ticket)
    # Nothing is drawn: whatever a preset says of that must not stand in the way.
    base: Mapping[str, Any] = {**preset, "draw_at": "init", "rewind_to": 0}
    if _names(arguments, "--preset"):
        if is_run(directory) and (known := read_config(directory)).draw_at == "trained":
            # The ticket is trained from there, as only its run says.
            base = {**base, "draw_at": "trained", "rewind_to": known.rewind_to}
    else:
        if _names(arguments, "--recipe"):
            raise UsageError("is one of a preset's: say --preset too", option="recipe")
        if is_run(directory):
            base = read_config(directory).to_dict()
        elif not {"model", "data"} <= given.keys():
            raise UsageError(f"{ticket} lies in no run directory: say --preset, or --model and --data")
    config = replace(
        built([base, *files, {key: value for key, value in given.items() if key != "weights"}]), weights=None
    )
    if config.draw_at != "init" and config.rewind_to >= config.training.epochs:
        raise UsageError(
            f"must lie above {config.rewind_to}, the run's rewind point, got {config.training.epochs}", option="epochs"
        )
    return options, config, directory, ticket


def _names(arguments: Sequence[str], option: str) -> bool:
    return any(argument.partition("=")[0] == option for argument in arguments)


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


def _add_options(
    parser: ArgumentParser, layers: Sequence[Mapping[str, Any]], groups: Sequence[str], hidden: Container[str]
) -> None:
    """Add every option with a short form in some groups (all without any), the layers' values as defaults."""
    if not groups:
        parser.add_argument(
            "--config", type=str, action="append", help="YAML file with values for any of these options"
        )
        if PRINT not in hidden:
            parser.add_argument(
                "--print-config", "--print_config", action="store_true", help="print the configuration and exit"
            )
    parser.add_argument("--preset", type=str, default="digits", help=f"where to start: {', '.join(preset_names())}")
    parser.add_argument(
        "--recipe", type=str, default=STANDARD, help=f"how the preset trains: {', '.join(recipe_names())}"
    )
    spec = start()
    for layer in layers:
        spec = lay_over(spec, layer)
    headings: dict[str, Any] = {}
    for name, form in short_forms().items():
        title = form.field.metadata["group"]
        if name in hidden or (groups and (title not in groups or name == "weights")):
            continue  # commands about a ticket have a --weights of their own
        if title not in headings:
            headings[title] = parser.add_argument_group(title)
        path = path_of(spec, name)
        value = _value_at(spec, path) if path else None
        headings[title].add_argument(
            f"--{name.replace('_', '-')}",
            type=str,
            default=argparse.SUPPRESS,
            metavar=_metavar(form),
            help=f"{_help(form)} (default: {_shown(form, value)})",
        )
    if "search" in headings:
        headings["search"].add_argument(
            f"--{VARIANT}",
            type=str,
            default=argparse.SUPPRESS,
            metavar="TEXT",
            help="settings by one name: default, published (of cts: controller, schedule, rate, epsilon, batches, the "
            "dense network's statistics, as in the paper's code), or published-files (rate and schedule as in its "
            "result files) (default: default)",
        )


def _add_own_options(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Describe the settings of parts of the user's own that are named beside --help; they have no short forms."""
    families = {name: form.field.metadata["family"] for name, form in short_forms().items()}
    families = {f"--{name.replace('_', '-')}": family for name, family in families.items() if family is not None}
    for name, value in _take(arguments, families)[1]:
        part = families[name].read(value or "")
        if is_own(part):
            parser.add_argument_group(f"settings of {written_name(part)}, behind colons", _settings(part))


def _settings(part: Any) -> str:
    """Return a part's options in words, as they are written behind colons."""
    found = [
        f"{flag_of(f)}={_default_of(f)}{': ' if f.metadata.get('help') else ''}{f.metadata.get('help', '')}"
        for f in options_of(part)
    ]
    return "; ".join(found) or "none"


def _value_at(spec: Spec, path: tuple[str, ...]) -> Any:
    owner = spec.at(path[:-1])
    return owner.given.get(path[-1], getattr(owner.part, path[-1]))


def _metavar(form: ShortForm) -> str:
    kind = form.kind
    inner = [each for each in get_args(kind) if each is not type(None)] if get_origin(kind) is not tuple else []
    kind = inner[0] if len(inner) == 1 else kind
    if get_origin(kind) is tuple:
        return f"[{_METAVARS.get(get_args(kind)[0], 'TEXT')},...]"
    return _METAVARS.get(kind, "TEXT")


def _help(form: ShortForm) -> str:
    """Return what an option means, each meaning with the finders for which it has it."""
    owners: dict[str, list[str]] = {}
    for owner, f, _ in form.owners:
        owners.setdefault(f.metadata["help"], []).append(owner)
    everywhere = len({owner for owner, _, _ in form.owners}) == len(list(FINDERS))
    parts = [
        f"{text} [{', '.join(dict.fromkeys(names))}]" if any(names) and not everywhere else text
        for text, names in owners.items()
    ]
    return "; ".join(parts)


def _shown(form: ShortForm, value: Any) -> str:
    """Return an option's default in words."""
    if isinstance(value, Spec):  # given by a layer, and not built yet
        value = value.build()
    if is_part(value):
        return written_name(value)
    if value is None or value == () or value == form.field.default:
        return _defaults(form)
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _defaults(form: ShortForm) -> str:
    """Return the defaults of an option: where they differ, each with those whose it is, and last that of most."""
    found: dict[str, list[str]] = {}
    for owner, f, _ in form.owners:
        found.setdefault(_default_of(f), []).append(owner or _owner_of(form, f))
    usual = max(found, key=lambda default: len(found[default]))
    others = [f"{default} ({', '.join(owners)})" for default, owners in found.items() if default != usual]
    return "; ".join([*others, f"else {usual}"]) if others else usual


def _owner_of(form: ShortForm, f: Any) -> str:
    """Return the name of the part whose option a field is, of parts other than finders."""
    family = short_forms()[form.holder].field.metadata["family"] if form.holder in short_forms() else None
    return next((name for name, part in (family.known if family else {}).items() if f in options_of(part)), "")


def _default_of(f: Any) -> str:
    default = f.default
    if f.metadata.get("unset") or default is None or default == ():
        return str(f.metadata.get("unset") or "none")
    if isinstance(default, bool):
        return str(default).lower()
    return written_name(default) if is_part(default) else str(default)


def without_sparsity(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with --sparsity written as the --density that it means.

    Raises UsageError where both are given.
    """
    rest, taken = _take(arguments, {"--sparsity"})
    if taken and any(other.partition("=")[0] == "--density" for other in rest):
        raise UsageError("excludes --sparsity: give one of them", option="density")
    densities = [part for _, value in taken for part in ("--density", repr(parse_sparsity(value or "")))]
    return [*densities, *rest]


def _start(arguments: Sequence[str]) -> tuple[dict[str, str], Layers]:
    """Return the preset and the recipe that the arguments, or a configuration file among them, name; and the files."""
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scout.add_argument("--preset")
    scout.add_argument("--recipe")
    scout.add_argument("--config", action="append", default=[])
    try:
        known, _ = scout.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    named = {"preset": "digits", "recipe": STANDARD}
    files: Layers = []
    for path in known.config:
        content = _read_yaml(Path(path))
        for key in named:
            asked = getattr(known, key)
            if asked and key in content and content[key] != asked:
                raise UsageError(
                    f"excludes --config {path}, whose {key} is {content[key]}: give one of them", option=key
                )
            named[key] = content.pop(key, named[key])
        files.append(content)
    return {key: getattr(known, key) or named[key] for key in named}, files


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}", option="config")
    content = read_yaml(path, f"--config {path}")
    check_digest(path)
    return content
