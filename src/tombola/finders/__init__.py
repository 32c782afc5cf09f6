"""Every way of finding a ticket, one file a family, all with the same interface."""

from tombola.finders.base import Finder, describe
from tombola.finders.cts import CTS
from tombola.finders.random import Random

FINDERS: dict[str, type[CTS] | type[Random]] = {kind.name: kind for kind in (CTS, Random)}

__all__ = ["CTS", "FINDERS", "Finder", "Random", "describe"]
