"""How a process that trains on a CPU should be set up, and what it knows of others that were started with it."""

import ctypes
import os
import platform
import threading
import time
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Place:
    """A process among those that torchrun or srun started together: its number, how many on a node, how many nodes."""

    rank: int
    devices: int
    nodes: int


def place() -> Place | None:
    """Return where this process stands, None where it was started alone."""
    found = os.environ
    if "TORCHELASTIC_RUN_ID" in found:
        local = int(found["LOCAL_WORLD_SIZE"])
        world = int(found["WORLD_SIZE"])
        started = Place(int(found["RANK"]), local, world // local)
    elif "SLURM_STEP_NUM_TASKS" in found and "SLURM_PROCID" in found:  # which srun sets, and sbatch does not
        nodes = int(found.get("SLURM_STEP_NUM_NODES", "1"))
        started = Place(int(found["SLURM_PROCID"]), int(found["SLURM_STEP_NUM_TASKS"]) // nodes, nodes)
    else:
        return None
    return started if started.devices * started.nodes > 1 else None


def follows() -> bool:
    """Whether another process says what there is to say."""
    found = place()
    return found is not None and found.rank > 0


def end_with(parent: int) -> None:
    """End this process, even in the middle of its work, when its parent is gone: everything can be gone on from."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
