"""`python -m tombola` is the same as `tombola`."""

import sys

from tombola.cli.main import main

sys.exit(main())
