"""Which cells a study has: every finder, at every density, for every seed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

from tombola.core.selection import Density
from tombola.errors import UsageError
from tombola.finders import FINDERS, needs_of
from tombola.runs.cell import resolve
from tombola.runs.config import RunConfig, lay_over, preset_named, short_forms, start
from tombola.runs.config.layers import VARIANT, variants_of
from tombola.studies.dense import recipe_of


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

    @property
    def recipe(self) -> str:
        """What its dense network depends on beside the seed."""
        return recipe_of(self.config.to_dict())


@dataclass(frozen=True)
class Asked:
    """A finder as a study asks for it.

    finder: as it is written, such as "cts:objective=loss", or as keys and values. label: what the study calls it.
    values: options that hold for it alone, over the shared ones. densities: its own, in place of the study's.
    """

    finder: str | Mapping[str, Any]
    label: str
    values: Mapping[str, Any] = field(default_factory=dict)
    densities: tuple[float, ...] = ()


def plan(
    layers: Sequence[Mapping[str, Any]], finders: Sequence[str], densities: Sequence[Density], seeds: int
) -> list[StudyCell]:
    """Return the cells of a study, seeds outermost, so that a study stopped early has whole rows.

    layers: values that all cells have in common, the later over the earlier; their seed is the first of `seeds`. What
    belongs to some finders goes to those that have it. finders: as they are written, such as "cts:objective=loss".
    Raises UsageError for anything that cannot be run.
    """
    if not isinstance(seeds, Integral):
        raise UsageError(f"must be how many, a whole number, got {seeds!r}", option="seeds")
    if seeds < 1:
        raise UsageError(f"must be at least 1, got {seeds}", option="seeds")
    if any(isinstance(density, Mapping) for density in densities):
        raise UsageError("takes no patterns where densities are compared", option="density")
    return expand(layers, [Asked(label, label) for label in finders], densities, range(seeds))


def expand(
    layers: Sequence[Mapping[str, Any]], finders: Sequence[Asked], densities: Sequence[Density], seeds: Sequence[int]
) -> list[StudyCell]:
    """Do the same for finders with values of their own; seeds: counted from that of the layers."""
    labels = [asked.label for asked in finders]
    if not finders or len(set(labels)) < len(labels):
        given = ",".join(labels) or "none"
        raise UsageError(f"must be a list without repetitions such as cts,snip,ltr, got {given}", option="finders")
    _check_shared(layers[-1], finders)
    variants = [(asked, _variant(layers, asked)) for asked in finders]
    for asked, variant in variants:
        _check_frozen(asked.label, variant)
    _check_named([layer[VARIANT] for layer in layers[1:] if VARIANT in layer], variants)
    everywhere = dict.fromkeys([*densities, *(density for asked in finders for density in asked.densities)])
    cells = [
        StudyCell(asked.label, replace(variant, density=density, seed=variant.seed + number))
        for number in seeds
        for density in everywhere
        for asked, variant in variants
        if density in (asked.densities or densities)
    ]
    # Densities are a layer of their own, unless they are the preset's.
    asked_for = {} if list(densities) == [layers[0].get("density")] else {"density": densities}
    for cell in cells[: len(cells) // len(seeds)]:  # whatever cannot be run, no seed makes it so
        with _of(cell.label), preset_named([*layers, asked_for]):
            resolve(cell.config)
    return cells


def _check_frozen(label: str, config: RunConfig) -> None:
    """Raise UsageError where a part of the user's own cannot be told from others, as cells of a study must be."""
    try:
        hash(config)
    except TypeError as error:
        what = f"finder {label}: all parts must be frozen (@dataclass(frozen=True)), and their options numbers, texts"
        raise UsageError(f"{what} and tuples of these in a study: {error}", option="finders") from None


@contextmanager
def _of(label: str) -> Iterator[None]:
    """Say of which finder it is that cannot be run."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{error.message} (finder {label})", option=error.option) from None


def _variant(layers: Sequence[Mapping[str, Any]], asked: Asked) -> RunConfig:
    """Return the configuration of a finder, of the shared options those that it has."""
    try:
        inline = FINDERS.parse(asked.finder)
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
    with _of(asked.label):
        spec = lay_over(spec, {**asked.values, "finder": inline})
        config: RunConfig = spec.build()
    needs = needs_of(config.finder)
    places = [place for place in needs.at if place != "given"]
    if config.draw_at not in needs.at and len(places) == 1:
        config = replace(config, draw_at=places[0])  # that is what sets imp apart from ltr
    return config


def _of_finder(name: str) -> bool:
    """Whether a key is a short form of finders' options, and of nothing else."""
    form = short_forms().get(name.replace("-", "_"))
    return name == VARIANT or (form is not None and all(owner for owner, _, _ in form.owners))


def _check_shared(layer: Mapping[str, Any], finders: Sequence[Asked]) -> None:
    """Raise UsageError for a shared option that none of the finders has."""
    for name in filter(_of_finder, layer):
        if name != VARIANT and not any(FINDERS.parse(each.finder).find(name.replace("-", "_")) for each in finders):
            raise UsageError(f"is not an option of any of {', '.join(each.label for each in finders)}", option=name)


def _check_named(names: Sequence[str], variants: Sequence[tuple[Asked, RunConfig]]) -> None:
    """Raise UsageError for settings by a name that none of the finders knows."""
    known = list(dict.fromkeys(name for _, config in variants for name in variants_of(config.finder)))
    for name in names:
        if name not in known:
            labels = ", ".join(asked.label for asked, _ in variants)
            raise UsageError(f"must be {', '.join(known)} for {labels}, got {name}", option=VARIANT)
