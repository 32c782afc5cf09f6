"""Layers of values, such as a preset's, a file's and the command line's, laid over each other and made a RunConfig.

A value may stand where it belongs ({training: {epochs: 3}}) or by its short form (epochs: 3, as on the command line);
of parts within the finder or the training, those options have one that declare it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass
from difflib import get_close_matches
from typing import Any

from tombola.config.run import RunConfig
from tombola.errors import UsageError
from tombola.finders import FINDERS
from tombola.parts import allowed_words, flag_of, is_optional, is_part, kinds, options_of, written_name
from tombola.written import Family, Spec, from_text, is_none

# Names the settings of a finder that belong together: --search published.
VARIANT = "search"


@dataclass(frozen=True)
class ShortForm:
    """An option with a short form: its name, and the fields and types of all that go by it, with the parts' names."""

    name: str
    owners: tuple[tuple[str, "Field[Any]", Any], ...]

    @property
    def field(self) -> "Field[Any]":
        """The first of the fields."""
        return self.owners[0][1]

    @property
    def kind(self) -> Any:
        """The type of the first."""
        return self.owners[0][2]


def short_forms() -> dict[str, ShortForm]:
    """Return every option of a run by its name on the command line (with underscores), parts' own ones included."""
    found: dict[str, list[tuple[str, Field[Any], Any]]] = {}
    for f in options_of(RunConfig()):
        family: Family[Any] | None = f.metadata["family"]
        if f.name != "training":
            found.setdefault(flag_of(f), []).append(("", f, kinds(type(start().part))[f.name]))
        for part in family.known.values() if family else ():
            for name, inner, kind in _flat_options(part, written_name(part), every=True):
                found.setdefault(flag_of(inner), []).append((name if f.name == "finder" else "", inner, kind))
    return {name: ShortForm(name, tuple(owners)) for name, owners in found.items()}


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
    return _path(spec, name, every=True, depth=0)


def _path(spec: Spec, name: str, every: bool, depth: int) -> tuple[str, ...] | None:
    for f in options_of(spec.part):
        if flag_of(f) == name and (every or f.metadata.get("flag")):
            return (f.name,)
    for f in options_of(spec.part):
        inner = spec.within(f.name)
        found = _path(inner, name, every=depth == 0, depth=depth + 1) if inner is not None else None
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
    values = dict(values)
    inline = Spec(None, {})
    if values.get("finder") is not None:
        inline = FINDERS.parse(values.pop("finder"))
        before = spec.within("finder")
        spec = spec.put(("finder",), before.under(inline) if before is not None else inline)
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


def _with_variant(spec: Spec, name: str, inline: Spec, loose: bool) -> Spec:
    finder = spec.at(("finder",))
    variants: Mapping[str, Mapping[str, Any]] = getattr(finder.part, "variants", {})
    defaults = {key: getattr(finder.part, key) for values in variants.values() for key in values}
    variants = {"default": defaults, **variants}
    if name not in variants:
        if loose:
            return spec
        known = ", ".join(variants)
        raise UsageError(f"must be {known} for the finder {written_name(finder.part)}, got {name}", option=VARIANT)
    for key, value in variants[name].items():
        path = finder.find(key)
        assert path is not None
        if not inline.has_given(path):
            f, _ = finder.field(path)
            family: Family[Any] | None = f.metadata.get("family")
            spec = spec.put(("finder", *path), family.parse(value) if family else value)
    return spec


def _put(spec: Spec, name: str, value: Any, inline: Spec, loose: bool) -> Spec:
    name = name.replace("-", "_")
    path = path_of(spec, name)
    if path is None:
        form = short_forms().get(name)
        if form is None:
            near = get_close_matches(name, short_forms(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown key {name!r}{hint}", option="config")
        owned = all(owner for owner, _, _ in form.owners)
        if loose and owned:
            return spec
        kind = "finder" if owned else "training"
        holder = spec.at((kind,))
        words = f"is not an option of the {kind} {written_name(holder.part)}, which has {_dashed(holder)}"
        raise UsageError(words, option=name)
    if path[0] == "finder" and inline.has_given(path[1:]):
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
    try:
        return from_text(value, kind)
    except ValueError:
        must = f.metadata.get("must")
        raise UsageError(f"must be {allowed_words(kind, must)}, got {value}", option=flag_of(f)) from None


def _dashed(holder: Spec) -> str:
    names = [flag_of(f) for _, f, _ in _own_flat(holder)]
    return ", ".join(f"--{name.replace('_', '-')}" for name in dict.fromkeys(names)) or "none"


def _own_flat(finder: Spec) -> Iterator[tuple[str, "Field[Any]", Any]]:
    for f in options_of(finder.part):
        yield "", f, None
        inner = finder.within(f.name)
        if inner is not None and is_part(inner.part):
            yield from ((o, g, k) for o, g, k in _flat_options(inner.part, "", every=False))


def built(layers: Sequence[Mapping[str, Any]]) -> RunConfig:
    """Return the configuration of several layers, the later over the earlier."""
    spec = start()
    for layer in layers:
        spec = lay_over(spec, layer)
    config: RunConfig = spec.build()
    return config


def from_dict(values: Any) -> RunConfig:
    """Return a configuration from plain values, such as those of a run directory's config.yaml."""
    if not isinstance(values, Mapping):
        raise UsageError("must hold keys and values", option="config")
    return built([values])
