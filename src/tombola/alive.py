"""A command's first sign of life while PyTorch is loaded, and its quiet end where it is interrupted until then."""

import os
import signal
import sys
from contextlib import suppress

# The first thing that the command line loads, so that no more of the standard library is loaded than it needs.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, TextIO

# On a terminal the line comes at once where a command's options are read, and at the latest after so many seconds.
TERMINAL_SECONDS = 0.3
# In a file or a pipe, where it stays, only of commands that take longer than this.
PIPE_SECONDS = 2.0


class _Waiting:
    """The time between a command's start and the first thing that it shows itself."""

    def __init__(self, command: str, stream: "TextIO", works: bool) -> None:
        import threading

        self._stream = stream
        self._words = f"{command}: loading PyTorch"
        self._on_terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown = self._over = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(TERMINAL_SECONDS if self._on_terminal else PIPE_SECONDS, self._show)
        self._timer.daemon = True
        if self._on_terminal or works:
            self._timer.start()

    def options_are_read(self) -> None:
        if self._on_terminal:
            self._show()

    def end(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._shown and self._on_terminal:
                self._stream.write("\r\x1b[K")
                self._stream.flush()
            self._shown = False

    def _show(self) -> None:
        with self._lock:
            if self._over or self._shown:
                return
            self._shown = True
            self._stream.write(f"{self._words} ..." if self._on_terminal else f"{self._words}\n")
            self._stream.flush()


_waiting: _Waiting | None = None


def begin(command: str, works: bool) -> None:
    """Say, from now until `end`, that a command is on its way, unless PyTorch is there already.

    command: as it was called, such as "tombola run". works: whether it has something to do that takes time; only then
    the line is written to a file or a pipe, too.
    """
    global _waiting
    end()
    if "torch" not in sys.modules:
        _waiting = _Waiting(command, sys.stderr, works)


def options_are_read() -> None:
    """Show the line, on a terminal: what comes next takes time."""
    if _waiting is not None:
        _waiting.options_are_read()


def end() -> None:
    """Take the line away; to be called before anything else is shown. Does nothing where there is none."""
    global _waiting
    if _waiting is not None:
        _waiting.end()
        _waiting = None


# What ends a program, and its usual meaning.
_USUAL: "dict[signal.Signals, Any]" = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def guard() -> None:
    """Make Ctrl-C, or a kill, during imports end the program at once, with one line; later both are KeyboardInterrupts.

    A KeyboardInterrupt in there would come out as a traceback, or as the error of whatever was being imported. Handlers
    that others have set stay.
    """
    for number, usual in _USUAL.items():
        if signal.getsignal(number) is usual:
            with suppress(ValueError):  # in a thread, which no signal reaches
                signal.signal(number, _interrupted)


def unguard() -> None:
    """Give both back their usual meaning."""
    for number, usual in _USUAL.items():
        if signal.getsignal(number) is _interrupted:
            signal.signal(number, usual)


def _interrupted(number: int, frame: "FrameType | None") -> None:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None or (_waiting is None and "torch" in sys.modules):
        raise KeyboardInterrupt(number)
    erased = "\r\x1b[K" if os.isatty(2) else ""
    os.write(2, f"{erased}tombola: interrupted\n".encode())
    os._exit(128 + number)
