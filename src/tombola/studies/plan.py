"""Which cells a study has: every finder, at every density, for every seed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from tombola.cell import resolve
from tombola.config import FINDER_OPTIONS, RunConfig, from_values
from tombola.errors import UsageError
from tombola.finders import FINDERS


@dataclass(frozen=True)
class Member:
    """One cell of a study. label: the finder as it was asked for, with the options that set it apart."""

    label: str
    config: RunConfig


def plan(config: RunConfig, finders: Sequence[str], densities: Sequence[float], seeds: int) -> list[Member]:
    """Return the cells of a study, seeds outermost, so that a study stopped early has whole rows.

    config: what all cells have in common; its seed is the first of `seeds`. finders: names, with options of their own
    behind colons, such as "cts:objective=loss". An option in `config` that not all finders have goes to those that do.
    Raises UsageError for anything that cannot be run.
    """
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {seeds}")
    if not finders or len(set(finders)) < len(finders):
        given = ",".join(finders) or "none"
        raise UsageError(f"--finders must be a list without repetitions such as cts,snip,ltr, got {given}")
    variants = {label: _variant(config, label) for label in finders}
    for option, own in FINDER_OPTIONS.items():
        owners = [label for label, variant in variants.items() if own in _fields(variant.finder)]
        if _is_given(getattr(config, option)) and not owners:
            raise UsageError(f"--{option.replace('_', '-')} is not an option of any of {', '.join(finders)}")
    members = [
        Member(label, replace(variant, density=density, seed=config.seed + number))
        for number in range(seeds)
        for density in densities
        for label, variant in variants.items()
    ]
    for member in members:
        try:
            resolve(member.config)
        except UsageError as error:
            raise UsageError(f"{error} (finder {member.label})") from None
    return members


def _variant(config: RunConfig, label: str) -> RunConfig:
    """Return the configuration of a finder as labelled, without the options that other finders have."""
    name, *settings = label.split(":")
    if name not in FINDERS:
        raise UsageError(f"--finders: {name!r} is unknown; allowed are {', '.join(FINDERS)}")
    owned = _fields(name)
    values: dict[str, Any] = {
        option: () if option == "features" else None for option, own in FINDER_OPTIONS.items() if own not in owned
    }
    if name == "imp":
        values["draw_at"] = "init"  # that is what sets it apart from ltr
    for setting in settings:
        key, equals, value = setting.partition("=")
        option = key.replace("-", "_")
        if FINDER_OPTIONS.get(option) not in owned:
            known = ", ".join(known.replace("_", "-") for known, own in FINDER_OPTIONS.items() if own in owned)
            raise UsageError(f"--finders: {setting!r} is not an option of {name}; allowed are {known or 'none'}")
        if not equals or not value:
            raise UsageError(f"--finders: {key} of {label} needs a value, such as {name}:{key}=...")
        try:
            values[option] = yaml.safe_load(value)
            from_values({option: values[option]})
        except (yaml.YAMLError, UsageError):
            raise UsageError(f"--finders: {key} of {label} cannot be {value!r}") from None
    return from_values({**vars(config), **values, "finder": name})


def _fields(name: str) -> set[str]:
    return {f.name for f in fields(FINDERS[name])}


def _is_given(value: object) -> bool:
    return value is not None and value != ()
