"""Functions of the user's own, named MODULE:FUNCTION."""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError, UsageError, in_words


def imported(option: str, name: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names; raises UsageError naming the option."""
    module, colon, function = name.partition(":")
    if not colon:
        raise UsageError(f"--{option} {name!r} must be MODULE:FUNCTION")
    if module.endswith(".py"):
        raise UsageError(f"--{option} {name!r} must name the module without .py: {module[:-3]}:{function}")
    with explained(option, name, "cannot be imported"):
        found = getattr(import_module(module), function)
    if not callable(found):
        raise UsageError(f"--{option} {name!r} is not a function")

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
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = last.filename == __file__ or last.filename.startswith("<frozen importlib")
        where = "" if ours else f" ({Path(last.filename).name}, line {last.lineno})"
        raise UsageError(f"--{option} {name!r} {what}: {in_words(error)}{where}") from error


def source(name: str | None) -> str:
    """Return a function's name and its module's source text, or nothing for other names: results depend on both."""
    return f"{name}\n{inspect.getsource(import_module(name.partition(':')[0]))}" if name and ":" in name else ""
