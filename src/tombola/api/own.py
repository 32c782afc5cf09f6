"""What kept results depend on of the user's own: their functions with all that these hold, and their model.

Names, options and versions say all of tombola's parts. Of a function they say nothing of what it was made with: the
arguments of a partial, the values of a closure, defaults, and the globals that it reads.
"""

import copyreg
import dis
import re
import sys
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle

from tombola.core.parts import is_part, options_of
from tombola.core.plugins import code_of, is_theirs
from tombola.errors import UsageError, in_words
from tombola.networks.masking import named_parameters, unwrap
from tombola.storage.identity import digest, digest_tensors

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
# What a function reads a global by.
_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
# Methods that change a list, a set or a dictionary.
_CHANGES = {"add", "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def mark_of_own(what: str, value: Any) -> str:
    """Return a digest of a value: a function's code, defaults, closure and globals, an object's class and fields.

    what: names the value in the error. Raises UsageError where something in it can be told from others in no way.
    """
    return _Marks().of(value, what)


def marks_beyond_options(part: Any) -> dict[str, Any]:
    """Return the marks of what a part and parts within it hold beyond options, by field: functions above all.

    Of a part of the user's own also what its class is.
    """
    found: dict[str, Any] = {}
    theirs = is_theirs(type(part).__module__)
    if theirs:
        found["class"] = mark_of_own("class", type(part))
    said = {f.name for f in (options_of(part) if theirs else fields(part))}
    for f in fields(part):
        value = getattr(part, f.name)
        if is_part(value):
            found[f.name] = marks_beyond_options(value)
        elif callable(value) or f.name not in said:
            found[f.name] = mark_of_own(f.name, value)
    return {name: mark for name, mark in found.items() if mark}


def mark_of_model(model: nn.Module) -> str:
    """Return a digest of what parameters' names and values do not say of a model.

    Its layers as they are printed with the plain values and hooks that they hold, which parameters are frozen, and the
    code of modules of the user's own.
    """
    plain, marks = unwrap(model), _Marks()
    held = {name: _settings(module) for name, module in plain.named_modules()}
    kinds = {type(module) for module in plain.modules() if is_theirs(type(module).__module__)}
    return digest(
        [
            _ADDRESS.sub("", repr(plain)),
            {name: parameter.requires_grad for name, _, parameter in named_parameters(plain)},
            sorted(mark_of_own("model", kind) for kind in kinds),
            {name: {key: marks.of_any(value, key) for key, value in found.items()} for name, found in held.items()},
        ]
    )


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the plain values that a layer was made with, such as num_heads, which few print, and its hooks."""
    own = {name: value for name, value in vars(module).items() if name != "training" and not name.startswith("_")}
    hooks = {kind: vars(module).get(kind, {}).values() for kind in _HOOKS}
    numbered = {f"{kind} {place}": hook for kind, found in hooks.items() for place, hook in enumerate(found)}
    return {name: value for name, value in own.items() if _is_plain(value)} | numbered


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN or (isinstance(value, tuple) and all(map(_is_plain, value)))


@dataclass
class _Marks:
    """Marks of values by what they are, each object looked at once.

    known: by id, with the objects themselves, lest another gets the id. under_way: ids of those that are looked at.
    """

    known: dict[int, tuple[str, Any]] = field(default_factory=dict)
    under_way: list[int] = field(default_factory=list)

    def of(self, value: Any, name: str) -> str:
        """Return a value's mark; name: what it is called where it stands."""
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {value!r}"
        if id(value) in self.known:
            return self.known[id(value)][0]
        if id(value) in self.under_way:  # a function that calls itself, say
            return f"around {self.under_way.index(id(value))}"
        self.under_way.append(id(value))
        try:
            found = digest([type(value).__qualname__, self._content(value, name)])
        finally:
            self.under_way.pop()
        self.known[id(value)] = (found, value)
        return found

    def _content(self, value: Any, name: str) -> Any:
        if type(value) in (list, tuple):
            return [self.of(each, name) for each in value]
        if type(value) is dict:
            return [[self.of(key, name), self.of(each, f"{name}[{key!r}]")] for key, each in value.items()]
        if isinstance(value, set | frozenset):
            return sorted(self.of(each, name) for each in value)
        if isinstance(value, CodeType):
            return [value.co_code.hex(), self.of(value.co_consts, name), value.co_names]
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, FunctionType):
            # What torch.compile makes of a function holds the compiler's state, which says nothing of results.
            return self._of_function(vars(value).get("_torchdynamo_orig_callable", value))
        if isinstance(value, type):
            return self._of_class(value)
        if isinstance(value, nn.Module):
            plain = unwrap(value)
            # Hooks are filed under numbers that count all hooks of a process, as handles are.
            held = {k: list(v.values()) if k in _HOOKS else v for k, v in vars(plain).items()}
            return [self.of(type(plain), name), self._of_fields(held, name)]
        if isinstance(value, RemovableHandle):
            return []
        return self._of_object(value, name)

    def _of_function(self, function: FunctionType) -> Any:
        code, called = function.__code__, function.__qualname__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        defaults = function.__defaults__ or ()
        held = dict(zip(names[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True))
        held |= function.__kwdefaults__ or {}
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        own = [code_of(function), self._of_code(function)] if is_theirs(function.__module__) else []
        return [
            f"{function.__module__}:{called}",
            own,
            self._of_fields(held, called),
            self._of_fields({name: _inside(cell) for name, cell in cells.items()}, called),
            self._of_fields(vars(function), called),
        ]

    def _of_class(self, kind: type) -> Any:
        """Return a class's name, and the code of it and its bases where they are the user's own."""
        own = [each for each in kind.__mro__ if is_theirs(each.__module__)]
        methods = [f for each in own for f in vars(each).values() if isinstance(f, FunctionType)]
        codes = [self._of_code(f) for f in methods]
        return [f"{kind.__module__}:{kind.__qualname__}", [code_of(each) for each in own], codes]

    def _of_code(self, function: FunctionType) -> Any:
        """Return the marks of a function's code and of the globals that it reads, as they now are."""
        called = function.__qualname__
        read = {name: self.of_any(value, name) for name, value in _globals_of(function).items()}
        return [self.of(function.__code__, called), read]

    def of_any(self, value: Any, name: str) -> str:
        """Return a value's mark: its class's where it holds what cannot be told from others, a console or a lock."""
        try:
            return self.of(value, name)
        except UsageError:
            return self.of(type(value).__qualname__, name)

    def _of_fields(self, values: dict[str, Any], owner: str) -> Any:
        return [[name, self.of(value, f"{name} in {owner}")] for name, value in values.items()]

    def _of_object(self, value: Any, name: str) -> Any:
        """Return the marks of what an object would be made of again, as pickle and copy make it."""
        try:
            if isinstance(value, Tensor):
                return digest_tensors({"": value})
            reducer = copyreg.dispatch_table.get(type(value))
            made = value.__reduce_ex__(4) if reducer is None else reducer(value)
        except Exception as error:  # the object is not ours: anything may come out of it
            raise UsageError(
                f"needs functions of which all that they hold can be told from others: numbers, texts, tensors, "
                f"functions, and objects of such; {name} cannot be ({in_words(error)})",
                option="out",
            ) from error
        if isinstance(made, str):  # something that a module has by that name
            return f"{value.__module__}:{made}"
        maker, arguments, state, items, entries = (*made, None, None, None)[:5]
        owner = type(value).__qualname__
        return [
            self.of(maker, name),
            self.of(arguments, name),
            self._of_fields(state, owner) if type(state) is dict else self.of(state, name),
            [self.of(each, name) for each in items or ()],
            [self.of(each, name) for each in entries or ()],
        ]


def _globals_of(function: FunctionType) -> dict[str, Any]:
    """Return the globals that a function of the user's own files reads; what libraries read stays as it is.

    Functions and classes of libraries stand in it by their names, and data, which must be the same, by their class.
    """
    known = function.__globals__
    if _is_of_library(known.get("__name__")):
        return {}
    names = sorted(_names_read(function.__code__) & known.keys())
    return {name: _by_name(known[name]) for name in names}


def _names_read(code: CodeType) -> set[str]:
    """Return the globals that code reads, but for those that it changes, such as a list that it appends to."""
    steps = list(dis.get_instructions(code))
    read = {each.argval for each in steps if each.opname in _READS}
    changed = {each.argval for each in steps if each.opname == "STORE_GLOBAL"}
    changed |= {each.argval for each, then in pairwise(steps) if each.opname in _READS and then.argval in _CHANGES}
    inner = [_names_read(each) for each in code.co_consts if isinstance(each, CodeType)]
    return (read - changed).union(*inner)


def _by_name(value: Any) -> Any:
    """Return what a global is marked by: its name or its class where the value itself need not, or cannot, be."""
    if isinstance(value, FunctionType | type) and _is_of_library(value.__module__):
        return f"{value.__module__}:{value.__qualname__}"
    return type(value) if isinstance(value, Dataset | DataLoader) else value


def _is_of_library(module: object) -> bool:
    """Whether a module is one that was installed, or comes with Python."""
    file = getattr(sys.modules.get(str(module)), "__file__", None) or ""
    return not is_theirs(module) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _inside(cell: Any) -> Any:
    """Return the value of a closure's variable, or the cell's own class where it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return type(cell)
