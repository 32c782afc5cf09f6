"""How a process that trains on a CPU should be set up; the command line does it, a script of one's own may."""

import ctypes
import os
import platform

# glibc's names for what mallopt sets (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def tune() -> None:
    """Make waiting threads sleep soon, and keep freed memory for the next step. Call it before torch is imported.

    OpenMP's threads spin for milliseconds while they wait, which makes two runs on one machine ten times slower and
    more; a short spin costs a run alone nothing. glibc hands the memory of large tensors back at every step, and the
    kernel then clears every page of it anew: a fifth of the processor's time where activations are large. What the
    environment says already (GOMP_SPINCOUNT, MALLOC_MMAP_MAX_) is left alone.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if platform.libc_ver()[0] == "glibc" and "MALLOC_MMAP_MAX_" not in os.environ:
        library = ctypes.CDLL(None)
        for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, 2**26)):
            library.mallopt(name, value)
