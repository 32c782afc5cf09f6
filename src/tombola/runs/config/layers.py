"""Layers of values, such as a preset's, a file's and the command line's, laid over each other and made a RunConfig.

A value may stand where it belongs ({training: {epochs: 3}}) or by its short form (epochs: 3, as on the command line);
of parts within the finder or the training, those options have one that declare it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from tombola.core.parts import allowed_words, flag_of, is_optional, kinds, options_of, written_name
from tombola.core.written import Family, Spec, from_text, is_none
from tombola.errors import UsageError, did_you_mean
from tombola.runs.config.run import RunConfig

# Names the settings of a finder that belong together: --search published.
VARIANT = "search"
# Fields whose parts' options all have short forms; of parts elsewhere, those that declare one.
OPEN = ("finder", "training")


@dataclass(frozen=True)
class ShortForm:
    """An option with a short form: its name, and all fields that go by it, with their types and the finders' names.

    holder: the field of the configuration that holds the part that has it, or "" for the run's own options.
    """

    name: str
    holder: str
    owners: tuple[tuple[str, "Field[Any]", Any], ...]

    @property
    def field(self) -> "Field[Any]":
        """The first of the fields."""
        return self.owners[0][1]

    @property
    def kind(self) -> Any:
        """The type of the first."""
        return self.owners[0][2]


@cache
def short_forms() -> Mapping[str, ShortForm]:
    """Return every option of a run by its name on the command line (with underscores), parts' own ones included."""
    found: dict[str, list[tuple[str, Field[Any], Any]]] = {}
    holders: dict[str, str] = {}
    for f in options_of(RunConfig()):
        family: Family[Any] | None = f.metadata["family"]
        if f.name != "training":
            found.setdefault(flag_of(f), []).append(("", f, kinds(type(start().part))[f.name]))
        for part in family.known.values() if family else ():
            for name, inner, kind in _flat_options(part, written_name(part), every=f.name in OPEN):
                holders.setdefault(flag_of(inner), f.name)
                found.setdefault(flag_of(inner), []).append((name if f.name == "finder" else "", inner, kind))
    return MappingProxyType(
        {name: ShortForm(name, holders.get(name, ""), tuple(owners)) for name, owners in found.items()}
    )


def _flat_options(part: Any, owner: str, every: bool) -> Iterator[tuple[str, "Field[Any]", Any]]:
    """Give a part's options with a short form; every: all of its own, else those that declare one."""
    for f in options_of(part):
        if every or f.metadata.get("flag"):
            yield owner, f, kinds(type(part))[f.name]
        family: Family[Any] | None = f.metadata.get("family")
        for inner in family.known.values() if family else ():
            yield from _flat_options(inner, owner, every=False)


def path_of(spec: Spec, name: str) -> tuple[str, ...] | None:
    """Return the path of fields to the option of a configuration that has a short form, or None."""
    return _path(spec, name, every=True)


def _path(spec: Spec, name: str, every: bool) -> tuple[str, ...] | None:
    """Return the path to an option; every: also of this part's own that declare no short form."""
    for f in options_of(spec.part):
        if flag_of(f) == name and (every or f.metadata.get("flag")):
            return (f.name,)
    for f in options_of(spec.part):
        inner = spec.within(f.name)
        is_open = isinstance(spec.part, RunConfig) and f.name in OPEN
        found = _path(inner, name, is_open) if inner is not None else None
        if found is not None:
            return (f.name, *found)
    return None


def start() -> Spec:
    """Return a configuration of nothing but defaults."""
    return Spec(RunConfig(), {})


def lay_over(spec: Spec, values: Mapping[str, Any], loose: bool = False) -> Spec:
    """Return a configuration with a layer of values over it.

    Another finder than before begins at its defaults; its own settings win over short forms of the same layer. loose:
    leave out what the finder does not have, where several finders share a layer. Raises UsageError for keys that are no
    options, and for values that cannot be.
    """
    values, inline = dict(values), dict[str, Spec]()
    for f in options_of(spec.part):
        if f.metadata["family"] is not None and f.name != "training" and values.get(f.name) is not None:
            inline[f.name] = f.metadata["family"].parse(values.pop(f.name))
            before = spec.within(f.name)
            spec = spec.put((f.name,), before.under(inline[f.name]) if before is not None else inline[f.name])
    training = values.pop("training", {})
    if not isinstance(training, Mapping):
        raise UsageError("must hold keys and values", option="training")
    nested = {key: value for key, value in training.items() if key != "name"}
    variant = values.pop(VARIANT, None)
    if variant is not None:
        spec = _with_variant(spec, str(variant), inline, loose)
    # Parts first: options of theirs may stand before them.
    for name, value in sorted({**nested, **values}.items(), key=lambda pair: not _names_part(str(pair[0]))):
        spec = _put(spec, str(name), value, inline, loose)
    return spec


def _names_part(name: str) -> bool:
    form = short_forms().get(name.replace("-", "_"))
    return form is not None and form.field.metadata.get("family") is not None


def variants_of(finder: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return a finder's settings that go by one name, its defaults first."""
    variants: Mapping[str, Mapping[str, Any]] = getattr(finder, "variants", {})
    return {"default": {key: getattr(finder, key) for values in variants.values() for key in values}, **variants}


def _with_variant(spec: Spec, name: str, inline: Mapping[str, Spec], loose: bool) -> Spec:
    finder = spec.at(("finder",))
    variants = variants_of(finder.part)
    if name not in variants:
        if loose:
            return spec
        known = ", ".join(variants)
        raise UsageError(f"must be {known} for the finder {written_name(finder.part)}, got {name}", option=VARIANT)
    for key, value in variants[name].items():
        path = finder.find(key)
        assert path is not None
        if "finder" not in inline or not inline["finder"].has_given(path):
            f, _ = finder.field(path)
            family: Family[Any] | None = f.metadata.get("family")
            spec = spec.put(("finder", *path), family.parse(value) if family else value)
    return spec


def _put(spec: Spec, name: str, value: Any, inline: Mapping[str, Spec], loose: bool) -> Spec:
    name = name.replace("-", "_")
    path = path_of(spec, name)
    if path is None:
        form = short_forms().get(name)
        if form is None:
            raise UsageError(f"unknown key {name!r}{did_you_mean(name, short_forms())}", option="config")
        if loose and form.holder == "finder":
            return spec
        holder = spec.at((form.holder,))
        words = f"is not an option of the {form.holder} {written_name(holder.part)}, which has {_dashed(holder)}"
        raise UsageError(words, option=name)
    if path[0] in inline and len(path) > 1 and inline[path[0]].has_given(path[1:]):
        return spec
    f, kind = spec.field(path)
    value, before = settled(f, kind, value), spec.at(path[:-1]).within(path[-1])
    return spec.put(path, before.under(value) if isinstance(value, Spec) and before is not None else value)


def settled(f: "Field[Any]", kind: Any, value: Any) -> Any:
    """Return what a text, or another plain value, means as an option; raises UsageError naming it."""
    family: Family[Any] | None = f.metadata.get("family")
    if family is not None:
        nothing = value is None or (isinstance(value, str) and is_none(value))
        return None if nothing and is_optional(kind) else family.parse(value)
    if f.metadata.get("read") is not None or not isinstance(value, str):
        return value
    if not value.strip():
        raise UsageError("must have a value", option=flag_of(f))
    try:
        return from_text(value, kind)
    except ValueError:
        must = f.metadata.get("must")
        raise UsageError(f"must be {allowed_words(kind, must)}, got {value}", option=flag_of(f)) from None


def _dashed(holder: Spec) -> str:
    """Return the short forms of a part's options, those of the parts that it holds now among them, in words."""
    names: list[str] = []
    for f in options_of(holder.part):
        inner = holder.within(f.name)
        deeper = _flat_options(inner.part, "", every=False) if inner is not None else ()
        names += [flag_of(f), *(flag_of(g) for _, g, _ in deeper)]
    short = [f"--{name.replace('_', '-')}" for name in dict.fromkeys(names) if name in short_forms()]
    others = [name for name in dict.fromkeys(names) if name not in short_forms()]
    parts = [", ".join(short), f"behind colons {', '.join(others)}" if others else ""]
    return " and ".join(filter(None, parts)) or "none"


def built(layers: Sequence[Mapping[str, Any]]) -> RunConfig:
    """Return the configuration of several layers, the later over the earlier."""
    spec = start()
    for layer in layers:
        spec = lay_over(spec, layer)
    config: RunConfig = spec.build()
    return config


@contextmanager
def preset_named(layers: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Say of a value at fault that it is the first layer's, a preset's, where no later layer speaks of its option."""
    try:
        yield
    except UsageError as error:
        preset, *later = layers
        if error.option not in preset or any(error.option in str(layer).replace("-", "_") for layer in later):
            raise
        raise UsageError(f"{error.message}, the preset's", option=error.option) from None


def from_dict(values: Any) -> RunConfig:
    """Return a configuration from plain values, such as those of a run directory's config.yaml."""
    if not isinstance(values, Mapping):
        raise UsageError("must hold keys and values", option="config")
    return built([values])
