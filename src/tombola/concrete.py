"""The binary Concrete relaxation and its rivals: tombola.core.concrete under its short name, to be imported from."""

import sys

from tombola.core import concrete
from tombola.core.concrete import *  # noqa: F403 - for type checkers, who do not follow the next line

sys.modules[__name__] = concrete
