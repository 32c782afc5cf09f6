"""The formats in which a network under a ticket is exported, by name; a new one is a file here and a line below."""

from tombola.errors import UsageError, did_you_mean
from tombola.ticket.formats.base import Format, Subject, check_ending
from tombola.ticket.formats.compacted import Compacted
from tombola.ticket.formats.masked import is_network
from tombola.ticket.formats.masked import read as load_network
from tombola.ticket.formats.onnx import Onnx
from tombola.ticket.formats.packed import Packed
from tombola.ticket.formats.plain import Plain
from tombola.ticket.formats.sparse import Sparse

FORMATS: dict[str, Format] = {each.name: each for each in (Plain(), Sparse(), Packed(), Compacted(), Onnx())}

__all__ = ["FORMATS", "Format", "Packed", "Subject", "check_ending", "format_named", "is_network", "load_network"]


def format_named(name: str) -> Format:
    """Return the format of a name; raises UsageError listing what there is."""
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise UsageError(f"{name!r} is unknown; allowed are {', '.join(FORMATS)}{hint}", option="format")
    return FORMATS[name]
