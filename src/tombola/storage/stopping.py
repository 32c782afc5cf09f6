"""A wish that this process stops at its next checkpoint, such as a scheduler's at the end of its time."""

_wished = False


class Stopped(BaseException):
    """The process was asked to stop, and has written a checkpoint; no error that a study may take for a failure."""


def request() -> None:
    """Ask for it; whatever runs writes a checkpoint as soon as it can, and raises Stopped."""
    global _wished
    _wished = True


def requested() -> bool:
    """Whether it was asked for."""
    return _wished
