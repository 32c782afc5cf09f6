"""`python -m tombola` is the same as `tombola`."""

import sys

from tombola import alive

alive.guard()

from tombola.cli.main import main  # noqa: E402 - Ctrl-C is quiet from here on

sys.exit(main())
