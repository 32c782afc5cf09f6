"""The cells of a directory of runs that no study.json describes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tombola.core.measure import measure_in
from tombola.errors import TombolaError
from tombola.storage.files import read_json_object, read_yaml
from tombola.studies.manifest import CellEntry

# What sets cells of one finder apart, or the machine, and not the finder.
_OF_CELLS = ("density", "seed", "threads", "device", "precision", "search_precision", "layout", "tracker")


def discovered(out: Path) -> tuple[CellEntry, ...]:
    """Return the finished runs below a directory as cells of a comparison.

    A finder goes by its name, and, where runs of that name were configured differently, by the options in question.
    """
    found = [(path.name, config) for path in sorted(out.iterdir()) if (config := _configuration(path))]
    options = {run: _flat(config) for run, config in found}
    cells = [
        CellEntry(_label(run, config, found, options), config["density"], config["seed"], run) for run, config in found
    ]
    return tuple(sorted(cells, key=lambda cell: (cell.seed, -cell.density)))


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
    fits = isinstance(config.get("density"), float) and isinstance(config.get("seed"), int) and _name(config)
    return config if whole and fits else None


def _name(config: Mapping[str, Any]) -> str:
    finder = config.get("finder")
    return str(finder.get("name", "")) if isinstance(finder, Mapping) else str(finder or "")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if not prefix and key in _OF_CELLS:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


def _label(
    run: str, config: Mapping[str, Any], found: list[tuple[str, dict[str, Any]]], options: Mapping[str, dict[str, str]]
) -> str:
    name = _name(config)
    alike = [options[other] for other, theirs in found if _name(theirs) == name]
    differing = sorted({key for each in alike for key, value in each.items() if value != options[run].get(key)})
    settings = [f"{key.removeprefix('finder.').removeprefix('training.')}={options[run].get(key)}" for key in differing]
    return ":".join([name, *settings])
