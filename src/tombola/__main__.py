"""`python -m tombola` is the same as `tombola`."""

import sys

from tombola import alive

alive.guard()  # before anything else is imported

from tombola.cli.main import main

sys.exit(main())
