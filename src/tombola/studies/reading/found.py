"""The cells of a directory of runs that no study.json describes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tombola.core.measure import measure_in
from tombola.errors import TombolaError
from tombola.storage.files import read_json_object, read_yaml
from tombola.studies.manifest import CellEntry

# What sets cells of one finder apart, and not the finder.
_OF_CELLS = ("density", "seed", "tracker")
# What the machine may have chosen: it is part of a label only where runs differ in nothing else.
_OF_MACHINE = ("threads", "device", "precision", "search_precision", "layout")
# The densities of patterns of layers, under a name of their own beside the fraction of all weights that they made.
_BY_LAYER = "density-by-layer"
# What identity.json says nothing of: where data and weights lie, code of one's own.
_UNNAMED = ("data", "weights", "fit", _BY_LAYER, *_OF_MACHINE)

# An option's place in a configuration, as the names of fields: (finder, controller, momentum).
_Place = tuple[str, ...]


def discovered(out: Path) -> tuple[CellEntry, ...]:
    """Return the finished runs below a directory as cells of a comparison.

    A finder goes by its name, and, where runs of that name were configured differently, by the options in question, as
    commands take them: those that are not as by default. Runs that nothing tells apart go by their directories: no seed
    counts twice.
    """
    found = {path.name: config for path in sorted(out.iterdir()) if (config := _configuration(path))}
    labels = _labels(out, found, (*_OF_CELLS, *_OF_MACHINE))
    twice = _ambiguous(labels, found)
    labels |= {run: label for run, label in _labels(out, found, _OF_CELLS).items() if labels[run] in twice}
    twice = _ambiguous(labels, found)
    labels |= {run: f"{label} in {run}" for run, label in labels.items() if label in twice}
    made: dict[str, float] = {}  # by one asking for densities by layer, which groups may miss by other weights a seed
    for run, config in found.items():
        if _BY_LAYER in config:
            config["density"] = made.setdefault(labels[run], config["density"])
    cells = [CellEntry(labels[run], config["density"], config["seed"], run) for run, config in found.items()]
    return tuple(sorted(cells, key=lambda cell: (cell.seed, -cell.density)))


def _ambiguous(labels: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the labels that several runs of one density and seed have."""
    asked = {run: config.get(_BY_LAYER, config["density"]) for run, config in found.items()}
    places = Counter((labels[run], asked[run], config["seed"]) for run, config in found.items())
    return {label for (label, _, _), count in places.items() if count > 1}


def _configuration(path: Path) -> dict[str, Any] | None:
    """Return the configuration of a finished run, None of anything else."""
    if path.name.startswith(".") or path.is_symlink() or not (path / "result.json").is_file():
        return None
    try:
        config = read_yaml(path / "config.yaml", path.name)
        values = read_json_object(path / "result.json")
        whole = measure_in(values).dense_test in values  # not a training or an audit alone
    except (TombolaError, OSError):
        return None
    if isinstance(layers := config.get("density"), Mapping):
        config |= {_BY_LAYER: _by_layer(layers), "density": values.get("density")}
    fits = isinstance(config.get("density"), float) and isinstance(config.get("seed"), int) and _name(config)
    return config if whole and fits else None


def _by_layer(densities: Mapping[str, Any]) -> str:
    """Return densities by patterns of layers' names as --density takes them."""
    return f"'{'; '.join(f'{pattern}={density:.15g}' for pattern, density in densities.items())}'"


def _name(config: Mapping[str, Any]) -> str:
    finder = config.get("finder")
    return str(finder.get("name", "")) if isinstance(finder, Mapping) else str(finder or "")


def _flat(values: Mapping[str, Any], without: Sequence[str] = (), place: _Place = ()) -> dict[_Place, Any]:
    """Return options by their places; that of a part itself has its name. without: options of the run to leave out."""
    found: dict[_Place, Any] = {}
    for key, value in values.items():
        if key in ("name", "version", "code") or (not place and key in without):
            continue
        inner = (*place, key)
        if isinstance(value, Mapping):
            found[inner] = value.get("name")
            found |= _flat(value, (), inner)
        else:
            found[inner] = value
    return found


def _labels(out: Path, found: Mapping[str, Mapping[str, Any]], without: Sequence[str]) -> dict[str, str]:
    options = {run: _flat(config, without) for run, config in found.items()}
    differing: dict[str, dict[_Place, Any]] = {}
    for run, own in options.items():
        alike = [options[other] for other, config in found.items() if _name(config) == _name(found[run])]
        places = dict.fromkeys(place for each in (own, *alike) for place in each)
        differing[run] = {p: own.get(p) for p in places if any(each.get(p) != own.get(p) for each in alike)}
    short = {run: _written(options[run], _chosen(out / run, differing[run])) for run in found}
    # What is by default now may not have been when another run was made.
    return {
        run: _written(options[run], differing[run])
        if any(short[other] == label and differing[other] != differing[run] for other in found)
        else label
        for run, label in short.items()
    }


def _chosen(directory: Path, differing: Mapping[_Place, Any]) -> dict[_Place, Any]:
    """Return of some options those that are not as by default, all where that is not known."""
    try:
        identity = read_json_object(directory / "identity.json").get("config")
    except (TombolaError, OSError):
        identity = None
    if not isinstance(identity, Mapping):
        return dict(differing)
    named = _flat(identity)
    return {
        place: value
        for place, value in differing.items()
        if (value is not None if place[0] in _UNNAMED else place in named)
    }


def _written(options: Mapping[_Place, Any], shown: Mapping[_Place, Any]) -> str:
    """Return a finder and options of its run as a command line has them: cts:steps=500 --epochs 30."""
    finder = {place[1:]: value for place, value in shown.items() if place[0] == "finder" and len(place) > 1}
    words = [":".join([str(options["finder",]), *_settings(_within(options, "finder"), finder)])]
    of_run = {place[place[0] == "training" :]: value for place, value in shown.items() if place[0] != "finder"}
    every = {place[place[0] == "training" :]: value for place, value in options.items()}
    for name in dict.fromkeys(place[0] for place in of_run if place):
        settings = _settings(_within(every, name), _within(of_run, name))
        option = "density" if name == _BY_LAYER else name.replace("_", "-")
        words.append(f"--{option} {':'.join([_text(every.get((name,))), *settings])}")
    return " ".join(words)


def _within(options: Mapping[_Place, Any], name: str) -> dict[_Place, Any]:
    return {place[1:]: value for place, value in options.items() if place[0:1] == (name,) and len(place) > 1}


def _settings(options: Mapping[_Place, Any], shown: Mapping[_Place, Any]) -> list[str]:
    """Return options of a part as settings; those of a part within it follow on its name, after all others."""
    parts = {place[0] for place in options if len(place) > 1}
    found = [_setting(place[0], value) for place, value in shown.items() if place[0] not in parts]
    for name in dict.fromkeys(place[0] for place in shown if place[0] in parts):
        found += [_setting(name, options.get((name,))), *_settings(_within(options, name), _within(shown, name))]
    return found


def _setting(name: str, value: Any) -> str:
    text = _text(value)
    return f"{name}=[{text}]" if ":" in text else f"{name}={text}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
