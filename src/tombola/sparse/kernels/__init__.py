"""The inner loops, compiled for the processor at hand by numba.

Activations lie as channels x height x (width x samples): float32 of shape (C, H, W*N), without padding. A kept weight
is a link, a row of int64 (other channel, dh, dw, h0, h1, w0, w1, together): output rows h0 to h1 and columns w0 to w1
get the weight times the input at row h*sh + dh and column w*sw + dw, so that for sw = 1 one row is one multiply-add
over a contiguous piece. Where `together` is 4, which is so for sw = 1 alone, the link and the three after it have all
but the other channel in common, and are walked in one pass, which reads and writes what they add to once instead of
four times. Each channel is the work of one thread, its sums run in a fixed order: the same bits every time, on any
number of threads. Sums over a plane are of rows in float32, then of their sums in float64.
"""

from tombola.sparse.kernels.backward_links import links_backward
from tombola.sparse.kernels.backward_units import ADD, NO_RESIDUAL, WRITE, unit_backward
from tombola.sparse.kernels.forward import FEATURES, NO_WALK, ROWS, unit_forward

__all__ = [
    "ADD",
    "FEATURES",
    "NO_RESIDUAL",
    "NO_WALK",
    "ROWS",
    "WRITE",
    "links_backward",
    "unit_backward",
    "unit_forward",
]
