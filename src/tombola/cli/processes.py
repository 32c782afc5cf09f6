"""--devices and --num-nodes: a command in several processes, started here, or by torchrun or srun."""

import atexit
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tombola import alive
from tombola.errors import TombolaError, UsageError
from tombola.process import place

if TYPE_CHECKING:
    from tombola.core.progress import Progress
    from tombola.core.ranks import Ranks
    from tombola.runs.config import RunConfig

# In the environment of processes that were started here: the one that started them.
PARENT = "TOMBOLA_PARENT"
THREADS = "OMP_NUM_THREADS"
_GOES_ON = "the same command goes on from the last checkpoint"
# What torchrun would ask of whoever starts the same on several nodes.
MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def add_processes_options(parser: ArgumentParser) -> None:
    """Add the options of commands that several processes can do together."""
    group = parser.add_argument_group("processes")
    group.add_argument(
        "--devices",
        type=int,
        default=0,
        metavar="N",
        help="GPUs, or processes on a CPU, that divide every batch, on each node (default: 1, or those that torchrun "
        "or srun started)",
    )
    group.add_argument(
        "--num-nodes",
        type=int,
        default=0,
        metavar="M",
        help="machines; the same command is started on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK in the "
        "environment, unless torchrun or srun starts it (default: 1)",
    )


def begin(command: str, arguments: Sequence[str], options: Namespace, config: "RunConfig") -> int | None:
    """Start a command in as many processes as were asked for, wait for them, and return their exit status.

    None where this process does the work itself: alone, or as one of several that were started already.
    """
    devices, nodes = _asked(options)
    if devices * nodes == 1 or place() is not None:
        return None
    _check_devices(devices, config.device)
    return _Launch(devices, nodes).run([command, *arguments])


@dataclass(frozen=True)
class Joined:
    """This process among those of a command: which ones there are, and where it reports how far it is."""

    ranks: "Ranks"
    progress: "Progress"


def join(options: Namespace, config: "RunConfig") -> Joined:
    """Meet the other processes of a command."""
    from tombola.core.progress import Silent, progress_on
    from tombola.core.ranks import ALONE, ranks_of

    devices, nodes = _asked(options)
    if devices * nodes == 1:
        return Joined(ALONE, progress_on(sys.stderr))
    _check_devices(devices, config.device)
    ranks = ranks_of(_fabric(devices, nodes, config.device))
    return Joined(ranks, progress_on(sys.stderr) if ranks.leads else Silent())


def _asked(options: Namespace) -> tuple[int, int]:
    """Return how many processes there are to be on each of how many nodes."""
    found: list[int] = []
    started = place()
    there = (started.devices, started.nodes) if started else (1, 1)
    for name, given, by in zip(("devices", "num_nodes"), (options.devices, options.num_nodes), there, strict=True):
        if given < 0:
            raise UsageError(f"must be at least 1, got {given}", option=name)
        if started and given not in (0, by):
            raise UsageError(f"must be {by}, as torchrun or srun started it, got {given}", option=name)
        found.append(given or by)
    return found[0], found[1]


def _check_devices(devices: int, device: str) -> None:
    import torch

    if ":" in device:
        raise UsageError(f"must be cuda, without a number, where devices is {devices}, got {device}", option="device")
    count = torch.cuda.device_count()
    if _accelerator(device) == "cuda" and devices > count:
        raise UsageError(f"must be at most {count}, the number of CUDA devices here, got {devices}", option="devices")


def _accelerator(device: str) -> str:
    import torch

    return "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"


def _fabric(devices: int, nodes: int, device: str) -> Any:
    import torch.distributed
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # which tells each process its number
    if PARENT in os.environ:
        from tombola.process import end_with

        end_with(int(os.environ[PARENT]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")
        fabric = Fabric(accelerator=_accelerator(device), devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    # Threads of gloo left to the end of Python may end the process by SIGABRT; of NCCL Fabric takes leave itself.
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        atexit.register(torch.distributed.destroy_process_group)
    return fabric


@dataclass(frozen=True)
class _Launch:
    """Starts processes as torchrun does, by PyTorch's own agent, which ends all of them where one fails."""

    devices: int
    nodes: int

    def run(self, arguments: Sequence[str]) -> int:
        """Start `tombola ARGUMENTS` and return the exit status."""
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says, is said below
        alive.end()
        environment = dict(os.environ)
        self._set_environment()
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            elastic_launch(self._how(), sys.executable)("-m", "tombola", *arguments)
        except ChildFailedError as error:
            return _ended({rank: failure.exitcode for rank, failure in error.failures.items()})
        except SignalException as error:
            raise KeyboardInterrupt(int(error.sigval)) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for name in (PARENT, THREADS):
                os.environ.pop(name, None)
                os.environ.update({name: environment[name]} if name in environment else {})
        return 0

    def _how(self) -> Any:
        from torch.distributed.launcher.api import LaunchConfig

        common: dict[str, Any] = {
            "min_nodes": self.nodes,
            "max_nodes": self.nodes,
            "nproc_per_node": self.devices,
            "run_id": f"tombola-{os.getpid()}",
            "max_restarts": 0,
            "monitor_interval": 0.1,
        }
        if self.nodes == 1:
            return LaunchConfig(**common, rdzv_backend="c10d", rdzv_endpoint="localhost:0")
        missing = [name for name in MEETING if not os.environ.get(name)]
        if missing:
            raise UsageError(
                f"takes {', '.join(missing)} in the environment, which say where the {self.nodes} nodes meet and which "
                "one this is, unless torchrun or srun starts the command on all of them",
                option="num_nodes",
            )
        address, port, rank = (os.environ[name] for name in MEETING)
        return LaunchConfig(
            **{**common, "run_id": "tombola"},
            rdzv_backend="static",
            rdzv_endpoint=f"{address}:{port}",
            rdzv_configs={"rank": int(rank)},
        )

    def _set_environment(self) -> None:
        from tombola.runs.config.run import default_threads

        # The agent would set it to 1.
        os.environ.setdefault(THREADS, str(max(1, default_threads() // self.devices)))
        os.environ[PARENT] = str(os.getpid())


def _ended(exits: dict[int, int]) -> int:
    """Return the exit status of processes of which some failed; raises TombolaError where none said why."""
    said = [status for _, status in sorted(exits.items()) if status > 0]
    killed = [(rank, -status) for rank, status in sorted(exits.items()) if status < 0 and -status != signal.SIGTERM]
    if killed:
        rank, number = killed[0]
        raise TombolaError(
            f"process {rank} was killed ({signal.Signals(number).name}), and the others were ended; {_GOES_ON}"
        )
    if not said:
        raise TombolaError(f"a process was ended, and the others with it; {_GOES_ON}")
    return said[0]
