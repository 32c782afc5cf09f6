"""Allocations: tombola.core.allocation under its short name, to be imported from."""

import sys

from tombola.core import allocation
from tombola.core.allocation import *  # noqa: F403 - for type checkers, who do not follow the next line

sys.modules[__name__] = allocation
