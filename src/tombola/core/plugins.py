"""Code of the user's own: functions, classes and objects named MODULE:NAME, and what results depend on of it."""

import functools
import hashlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError, UsageError, did_you_mean, in_words, lacks_memory

# Where an error is raised that comes of code around theirs.
_NOT_THEIRS = sys.stdlib_module_names | {"numpy", "tombola", "torch", "torchvision"}


# What a class holds whatever its code.
_OF_NO_CODE = {"__dict__", "__weakref__", "__doc__", "__module__"}


def imported(option: str, name: str) -> Any:
    """Return what "package.module:name" names; raises UsageError naming the option."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise UsageError(f"{name!r} must be MODULE:NAME", option=option)
    if module.endswith(".py"):
        raise UsageError(f"{name!r} must name the module without .py: {module[:-3]}:{attribute}", option=option)
    with explained(option, name, "cannot be imported"):
        found = import_module(module)
        for part in attribute.split("."):
            if not hasattr(found, part):
                hint = did_you_mean(part, vars(found))
                raise UsageError(f"{name!r} cannot be imported: {module} has no {attribute}{hint}", option=option)
            found = getattr(found, part)
        return found


def imported_function(option: str, name: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names, its own errors explained."""
    found = imported(option, name)
    if not callable(found):
        raise UsageError(f"{name!r} is not a function", option=option)

    @functools.wraps(found)
    def guarded(*arguments: Any) -> Any:
        with explained(option, name, "failed"):
            return found(*arguments)

    return guarded


@contextmanager
def explained(option: str, name: str, what: str) -> Iterator[None]:
    """Turn whatever the user's own code raises into one sentence that says where; the traceback stays its cause."""
    try:
        yield
    except TombolaError:
        raise
    except Exception as error:  # the code is not ours: anything may come out of it
        if lacks_memory(error):
            raise
        raise UsageError(f"{name!r} {what}: {in_words(error)}{raised_at(error)}", option=option) from error


def told(error: BaseException) -> str:
    """Return an error in words, and where it came up unless it is one that tombola raises on purpose."""
    return in_words(error) + ("" if isinstance(error, TombolaError) else raised_at(error))


def is_theirs(module: object) -> bool:
    """Whether a module of this name is the user's own, or of a library that they chose."""
    return str(module or "tombola").partition(".")[0] not in _NOT_THEIRS


def raised_at(error: BaseException) -> str:
    """Return where in the user's own code an error came up, as " (file.py, line 3)"; nothing where it did not."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if is_theirs(frame.f_globals.get("__name__")):
            return f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return ""


def source(name: str | None) -> str:
    """Return a function's name and the source text of its module, or nothing for other names: results depend on both.

    Of the module that is named, and where that has the function from another one, of that one too.
    """
    if not name or ":" not in name:
        return ""
    module, _, attribute = name.partition(":")
    named = import_module(module)
    found = attrgetter(attribute)(named)
    while isinstance(found, functools.partial):
        found = found.func
    defined = getattr(inspect.unwrap(found), "__module__", None)
    further = _source_of(str(defined)) if defined != named.__name__ and is_theirs(defined) else ""
    return f"{name}\n{inspect.getsource(named)}" + (f"\n{further}" if further else "")


def _source_of(module: str) -> str:
    """Return a module's source text, or nothing where it has none."""
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError):
        return ""


def code_of(value: Any) -> str:
    """Return a hash of the code of an object of the user's own class, of that class or a function; "" for ours.

    Of the whole module, where its source can be had; else (typed into an interpreter) of all that was compiled. Of a
    class, its bases of other modules of the user's own count as well.
    """
    kind = value if inspect.isfunction(value) or inspect.isclass(value) else type(value)
    if kind.__module__.partition(".")[0] in {"tombola", "builtins"}:
        return ""
    bases = kind.__mro__[1:] if inspect.isclass(kind) else ()
    theirs = [kind, *(base for base in bases if is_theirs(base.__module__))]
    modules = dict.fromkeys(each.__module__ for each in theirs)
    texts = [
        _source_of(module) or repr([_compiled(each) for each in theirs if each.__module__ == module])
        for module in modules
    ]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _compiled(value: Any) -> Any:
    """Return the instructions and constants of a function, or of all that a class holds, and its plain values."""
    if inspect.isclass(value):
        return [(name, _compiled(inner)) for name, inner in vars(value).items() if name not in _OF_NO_CODE]
    if isinstance(value, property):
        return [_compiled(each) for each in (value.fget, value.fset, value.fdel) if each]
    code = getattr(inspect.unwrap(getattr(value, "__func__", value)), "__code__", None)
    return _constant(code if code else value if isinstance(value, int | float | str | tuple) else None)


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return value.co_name, value.co_code, value.co_names, [_constant(each) for each in value.co_consts]
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
