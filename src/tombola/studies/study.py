"""A study: cells, and what their workers are given; read from a small file, or made from a comparison's flags."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tombola.core.parts import identify, plain
from tombola.core.selection import Density
from tombola.core.written import from_text
from tombola.errors import OF_ONE_CELL, TombolaError, UsageError, did_you_mean
from tombola.runs.config import STANDARD, RunConfig, density_list, from_dict, load_preset
from tombola.storage.files import read_json_object, read_yaml
from tombola.storage.identity import digest
from tombola.studies.graph import Basis, Graph, basis_of, data_key, graph_of
from tombola.studies.ledger import Ledger, begin
from tombola.studies.planning import Asked, StudyCell, expand
from tombola.studies.shipped import path_of, study_names

# Keys of a study's file beside the options of runs.
_OWN = ("about", "preset", "recipe", "finders", "densities", "seeds", "dynamics", "resources")
# What no result is named by, and results depend on.
_MACHINE = ("device", "precision", "search_precision", "layout", "execution")
_SIZE = re.compile(r"\s*([0-9.]+)\s*(?:(k|M|G|T)B?|B)\s*", re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Resources:
    """What a task is given where an engine can tell: CPUs, which are its threads; GPUs or a part of one; bytes."""

    cpus: int = 1
    gpus: float = 0.0
    memory: int | None = None


@dataclass(frozen=True)
class StudyPlan:
    """Cells to be compared; dynamics: whether it is measured how trainings follow the dense network's."""

    name: str
    cells: tuple[StudyCell, ...]
    dynamics: bool = False
    resources: Resources = field(default_factory=Resources)

    @property
    def title(self) -> str:
        """The network and the data, in words."""
        return self.cells[0].config.title

    def on_threads(self, threads: int) -> "StudyPlan":
        """Return the same with the threads of cells that do not say theirs written out."""
        cells = (
            cell if cell.config.threads else replace(cell, config=replace(cell.config, threads=threads))
            for cell in self.cells
        )
        return replace(self, cells=tuple(cells))

    def graph(self, out: Path) -> Graph:
        """Return its tasks below `out`, without writing anything; reads the data."""
        return graph_of(self.cells, basis_of(self.cells), out, self.dynamics, self.name)

    def _settled(self, out: Path) -> "StudyPlan":
        """Return the same under the name that is its own below `out`.

        That is its name, followed by a number where the study of that name there has cells that this one has not.
        """
        ledger, own = Ledger(out), set(self._keys())
        there = {name: _keys_there(ledger.plan_file(name)) for name in ledger.plans()}
        names = [self.name, *(f"{self.name}-{number}" for number in range(2, len(there) + 3))]
        same = (name for name in names if there.get(name) == own)
        fitting = (name for name in names if there.get(name, own) <= own)
        return replace(self, name=next(same, None) or next(fitting))

    def _keys(self) -> list[str]:
        """Return of each cell what tells it from others of its study."""
        return [_key(cell) for cell in self.cells]

    def begin(self, out: Path) -> Graph:
        """Write it down below `out`, where workers find it, and return its tasks, under the name that is its own."""
        basis = basis_of(self.cells)
        name = begin(Ledger(out), lambda: self._settled(out)._plain(basis))
        return graph_of(self.cells, basis, out, self.dynamics, name)

    def recall(self, out: Path) -> str:
        """Write down below `out` that this is the study at hand, where all its cells are finished; return its name.

        Data are read only where no other study below `out` tells what is known of them.
        """
        ledger, known = Ledger(out), dict[str, str]()
        for name in ["", *ledger.plans()]:
            with suppress(FileNotFoundError, TombolaError, KeyError, TypeError):  # one that is damaged tells nothing
                known |= read_json_object(ledger.plan_file(name))["basis"]
        configs = [cell.config for cell in self.cells]
        wanted = {data_key(config) for config in configs} | {config.weights for config in configs if config.weights}
        whole = wanted <= known.keys()
        basis = {key: known[key] for key in sorted(wanted)} if whole else basis_of(self.cells)
        return begin(ledger, lambda: self._settled(out)._plain(basis))

    def _plain(self, basis: Basis) -> dict[str, Any]:
        return {
            "name": self.name,
            "cells": [
                {"label": cell.label, "key": key, "config": cell.config.to_dict()}
                for cell, key in zip(self.cells, self._keys(), strict=True)
            ],
            "dynamics": self.dynamics,
            "resources": asdict(self.resources),
            "basis": dict(basis),
        }


def _key(cell: StudyCell) -> str:
    config = cell.config
    # Those at their default are left out, so that older studies keep their names.
    machine = {key: getattr(config, key) for key in _MACHINE if getattr(config, key) != getattr(RunConfig, key)}
    told = [cell.label, identify(config), plain(config.data), config.weights, config.fit]
    return digest([*told, machine] if machine else told)


def _keys_there(path: Path) -> set[str]:
    """Return the keys of the cells of a study that was written down; of one that cannot be read, one that is no key."""
    try:
        return {str(cell["key"]) for cell in read_json_object(path)["cells"]}
    except (FileNotFoundError, TombolaError, KeyError, TypeError):
        return {""}


def study_below(out: Path, name: str = "") -> tuple[StudyPlan, Graph]:
    """Return a study below `out`, without a name the one last begun, and its tasks.

    Raises UsageError where there is none.
    """
    ledger = Ledger(out)
    path = ledger.plan_file(name)
    if name and name not in ledger.plans():
        raise UsageError(f"must be one of {', '.join(ledger.plans()) or 'none'}, got {name}", option="study")
    try:
        found = read_json_object(path)
        cells = tuple(StudyCell(each["label"], from_dict(each["config"])) for each in found["cells"])
        resources = Resources(**found["resources"])
        study = StudyPlan(found["name"], cells, found["dynamics"], resources)
        return study, graph_of(cells, found["basis"], out, study.dynamics, study.name)
    except FileNotFoundError:
        raise UsageError(f"{out} holds no study; `tombola study` and `tombola compare` begin one") from None
    except (TombolaError, KeyError, TypeError) as error:
        if isinstance(error.__cause__, ImportError):
            raise  # the study is as it was, and a module of the user's own is gone
        raise UsageError(f"{path} is damaged ({error}); begin the study again") from None


def read_study(given: str) -> StudyPlan:
    """Return the study of a YAML file, or one that comes with the package, by its name.

    Raises UsageError for what cannot be run.
    """
    path = Path(given)
    if given in study_names():
        path = path_of(given)
    elif not path.is_file():
        hint = did_you_mean(given, study_names())
        raise UsageError(f"there is no study {given}: give a YAML file, or one of {', '.join(study_names())}{hint}")
    values = read_yaml(path, f"study {path}")
    try:
        return _study(path.stem, values)
    except UsageError as error:
        raise UsageError(f"study {path}: {error.worded(error.option)}") from None


def _study(name: str, values: Mapping[str, Any]) -> StudyPlan:
    missing = [key for key in ("finders", "densities") if not values.get(key)]
    if missing:
        raise UsageError("must be given", option=missing[0])
    for one, listed in (("density", "densities"), ("finder", "finders")):
        if one in values:
            raise UsageError(f"is called {listed} in a study, a list", option=one)
    if "preset" not in values and not {"model", "data"} <= values.keys():
        raise UsageError("must be given, or model and data", option="preset")
    for key in [key for key in ("preset", "recipe") if not isinstance(values.get(key, ""), str)]:
        raise UsageError(f"must be a name, got {values[key]!r}", option=key)
    preset = load_preset(values["preset"], values.get("recipe", STANDARD)) if "preset" in values else {}
    for key in sorted({"devices", "num_nodes"} & values.keys()):
        raise UsageError(f"{OF_ONE_CELL}, to which resources says what each needs", option=key)
    options = {key: value for key, value in values.items() if key not in _OWN}
    finders = _listed(values["finders"], "finders")
    layers = [{k: v for k, v in layer.items() if k != "density"} for layer in (preset, options)]
    first, seeds = _seeds(values.get("seeds", 1), options)
    layers[-1]["seed"] = first
    cells = expand(layers, [_asked(each) for each in finders], _densities(values["densities"]), seeds)
    dynamics = values.get("dynamics", False)
    if not isinstance(dynamics, bool):
        raise UsageError(f"must be true or false, got {dynamics!r}", option="dynamics")
    return StudyPlan(name, tuple(cells), dynamics, _resources(values.get("resources") or {}))


def _listed(value: Any, option: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(f"must be a list, got {value!r}", option=option)
    return value


def _densities(value: Any) -> tuple[float, ...]:
    listed = value if isinstance(value, list) else [value]
    found: list[Density] = [density for each in listed for density in density_list(each)]
    plain = [density for density in found if isinstance(density, float)]
    if len(plain) < len(found) or len(set(plain)) < len(plain):
        raise UsageError(f"must be densities without patterns and repetitions, got {value}", option="densities")
    return tuple(plain)


def _seeds(value: Any, options: Mapping[str, Any]) -> tuple[int, Sequence[int]]:
    """Return the first seed, and what is added to it; value: how many, or which."""
    first = options.get("seed", 0)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return first, range(value)
    numbers = isinstance(value, list) and all(isinstance(each, int) and each >= 0 for each in value)
    if not numbers or not value or len(set(value)) < len(value):
        raise UsageError(
            f"must be how many, or a list without repetitions such as [0, 1, 2], got {value}", option="seeds"
        )
    if "seed" in options:
        raise UsageError("must be left out where seeds says which ones", option="seed")
    return 0, value


def _asked(entry: Any) -> Asked:
    """Return a finder of the list: as it is written, or with exceptions beside it."""
    if isinstance(entry, str):
        return Asked(entry, entry)
    if not isinstance(entry, Mapping) or not entry.get("finder"):
        raise UsageError(
            f"must be texts such as cts:steps=500, or keys and values with finder, got {entry!r}", option="finders"
        )
    values = dict(entry)
    finder, label = values.pop("finder"), values.pop("label", None)
    densities = _densities(values.pop("densities")) if "densities" in values else ()
    if "density" in values:
        raise UsageError("is called densities where it is a finder's own", option="density")
    return Asked(finder, str(label or _label(finder)), values, densities)


def _label(finder: Any) -> str:
    """Return a finder given by keys and values as it could have been written."""
    if not isinstance(finder, Mapping):
        return str(finder)
    settings = (f"{key}={_label(value)}" for key, value in finder.items() if key != "name")
    return ":".join([str(finder.get("name")), *settings])


def _resources(values: Any) -> Resources:
    known = {f.name for f in fields(Resources)}
    if not isinstance(values, Mapping) or not set(values) <= known:
        raise UsageError(f"must have keys of {', '.join(sorted(known))}, got {values}", option="resources")
    cpus, gpus = values.get("cpus", 1), values.get("gpus", 0.0)
    if type(cpus) is not int or cpus < 1 or type(gpus) not in {int, float} or not 0 <= gpus < math.inf:
        raise UsageError(f"must be at least one CPU and no negative number of GPUs, got {values}", option="resources")
    return Resources(cpus, float(gpus), memory_bytes(values["memory"]) if "memory" in values else None)


def memory_bytes(text: Any) -> int:
    """Return the bytes that a text such as 8 GB means; raises UsageError for one without a unit, or of no bytes."""
    found = _SIZE.fullmatch(str(text))
    try:
        size = int(from_text(found[1], float) * _FACTORS[(found[2] or "").lower()]) if found else 0
    except (ValueError, OverflowError):
        size = 0
    if not size:
        raise UsageError(f"must be a size with its unit, such as 8 GB or 500 MB, got {text}", option="memory")
    return size
