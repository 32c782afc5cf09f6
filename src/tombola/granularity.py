"""Granularities: tombola.core.granularity under its short name, to be imported from."""

import sys

from tombola.core import granularity
from tombola.core.granularity import *  # noqa: F403 - for type checkers, who do not follow the next line

sys.modules[__name__] = granularity
