"""Parts as people write them: a name, then settings behind colons, "cts:steps=500:controller=gradbalance".

A setting belongs to the part named last that has such an option, else to the parts around it, else to a part within:
"cts:controller=gradbalance:momentum=0.9:steps=500" sets the controller's momentum and the search's steps. A value with
colons of its own stands in brackets, but for MODULE:NAME, which in place of a name is a part of one's own: a class, an
object or a function. Keys and values say the same: {name: cts, controller: {name: gradbalance, momentum: 0.9}}.
"""

import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, fields, replace
from typing import Any, Generic, TypeVar, Union, cast, get_args, get_origin

import yaml

from tombola.core.parts import (
    LISTS,
    allowed_words,
    fits,
    flag_of,
    guarded,
    is_optional,
    is_part,
    kinds,
    kinds_within,
    options_of,
    without_none,
    written_name,
)
from tombola.core.plugins import explained, imported
from tombola.errors import UsageError, did_you_mean

P = TypeVar("P")


def is_none(text: str) -> bool:
    """Whether a text means nothing, for options that may be that."""
    return text.strip().lower() in {"none", "null"}


def unbracketed(text: str) -> str:
    """Return a text without the brackets around the whole of it; raises ValueError where brackets do not close."""
    text, depth, ends = text.strip(), 0, list[int]()
    for place, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth < 0:
            break
        if character == "]" and depth == 0:
            ends.append(place)
    if depth:
        raise ValueError(text)
    return text[1:-1] if text.startswith("[") and ends == [len(text) - 1] else text


def from_text(text: str, kind: Any) -> Any:
    """Return what a text means as an option of some type; raises ValueError where it cannot be one."""
    if is_none(text) and is_optional(kind):
        return None
    kind = without_none(kind)
    if get_origin(kind) in (Union, types.UnionType):
        for each in sorted(get_args(kind), key=lambda each: each is str):  # any text is a text
            with suppress(ValueError):
                return from_text(text, each)
        raise ValueError(text)
    if fits(text, kind):
        return text
    if not text.strip():
        raise ValueError(text)
    if get_origin(kind) in LISTS:
        parts = [part for each in unbracketed(text).split(",") if (part := each.strip().strip("'\""))]
        inner = kinds_within(kind, len(parts))
        found: Any = tuple(from_text(*each) for each in zip(parts, inner, strict=True))
    else:
        found = next((value for value in _meanings(text) if fits(value, kind)), None)
    if not fits(found, kind):
        raise ValueError(text)
    return found


def _meanings(text: str) -> Iterator[Any]:
    """Yield what a text may mean: a number, else what YAML makes of it, to which 010 would be 8."""
    for read in (int, float):
        with suppress(ValueError):
            yield read(text)
    with suppress(yaml.YAMLError, RecursionError):
        value = yaml.safe_load(text)
        if not isinstance(value, int | float) or isinstance(value, bool):
            yield value


@dataclass(frozen=True)
class Spec:
    """A part before it is built: one at its defaults, and the settings given, those for parts within it as Specs."""

    part: Any
    given: Mapping[str, Any]

    def build(self) -> Any:
        """Return the part; raises UsageError for values that it cannot have."""
        values = {name: value.build() if isinstance(value, Spec) else value for name, value in self.given.items()}
        if not values:
            return self.part
        with guarded("", self.part):
            return replace(self.part, **values)

    def options(self) -> dict[str, "Field[Any]"]:
        """Return the part's own options, by the names on the command line."""
        return {flag_of(f): f for f in options_of(self.part)}

    def within(self, name: str) -> "Spec | None":
        """Return the part that a field holds, if it holds one."""
        value = self.given.get(name, getattr(self.part, name))
        return value if isinstance(value, Spec) else Spec(value, {}) if is_part(value) else None

    def at(self, path: tuple[str, ...]) -> "Spec":
        """Return the part at the end of a path of fields."""
        spec: Spec = self
        for name in path:
            found = spec.within(name)
            assert found is not None
            spec = found
        return spec

    def find(self, key: str) -> tuple[str, ...] | None:
        """Return the path of fields to an option of this part, or of the first part within that has it."""
        key = key.replace("-", "_")
        for flag, f in self.options().items():
            if key in (flag, f.name):
                return (f.name,)
        for f in self.options().values():
            inner = self.within(f.name)
            path = inner.find(key) if inner is not None else None
            if path is not None:
                return (f.name, *path)
        return None

    def put(self, path: tuple[str, ...], value: Any) -> "Spec":
        """Return the same with a value, or a part as a Spec, at the end of a path."""
        first, *rest = path
        if rest:
            value = self.at((first,)).put(tuple(rest), value)
        return Spec(self.part, {**self.given, first: value})

    def has_given(self, path: tuple[str, ...]) -> bool:
        """Whether a value was given at the end of a path."""
        first, *rest = path
        inner = self.given.get(first)
        if rest:
            return isinstance(inner, Spec) and inner.has_given(tuple(rest))
        return first in self.given

    def under(self, other: "Spec") -> "Spec":
        """Return this with another's settings over it, which is of the same part or takes its place."""
        if type(other.part) is not type(self.part) or other.part != self.part:
            return other
        merged = dict(self.given)
        for name, value in other.given.items():
            before = merged.get(name)
            if isinstance(before, Spec) and isinstance(value, Spec):
                value = before.under(value)
            merged[name] = value
        return Spec(self.part, merged)

    def field(self, path: tuple[str, ...]) -> tuple["Field[Any]", Any]:
        """Return the field at the end of a path, and its type."""
        owner = self.at(path[:-1])
        found = next(f for f in fields(owner.part) if f.name == path[-1])
        return found, kinds(type(owner.part))[found.name]

    def known(self) -> str:
        """Return the options in words, as the command line writes them."""
        names = list(self.options())
        for f in self.options().values():
            inner = self.within(f.name)
            names += list(inner.options()) if inner is not None else []
        return ", ".join(dict.fromkeys(name.replace("_", "-") for name in names)) or "none"


class Family(Generic[P]):
    """Parts of one kind.

    option: what users call such a part. known: each at its defaults, by name. kind: what an object must be, beside a
    dataclass, to be such a part: of a base, or with the methods of a protocol. of_function: makes a part of a function
    of the user's own and its MODULE:NAME, where functions can be parts. understood: makes a part of a name that is not
    among the known ones and says it all, such as 2:4; None of any other.
    """

    def __init__(
        self,
        option: str,
        known: Mapping[str, P],
        kind: type,
        of_function: Callable[[str, Callable[..., Any]], P] | None = None,
        understood: Callable[[str], P | None] | None = None,
    ) -> None:
        self.option, self.known = option, dict(known)
        self._kind, self._of_function, self._understood = kind, of_function, understood

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def read(self, value: Any) -> P:
        """Return the part that a text, keys and values, or an object means; raises UsageError for anything else."""
        built: P = self.parse(value).build()
        return built

    def parse(self, value: Any) -> Spec:
        """Return what was written, before it is built."""
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return self._of_text(value)
        if isinstance(value, Mapping):
            return self._of_mapping(value)
        return Spec(self._of_object(value), {})

    def _of_object(self, given: Any, shown: str = "") -> P:
        """Return the part that an object, a class or a function is; shown: what was written for it, where by a text."""
        value = given
        if isinstance(value, types.FunctionType) and self._of_function is not None:
            return self._of_function(f"{value.__module__}:{value.__qualname__}", value)
        if isinstance(value, type):
            if self._methods_lacking(value):
                raise UsageError(self._why_not(value, shown or repr(given)), option=self.option)
            try:
                with explained(self.option, f"{value.__module__}:{value.__qualname__}", "failed"):
                    value = value()
            except UsageError as error:
                if not isinstance(error.__cause__, TypeError):
                    raise
                words = f"{shown or repr(given)} cannot be made without arguments: {error.__cause__}"
                raise UsageError(words, option=self.option) from None
        if not is_part(value) or not isinstance(value, self._kind):
            raise UsageError(self._why_not(value, shown or repr(given)), option=self.option)
        return cast(P, value)

    def _methods_lacking(self, value: object) -> str:
        """Return in words the methods of the family's protocol that an object, or its class, does not have."""
        wanted = [name for name in vars(self._kind) if not name.startswith("_")]
        protocol = getattr(self._kind, "_is_protocol", False)
        return " and ".join(name for name in wanted if not hasattr(value, name)) if protocol else ""

    def _why_not(self, value: object, shown: str) -> str:
        """Return what keeps an object from being such a part."""
        if type(value).__module__ == "builtins" and not callable(value):  # a number, say
            return f"must be one of {', '.join(self.known)}, MODULE:NAME, or such an object, got {shown}"
        lacking = self._methods_lacking(value)
        if lacking:
            why = f"lacks {lacking}"
        elif not is_part(value):
            why = "must be a dataclass (@dataclass(frozen=True)), whose fields are options"
        else:
            why = f"must derive from {self._kind.__name__}"
        if self._of_function is not None:
            why = f"is no function, and {why}"
        return f"{shown} is no {self.option}: it {why}"

    def named(self, name: str) -> P:
        """Return the part of a name at its defaults; raises UsageError listing what there is."""
        if name in self.known:
            return self.known[name]
        part = self._understood(name) if self._understood is not None else None
        if part is not None:
            return part
        if ":" in name:
            return self._of_object(imported(self.option, name), repr(name))
        hint = did_you_mean(name, self.known)
        allowed = f"{', '.join(self.known)}, or MODULE:NAME"
        raise UsageError(f"{name!r} is unknown; allowed are {allowed}{hint}", option=self.option)

    def _of_text(self, text: str) -> Spec:
        name, *settings = _pieces(text)
        if name not in self.known and settings and "=" not in settings[0]:
            name = f"{name}:{settings.pop(0)}"
        spec, last = Spec(self.named(name), {}), tuple[str, ...]()
        while settings:
            setting = _with_key(spec.at(last).part, settings.pop(0))
            if settings and "=" not in settings[0] and self._names_module(spec, last, setting):
                setting += f":{settings.pop(0)}"
            spec, last = self._set(spec, last, setting, text)
        return spec

    def _names_module(self, spec: Spec, last: tuple[str, ...], setting: str) -> bool:
        """Whether a setting's value can only be the MODULE of a MODULE:NAME that was cut at its colon."""
        key, _, value = setting.partition("=")
        path = self._place(spec, last, key)
        family = spec.field(path)[0].metadata.get("family") if path else None
        return family is not None and bool(value) and not value.startswith("[") and value not in family.known

    def _set(self, spec: Spec, last: tuple[str, ...], setting: str, text: str) -> tuple[Spec, tuple[str, ...]]:
        """Apply one setting; last: the path to the part that was named last, which a setting may name anew."""
        key, _, value = setting.partition("=")
        path = self._place(spec, last, key)
        if path is None:
            known = spec.known()
            has = f"{written_name(spec.part)}, which has {known}{did_you_mean(key, known.split(', '))}"
            raise UsageError(f"{text!r}: {key!r} is not an option of {has}", option=self.option)
        if not value:
            raise UsageError(f"{text!r}: {key} needs a value, such as {key}=...", option=self.option)
        f, kind = spec.field(path)
        family = f.metadata.get("family")
        try:
            inner = unbracketed(value)
            if family is None or (is_none(value) and is_optional(kind)):
                # Brackets around a text with colons are no part of it.
                return spec.put(path, from_text(inner if ":" in value else value, kind)), last
        except ValueError:
            allowed = allowed_words(kind, f.metadata.get("must"))
            raise UsageError(f"{text!r}: {key} must be {allowed}, got {value!r}", option=self.option) from None
        return spec.put(path, family.parse(inner)), path

    @staticmethod
    def _place(spec: Spec, last: tuple[str, ...], key: str) -> tuple[str, ...] | None:
        """Return the path to an option, looked for in the part named last, then in those around it."""
        for depth in range(len(last), -1, -1):
            path = spec.at(last[:depth]).find(key)
            if path is not None:
                return (*last[:depth], *path)
        return None

    def _of_mapping(self, value: Mapping[Any, Any]) -> Spec:
        if not isinstance(value.get("name"), str):
            raise UsageError("must have a name where it is written as keys and values", option=self.option)
        spec = self._of_text(value["name"])
        own = {f.name: f for f in spec.options().values()}
        for key, inner in value.items():
            if key == "name":
                continue
            if key not in own:
                raise UsageError(
                    f"{value['name']!r}: {key!r} is not an option of it, which has {', '.join(own) or 'none'}",
                    option=self.option,
                )
            family = own[key].metadata.get("family")
            spec = spec.put((key,), inner if family is None or inner is None else family.parse(inner))
        return spec


def _with_key(part: Any, setting: str) -> str:
    """Return a setting with its key: a value alone is that of the part's leading option, as 4x4 is in block:4x4."""
    leading = getattr(part, "leading", "")
    return f"{leading}={setting}" if leading and "=" not in setting else setting


def _pieces(text: str) -> list[str]:
    """Return what lies between the colons that stand in no brackets."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == ":" and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece.strip() for piece in pieces]
