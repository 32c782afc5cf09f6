"""PyTorch's exporters without what they say of themselves: silence, and of an error its first sentence."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

# What gives text a colour on a terminal.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what an exporter says, graphs on standard error included, from the terminal; what goes wrong is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        silent = io.StringIO()
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def reason(error: BaseException) -> str:
    """Return the kind of what an exporter's error comes from, and the first line of what it says."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(lines[0].split())}" if lines else type(error).__name__
