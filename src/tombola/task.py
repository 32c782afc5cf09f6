"""Tasks and their metrics: tombola.networks.task under its short name, to be imported from."""

import sys

from tombola.networks import task
from tombola.networks.task import *  # noqa: F403 - for type checkers, who do not follow the next line

sys.modules[__name__] = task
