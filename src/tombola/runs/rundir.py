"""What a run directory holds, what it is called, and whether it is whole."""

import json
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from tombola.core.progress import Progress
from tombola.core.ranking import kept_scores
from tombola.core.selection import Density
from tombola.errors import TombolaError, UsageError
from tombola.networks.models import tensors_as_bytes
from tombola.runs.config import RunConfig
from tombola.storage import digests
from tombola.storage.files import digest_of, read_json_object, write_bytes, write_json, write_shared
from tombola.storage.identity import digest
from tombola.storage.store import CHECKPOINT_SECONDS, DiskStore, check_out, claim
from tombola.ticket import Ticket
from tombola.training import State
from tombola.version import __version__

# What a run directory holds once its ticket is drawn, what training adds (result.json is written last), and all.
_ALWAYS = ("config.yaml", "environment.json", "start.safetensors", "ticket.safetensors")
DRAWN = (*_ALWAYS, "scores.safetensors")
TRAINED = (*_ALWAYS, "metrics.jsonl", "weights.safetensors", "result.json")
FILES = tuple({*DRAWN, *TRAINED})
AUDITED = ("audit.json",)

# Below --out and beside the runs; patterns of names such as * do not find it.
STORE = ".store"
# In it: files that several runs have in common, by their content.
SHARED = "shared"


def store_below(out: Path, progress: Progress, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> DiskStore:
    """Return the store that the runs below `out` share."""
    return DiskStore(out / STORE, checkpoint_seconds, progress.say)


def run_name(finder: str, density: Density, seed: int) -> str:
    """Return the readable part of a run directory's name, such as cts-0.02-s0."""
    # A finder of the user's own may be called my_module:Name.
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", finder).strip("-")[:40] or "ticket"
    share = "by-layer" if isinstance(density, Mapping) else f"{density:.4g}"
    return f"{plain}-{share}-s{seed}"


def ticket_name(ticket: Ticket, seed: int) -> str:
    """Return the same for what is done with a ticket from a file; seed: of what is done."""
    return run_name(name_of_finder(ticket), ticket.density, seed)


def epoch_of(weights: Path | None) -> int | None:
    """Return the epoch that tickets are trained from at a run directory's weights, None where that is not known."""
    if weights is None or weights.name != "start.safetensors" or not (weights.parent / "identity.json").is_file():
        return None
    known = read_json_object(weights.parent / "identity.json").get("epoch")
    if isinstance(known, int):  # of a training alone, whose ticket may not say
        return known
    drawn = Ticket.load(weights.parent / "ticket.safetensors").provenance
    return {"init": 0, "rewind": drawn.epoch}.get(drawn.at) if drawn else None


def name_of_finder(ticket: Ticket) -> str:
    """Return what found a ticket, "ticket" where it does not say."""
    return str(ticket.provenance.finder["name"]) if ticket.provenance else "ticket"


def claim_below(out: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Return the directory below `out` that belongs to an identity, made; name: its readable part."""
    check_out(out)
    directory = out / f"{name}-{digest(identity)[:8]}"
    try:
        claim(directory, identity)
    except OSError as error:
        raise UsageError(f"out {out} cannot be written to: {error.strerror}", option="out") from error
    return directory


def is_whole(directory: Path, names: Collection[str]) -> bool:
    """Whether a run directory has the files of some names, each as it was written, and a ticket that can be read."""
    if digests.unsound(directory, names):
        return False
    try:
        Ticket.load(directory / "ticket.safetensors")
    except UsageError:
        return False
    return True


def say_damage(directory: Path, progress: Progress) -> None:
    """Say which files of a run that was finished are missing or damaged: they are made again."""
    try:
        known = digests.vouched(directory) or {}
    except TombolaError:
        known = {"result.json": digests.NAME}
    if known.get("result.json"):
        damaged = ", ".join(digests.unsound(directory, known)) or digests.NAME
        progress.say(f"{directory}: {damaged} missing or damaged; made again")


def describe_run(directory: Path, config: RunConfig, names: Collection[str], processes: int = 1) -> None:
    """Write what is known at the start: the files to come, the resolved configuration, and where it ran."""
    digests.begin(directory, names)
    environment = {
        "tombola": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": config.threads,
        **({"processes": processes} if processes > 1 else {}),
    }
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    written = {
        "config.yaml": write_bytes(directory / "config.yaml", text.encode()),
        "environment.json": write_json(directory / "environment.json", environment),
    }
    digests.seal(directory, written)


def write_ticket(directory: Path, ticket: Ticket, start: State) -> None:
    """Write a ticket, and the weights that it is to be trained from."""
    path = directory / "ticket.safetensors"
    ticket.save(path)
    # Runs of one seed start from the same weights, so that they share the file.
    content, pool = tensors_as_bytes(start.tensors), directory.parent / STORE / SHARED
    written = write_shared(directory / "start.safetensors", content, pool)
    digests.seal(directory, {"ticket.safetensors": digest_of(path), "start.safetensors": written})


def write_scores(directory: Path, ticket: Ticket) -> None:
    """Write what a ticket's weights were ranked by, in float32 where that tells them apart."""
    scores = {name: kept_scores(score) for name, score in (ticket.scores or {}).items()}
    written = write_bytes(directory / "scores.safetensors", tensors_as_bytes(scores))
    digests.seal(directory, {"scores.safetensors": written})


def write_trained(directory: Path, trained: State, rows: list[dict[str, Any]], values: dict[str, Any]) -> None:
    """Write the weights after a ticket's training, all metrics, and last the result."""
    journal = "".join(json.dumps(row) + "\n" for row in rows)
    written = {
        "weights.safetensors": write_bytes(directory / "weights.safetensors", tensors_as_bytes(trained.tensors)),
        "metrics.jsonl": write_bytes(directory / "metrics.jsonl", journal.encode()),
        "result.json": write_json(directory / "result.json", values),
    }
    digests.seal(directory, written)


def write_audit(directory: Path, values: Mapping[str, Any]) -> None:
    """Write what an audit found."""
    digests.begin(directory, AUDITED)
    digests.seal(directory, {"audit.json": write_json(directory / "audit.json", values)})


def read_metrics(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished run's journal."""
    with (directory / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_result(directory: Path, name: str = "result.json") -> dict[str, Any]:
    """Return what a run or an audit found; raises UsageError where the file is damaged."""
    path = directory / name
    try:
        found = read_json_object(path)
    except TombolaError as error:
        raise UsageError(str(error)) from None
    digests.check_digest(path)
    return found
