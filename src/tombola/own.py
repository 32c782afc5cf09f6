"""Functions of the user's own, named MODULE:FUNCTION."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tombola.errors import UsageError


def imported(option: str, name: str) -> Callable[..., Any]:
    """Return the function that "package.module:function" names; raises UsageError naming the option."""
    module, colon, function = name.partition(":")
    if not colon:
        raise UsageError(f"--{option} {name!r} must be MODULE:FUNCTION")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--{option} {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise UsageError(f"--{option} {name!r} is not a function")
    return found


def source(name: str | None) -> str:
    """Return the source text of a function's module, or nothing for other names: results depend on it."""
    return inspect.getsource(import_module(name.partition(":")[0])) if name and ":" in name else ""
