"""Workers on a Ray cluster: one that runs, or one that is started on this machine."""

import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tombola.core.progress import Progress
from tombola.errors import UsageError
from tombola.studies.engines.base import check_jobs, watch
from tombola.studies.graph import Graph
from tombola.studies.study import Resources
from tombola.studies.worker import Finished, work_below

# A worker that is lost with its machine is started on another so many times.
RETRIES = 100
# Whoever listens at an address answers within so many seconds.
REACH_SECONDS = 10.0
_HOST_AND_PORT = re.compile(r"[^:/\s]+:\d+")


@dataclass(frozen=True)
class OnRay:
    """Workers of equal resources, as many as the cluster has room for, or `jobs`.

    address: of a running cluster, as `ray.init` takes it; without one a cluster of this machine is started, which ends
    with this process. Raises UsageError for fewer jobs than one.
    """

    address: str = ""
    jobs: int | None = None
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if self.jobs is not None:
            check_jobs(self.jobs)

    @property
    def workers(self) -> int | None:
        """How many work at a time."""
        return self.jobs

    def threads(self, resources: Resources) -> int:
        """Return the CPUs of a task."""
        return resources.cpus

    def run(self, tasks: Graph, board: Progress) -> Iterator[Finished]:
        """Yield tasks as they come to their ends; one that has lost its worker goes on from its checkpoint."""
        ray = _ray()
        asked = self.resources
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, self.address)
        try:
            options: dict[str, Any] = {"num_cpus": asked.cpus, "num_gpus": asked.gpus, "max_retries": RETRIES}
            if asked.memory is not None:
                options["memory"] = asked.memory
            remote = ray.remote(**options)(work_below)
            waiting = [
                remote.remote(str(tasks.out.resolve()), tasks.study, list(sys.path)) for _ in range(self._workers(ray))
            ]
            yield from watch(tasks, board, lambda: _any_left(ray, waiting))
            for worker in waiting:
                ray.cancel(worker, force=True)
        finally:
            if mine:
                ray.shutdown()

    def _workers(self, ray: Any) -> int:
        there = ray.cluster_resources()
        wanted = {"CPU": self.resources.cpus, "GPU": self.resources.gpus, "memory": self.resources.memory or 0}
        room = min(int(there.get(kind, 0) // amount) for kind, amount in wanted.items() if amount)
        if not room:
            raise UsageError(f"must fit into the cluster, which has {there}", option="resources")
        return self.jobs or room


def _any_left(ray: Any, waiting: list[Any]) -> bool:
    """Whether some worker still works; raises what one of them raised."""
    ended, left = ray.wait(waiting, num_returns=len(waiting), timeout=0)
    ray.get(ended)
    return bool(left)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError('ray needs a package: pip install "tombola[ray]"', option="engine") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    _check_reached(address)
    try:
        ray.init(address=address or None, log_to_driver=False, include_dashboard=False if not address else None)
    except (ConnectionError, ValueError) as error:
        raise _unreached(address, error) from None


def _check_reached(address: str) -> None:
    """Raise UsageError for a host and port at which nobody listens, where Ray itself tries for many minutes."""
    if _HOST_AND_PORT.fullmatch(address) is None:
        return
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # the latter two for ports and names that there cannot be
        raise _unreached(address, error) from None


def _unreached(address: str, error: Exception) -> UsageError:
    return UsageError(f"no cluster can be reached at {address!r}: {error}", option="address")
