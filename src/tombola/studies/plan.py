"""Which cells a study has: every finder, at every density, for every seed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tombola.core.selection import Density
from tombola.errors import UsageError
from tombola.finders import FINDERS, needs_of
from tombola.runs.cell import resolve
from tombola.runs.config import RunConfig, lay_over, short_forms, start


@dataclass(frozen=True)
class StudyCell:
    """One cell of a study. label: the finder as it was asked for, with the options that set it apart."""

    label: str
    config: RunConfig

    @property
    def density(self) -> float:
        """The fraction of the weights kept; a study has one for all layers."""
        assert isinstance(self.config.density, float)
        return self.config.density

    @property
    def seed(self) -> int:
        """The seed."""
        return self.config.seed


def plan(
    layers: Sequence[Mapping[str, Any]], finders: Sequence[str], densities: Sequence[Density], seeds: int
) -> list[StudyCell]:
    """Return the cells of a study, seeds outermost, so that a study stopped early has whole rows.

    layers: values that all cells have in common, the later over the earlier; their seed is the first of `seeds`. What
    belongs to some finders goes to those that have it. finders: as they are written, such as "cts:objective=loss".
    Raises UsageError for anything that cannot be run.
    """
    if seeds < 1:
        raise UsageError(f"must be at least 1, got {seeds}", option="seeds")
    if not finders or len(set(finders)) < len(finders):
        given = ",".join(finders) or "none"
        raise UsageError(f"must be a list without repetitions such as cts,snip,ltr, got {given}", option="finders")
    if any(isinstance(density, Mapping) for density in densities):
        raise UsageError("takes no patterns where densities are compared", option="density")
    _check_shared(layers[-1], finders)
    variants = {label: _variant(layers, label) for label in finders}
    cells = [
        StudyCell(label, replace(variant, density=density, seed=variant.seed + number))
        for number in range(seeds)
        for density in densities
        for label, variant in variants.items()
    ]
    for cell in cells:
        with _of(cell.label):
            resolve(cell.config)
    return cells


@contextmanager
def _of(label: str) -> Iterator[None]:
    """Say of which finder it is that cannot be run."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{error.message} (finder {label})", option=error.option) from None


def _variant(layers: Sequence[Mapping[str, Any]], label: str) -> RunConfig:
    """Return the configuration of a finder as labelled, of the shared options those that it has."""
    try:
        inline = FINDERS.parse(label)
    except UsageError as error:
        raise UsageError(error.message, option="finders") from None
    spec = start()
    for layer in layers:
        values = dict(layer)
        # A preset's settings of its own finder are for no other.
        own = FINDERS.parse(values.pop("finder", "cts"))
        if layer is layers[0] and own.part != inline.part:
            values = {key: value for key, value in values.items() if not _of_finder(key)}
        named = own if own.part == inline.part else replace(inline, given={})
        spec = lay_over(spec, {**values, "finder": named}, loose=True)
    spec = lay_over(spec, {"finder": inline})
    with _of(label):
        config: RunConfig = spec.build()
    needs = needs_of(config.finder)
    places = [place for place in needs.at if place != "given"]
    if config.draw_at not in needs.at and len(places) == 1:
        config = replace(config, draw_at=places[0])  # that is what sets imp apart from ltr
    return config


def _of_finder(name: str) -> bool:
    """Whether a key is a short form of finders' options, and of nothing else."""
    form = short_forms().get(name.replace("-", "_"))
    return name == "search" or (form is not None and all(owner for owner, _, _ in form.owners))


def _check_shared(layer: Mapping[str, Any], finders: Sequence[str]) -> None:
    """Raise UsageError for a shared option that none of the finders has."""
    for name in filter(_of_finder, layer):
        if name != "search" and not any(FINDERS.parse(label).find(name.replace("-", "_")) for label in finders):
            raise UsageError(f"is not an option of any of {', '.join(finders)}", option=name)
