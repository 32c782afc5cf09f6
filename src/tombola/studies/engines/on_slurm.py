"""Workers as an array of Slurm jobs, by submitit; nothing has to stay running where they are submitted."""

import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tombola.core.progress import Progress
from tombola.errors import UsageError
from tombola.storage import stopping
from tombola.studies.graph import Graph
from tombola.studies.manifest import STUDY
from tombola.studies.study import Resources, memory_bytes
from tombola.studies.worker import Finished, work_below

# Slurm's signal comes so many seconds before a job's time is over; a checkpoint may take most of them.
SIGNAL_SECONDS, GRACE_SECONDS = 120, 60
# Jobs whose time is over are queued again, for as long as it takes.
_ALWAYS = 1_000_000
_OPTIONS = ("partition", "time", "parallel", "gpus", "cpus", "memory", "account", "qos", "constraint")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class SlurmOptions:
    """What the jobs ask for: minutes, workers at a time, GPUs, CPUs and bytes each; further words for sbatch."""

    minutes: int
    parallel: int = 1
    gpus: int = 0
    cpus: int = 1
    memory: int | None = None
    further: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str, resources: Resources) -> "SlurmOptions":
        """Return what "partition=gpu,time=4:00:00,parallel=8,gpus=1" means, a study's resources where it says nothing.

        Raises UsageError for anything else.
        """
        given = dict(pair.partition("=")[::2] for pair in text.split(",") if pair.strip())
        given = {key.strip(): value.strip() for key, value in given.items()}
        strange = [key for key, value in given.items() if key not in _OPTIONS or not value]
        if strange or "time" not in given:
            allowed = ", ".join(_OPTIONS)
            raise UsageError(f"must have time=, and may have values of {allowed}, got {text!r}", option="slurm")
        memory = _memory(given["memory"]) if "memory" in given else resources.memory
        if resources.gpus % 1 and "gpus" not in given:
            raise UsageError(f"must say gpus=, since Slurm has no {resources.gpus} of one", option="slurm")
        return cls(
            minutes=_minutes(given["time"]),
            parallel=_number(given, "parallel", 1, 1),
            gpus=_number(given, "gpus", int(resources.gpus), 0),
            cpus=_number(given, "cpus", resources.cpus, 1),
            memory=memory,
            further={key: given[key] for key in ("partition", "account", "qos", "constraint") if key in given},
        )

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the same as submitit calls it."""
        asked: dict[str, Any] = {
            **self.further,
            "job_name": f"tombola-{name}",
            "time": self.minutes,
            "cpus_per_task": self.cpus,
            "array_parallelism": self.parallel,
            "signal_delay_s": SIGNAL_SECONDS,
            # Also jobs whose node is lost are queued again.
            "additional_parameters": {"requeue": True},
        }
        if self.gpus:
            asked["gpus_per_node"] = self.gpus
        if self.memory is not None:
            asked["mem"] = f"{-(-self.memory // 10**6)}MB"
        return asked


def _number(given: Mapping[str, str], key: str, default: int, least: int) -> int:
    text = given.get(key, str(default))
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"must have a whole number of at least {least} as {key}, got {text}", option="slurm")
    return int(text)


def _memory(text: str) -> int:
    try:
        return memory_bytes(text)
    except UsageError as error:
        raise UsageError(f"memory {error.message}", option="slurm") from None


def _minutes(text: str) -> int:
    """Return the minutes that Slurm means by minutes, minutes:seconds, hours:minutes:seconds or days-hours:...

    Raises UsageError for anything else, and for a time that is over before a job has begun to work.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise UsageError(f"must have a time such as 30, 4:00:00 or 1-12:00:00, got {text}", option="slurm")
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"]:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        hours += 24 * int(found["days"])
    else:
        hours, minutes, seconds = (0, *parts, 0)[:3] if len(parts) < 3 else parts
    asked, least = 60 * hours + minutes + (seconds > 0), SIGNAL_SECONDS // 60
    if asked <= least:
        words = f"must have a time of more than {least} minutes, since jobs checkpoint {least} minutes before their end"
        raise UsageError(f"{words}, got {text}", option="slurm")
    return asked


@dataclass(frozen=True)
class OnSlurm:
    """Workers as the jobs of one array, each of which takes tasks until there are none."""

    options: SlurmOptions

    @property
    def workers(self) -> int:
        """How many work at a time."""
        return self.options.parallel

    def threads(self, resources: Resources) -> int:
        """Return the CPUs of a job."""
        return self.options.cpus

    def run(self, tasks: Graph, board: Progress) -> Iterator[Finished]:
        """Submit the workers; nothing is waited for, so that nothing is yielded: `tombola status` shows the rest."""
        submitit = _submitit()
        folder = tasks.out.resolve() / STUDY / "slurm"
        executor = submitit.SlurmExecutor(folder, max_num_timeout=_ALWAYS)
        executor.update_parameters(**self.options.parameters(tasks.out.resolve().name))
        worker = SlurmWorker(str(tasks.out.resolve()), tasks.study, list(sys.path))
        try:
            jobs = executor.map_array(worker, list(range(self.options.parallel)))
        except submitit.core.utils.FailedJobError as error:
            raise UsageError(f"sbatch refused it: {error}", option="slurm") from None
        board.say(f"submitted to Slurm: {', '.join(job.job_id for job in jobs)}; logs lie in {folder}")
        yield from ()


@dataclass
class SlurmWorker:
    """What a job runs; submitit queues it again when its time is over."""

    out: str
    study: str
    paths: list[str]

    def __call__(self, number: int) -> int:
        """Take tasks until there are none, or the job's time is over; return how many were done."""
        queue_again: Any = signal.getsignal(signal.SIGUSR2)

        def end(number: int, frame: FrameType | None) -> None:
            queue_again(signal.SIGUSR2, None)

        def stop(number: int, frame: FrameType | None) -> None:
            stopping.request()
            # Where no checkpoint is due for so long, the last one has to do.
            signal.signal(signal.SIGALRM, end)
            signal.alarm(GRACE_SECONDS)

        signal.signal(signal.SIGUSR2, stop)
        try:
            return work_below(self.out, self.study, self.paths)
        except stopping.Stopped:
            queue_again(signal.SIGUSR2, None)
            raise

    def checkpoint(self, number: int) -> Any:
        """Return what the job does when it is run again: the same, from the checkpoints that lie in the store."""
        return _submitit().helpers.DelayedSubmission(self, number)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError('slurm needs a package: pip install "tombola[slurm]"', option="engine") from None
    if shutil.which("sbatch") is None:
        raise UsageError("slurm needs sbatch, which is not on the path of this machine", option="engine")
    return submitit
