"""What the inner loops share: how a link lies, and how loops that are parts of kernels are compiled."""

from typing import Any

import numpy as np
from numba import njit

# Sums may be reordered, by the compiler, once and for all; what is no number must stay one's to see.
FLAGS = ("contract", "reassoc", "nsz")
inlined: Any = njit(inline="always", fastmath=set(FLAGS), error_model="numpy")
# Compiled once, however often it is called: for loops that are long beside a call.
called: Any = njit(fastmath=set(FLAGS), error_model="numpy")

ZERO = np.float32(0)
# Numbers that are worked on together: they stay in the nearest cache, and loops over them are worth their beginning.
PIECE = 1024
# The columns of a link; TOGETHER: how many links from this one on are one pass, being of one channel and one window.
OTHER, DH, DW, H0, H1, W0, W1, TOGETHER = range(8)
# Links that one pass takes at most.
PASS = 4
