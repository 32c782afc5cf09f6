"""Controllers: tombola.core.controllers under its short name, to be imported from."""

import sys

from tombola.core import controllers
from tombola.core.controllers import *  # noqa: F403 - for type checkers, who do not follow the next line

sys.modules[__name__] = controllers
