"""Parts: frozen dataclasses whose fields are their options.

A finder, an objective, a controller, a relaxation, an allocation, an optimiser: each is a part. Whatever is to be known
of an option (help, default, what is allowed) stands at its field, and the command line, files, provenance, the names of
results and the tables of the documentation are made from there. `tombola.core.written` reads parts that people wrote.
"""

import math
import types
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from tombola.core.plugins import code_of, explained
from tombola.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Must:
    """What the value of an option must be: a test, and words that follow on the type's, such as "above 0".

    names: all that there are, where it is one of some.
    """

    holds: Callable[[Any], bool]
    words: str
    names: Collection[str] = ()


# What may be multiplied a little and still be a float32.
LARGEST = 1e30
POSITIVE = Must(lambda value: 0 < value <= LARGEST, f"above 0, at most {LARGEST:g}")
NOT_NEGATIVE = Must(lambda value: 0 <= value <= LARGEST, f"between 0 and {LARGEST:g}")
SHARE = Must(lambda value: 0 < value <= 1, "in (0, 1]")
BELOW_ONE = Must(lambda value: 0 <= value < 1, "in [0, 1)")
INSIDE = Must(lambda value: 0 < value < 1, "between 0 and 1")
COUNT = Must(lambda value: value >= 1, "of at least 1")
NATURAL = Must(lambda value: value >= 0, "that is not negative")
FINITE = Must(math.isfinite, "that is finite")


def one_of(names: Collection[str]) -> Must:
    """Return the demand that a value be one of some names."""
    return Must(lambda value: value in names, f"one of {', '.join(names)}", names)


class Reads(Protocol):
    """A family of parts, which reads what was written for one of them."""

    option: str

    def read(self, value: Any) -> Any:
        """Return the part that a text, keys and values, or an object means."""


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    must: Must | None = None,
    flag: str = "",
    unset: str = "",
    family: Reads | None = None,
    group: str = "",
    read: Callable[[Any], Any] | None = None,
    named: bool = True,
    kw_only: bool = False,
) -> Any:
    """Declare an option of a part: its default and what it means.

    must: what its values must be, beyond their type. flag: its name on the command line, where that is not the field's.
    unset: in words, what happens where it is None or empty. family: of what parts its value is one. group: the heading
    under which the command line shows it. read: makes a value of what was written. named: whether results depend on it,
    so that it is part of their names.
    """
    about = {"help": help, "must": must, "flag": flag, "unset": unset, "family": family, "group": group}
    return field(default=default, metadata={**about, "read": read, "named": named}, kw_only=kw_only)


@dataclass(frozen=True)
class Part:
    """Base of parts: checks what it is given, and takes parts within it by name.

    name: for people. version: raised when the part's numbers change or one of its defaults does, so that an old result
    never passes for a new one.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        types_of = kinds(type(self))
        for f in fields(self):
            object.__setattr__(self, f.name, checked(f, types_of[f.name], getattr(self, f.name)))


def kinds(part: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    return _hints(part)


@cache
def _hints(part: Hashable) -> dict[str, Any]:
    return get_type_hints(part)


def flag_of(f: "Field[Any]") -> str:
    """Return what the command line calls an option, with underscores."""
    return (f.metadata.get("flag") or f.name).replace("-", "_")


def checked(f: "Field[Any]", kind: Any, value: Any) -> Any:
    """Return an option's value, what was written for a part read and lists made tuples.

    Raises UsageError, naming the option and what is allowed, for any other.
    """
    family: Reads | None = f.metadata.get("family")
    if family is not None:
        return value if value is None and is_optional(kind) else family.read(value)
    read = f.metadata.get("read")
    if read is not None:
        return read(value)
    value = tuple(value) if isinstance(value, list) else value
    must: Must | None = f.metadata.get("must")
    if not fits(value, kind) or (value is not None and must is not None and not must.holds(value)):
        hint = did_you_mean(value, must.names) if must is not None and isinstance(value, str) else ""
        raise UsageError(f"must be {allowed_words(kind, must)}, got {value!r}{hint}", option=flag_of(f))
    return _as_floats(value, without_none(kind))


def _as_floats(value: Any, kind: Any) -> Any:
    """Return a value with whole numbers as floats where floats are meant: 1 and 1.0 are one option."""
    if kind is float and value is not None:
        return float(value)
    return tuple(map(float, value)) if kind == tuple[float, ...] else value


@cache
def is_optional(kind: Hashable) -> bool:
    """Whether an option of this type may be None."""
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


@cache
def without_none(kind: Hashable) -> Any:
    """Return a type without its None."""
    if not is_optional(kind):
        return kind
    inner = [each for each in get_args(kind) if each is not type(None)]
    return inner[0] if len(inner) == 1 else Union[tuple(inner)]  # noqa: UP007


# Types of options that hold several values, which are tuples whatever they are called.
LISTS = (tuple, list, Sequence)


def kinds_within(kind: Any, count: int) -> list[Any]:
    """Return the types of the values in a list of so many: all alike, or those of a tuple one by one, however many."""
    inner = get_args(kind)
    return [inner[0]] * count if get_origin(kind) is not tuple or inner[-1] is ... else list(inner)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an option's type; whole numbers are numbers, true and false and NaN are none."""
    if value is None:
        return is_optional(kind)
    kind = without_none(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin in LISTS:
        if not isinstance(value, tuple):
            return False
        each = kinds_within(kind, len(value))
        return len(each) == len(value) and all(map(fits, value, each))
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return number and not math.isnan(value)
    return not isinstance(kind, type) or isinstance(value, kind)


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple[int, ...]: "a list of whole numbers such as [40,80]",
    tuple[float, ...]: "a list of numbers such as [0.5,0.5]",
    tuple[str, ...]: "a list of texts such as [fc.*,head.*]",
}


def allowed_words(kind: Any, must: Must | None = None) -> str:
    """Return in words what an option may be: "a whole number of at least 1"."""
    kind = without_none(kind)
    words = _WORDS.get(kind) or f"of type {getattr(kind, '__name__', kind)}"
    if must is None:
        return words
    return f"{words} {must.words}" if kind in (int, float) else must.words


def is_part(value: object) -> bool:
    """Whether a value is a part: an object with options."""
    return is_dataclass(value) and not isinstance(value, type)


def options_of(part: Any) -> "list[Field[Any]]":
    """Return the fields of a part that are its options."""
    return [f for f in fields(part) if f.init and f.compare and f.name != "name"] if is_part(part) else []


def written_name(part: Any) -> str:
    """Return what a part is written as: its name, or MODULE:NAME of one's own."""
    kind = type(part)
    ours = kind.__module__.partition(".")[0] == "tombola"
    return str(part.name) if ours else f"{kind.__module__}:{kind.__qualname__}"


def is_own(part: Any) -> bool:
    """Whether a part is of the user's own code."""
    return bool(getattr(part, "code", "")) or type(part).__module__.partition(".")[0] != "tombola"


@contextmanager
def guarded(option: str, part: Any) -> Iterator[None]:
    """Turn whatever a part of the user's own raises into one sentence that names it and says where."""
    with explained(option, written_name(part), "failed") if is_own(part) else nullcontext():
        yield


def describe(part: Any) -> dict[str, Any]:
    """Return a part's name and all its options as plain values, parts within it likewise."""
    return {"name": written_name(part)} | {f.name: plain(getattr(part, f.name)) for f in options_of(part)}


def plain(value: Any) -> Any:
    """Return an option's value as lists, mappings, texts and numbers; a part without options is its name."""
    if is_part(value):
        described = describe(value)
        return described if len(described) > 1 else described["name"]
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple) else value


# Options of a network that belong to what it is called, and values that go without saying: unset, and the paper's.
_TITLED = {"width": (None, 16)}


def called(described: Any) -> str:
    """Return what a part is called in titles, "resnet20 of width 8" say; described: as `plain` gives it, or nothing."""
    if not isinstance(described, Mapping):
        return str(described or "")
    more = (f" of {name} {described[name]}" for name, usual in _TITLED.items() if described.get(name) not in usual)
    return "".join([str(described.get("name", "")), *more])


def identify(part: Any) -> dict[str, Any]:
    """Return what a result depends on of a part: its name, version, options that differ from their defaults, own code.

    An option at its default is left out: a new one renames no result. A default that changes raises the version.
    """
    known: dict[str, Any] = {"name": written_name(part), "version": getattr(part, "version", 1)}
    for f in options_of(part):
        value = getattr(part, f.name)
        if not f.metadata.get("named", True):
            continue
        if is_part(value):
            inner = identify(value)
            # Left out like any default, until its version has been raised.
            if value != f.default or inner != {"name": inner["name"], "version": 1}:
                known[f.name] = inner
        elif value != f.default:
            known[f.name] = plain(value)
    code = getattr(part, "code", "") or code_of(part)
    return known | ({"code": code} if code else {})
