"""Compiling loops by numba, where it is there, and threads to run them; nothing imports numba before it is needed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@cache
def numba_works() -> bool:
    """Whether numba is there and compiles."""
    try:
        from numba.core import config
    except ImportError:  # also of one that does not know the numpy beside it
        return False
    settings: Any = config
    return not settings.DISABLE_JIT


# Of the thread that asks: whether it is one of those that everybody shares.
_HERE = threading.local()


@lru_cache(maxsize=1)
def shared_threads(threads: int) -> ThreadPoolExecutor:
    """Return the threads that compiled loops share; none is begun anew for a step."""
    return ThreadPoolExecutor(threads, initializer=lambda: setattr(_HERE, "is_shared", True))


def is_in_pool() -> bool:
    """Whether the thread that asks is one of those, and must not wait for others of them."""
    return getattr(_HERE, "is_shared", False)


def kernel(*flags: str) -> Callable[[F], F]:
    """Compile a function at its first call, for threads that share the work, and keep it on disk where that can be.

    flags: what the compiler may do to float arithmetic. "contract": multiply and add in one rounding. "reassoc": add up
    in an order of its own, in functions that form sums. "nsz": forget the signs of zeros.
    """
    import numba

    def compiled(function: F) -> F:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(flags)}
        try:
            found: F = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no directory can be written to
            found = numba.njit(**options)(function)
        return found

    return compiled
