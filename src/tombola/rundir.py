"""What a run directory holds."""

import json
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from tombola.config import RunConfig
from tombola.errors import UsageError
from tombola.identity import digest
from tombola.models import write_weights
from tombola.store import claim, write_bytes, write_json
from tombola.ticket import Ticket
from tombola.training import State
from tombola.version import __version__

# What a run directory holds once its ticket is drawn, what training adds (result.json is written last), and all.
_ALWAYS = ("config.yaml", "environment.json", "start.safetensors", "ticket.safetensors")
DRAWN = (*_ALWAYS, "scores.safetensors")
TRAINED = (*_ALWAYS, "metrics.jsonl", "weights.safetensors", "result.json")
FILES = tuple({*DRAWN, *TRAINED})


def check_out(out: Path) -> None:
    """Raise UsageError where run directories cannot lie."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; it must be a directory")


def claim_below(out: Path, identity: Mapping[str, Any]) -> Path:
    """Return the directory below `out` that belongs to an identity, made."""
    check_out(out)
    directory = out / digest(identity)[:16]
    try:
        claim(directory, identity)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written to: {error.strerror}") from error
    return directory


def is_whole(directory: Path, names: Collection[str]) -> bool:
    """Whether a run directory has the files of some names, and a ticket that can be read."""
    if not all((directory / name).is_file() for name in names):
        return False
    try:
        Ticket.load(directory / "ticket.safetensors")
    except UsageError:
        return False
    return True


def describe_run(directory: Path, config: RunConfig) -> None:
    """Write what is known at the start: the resolved configuration, and where it ran."""
    write_bytes(directory / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False).encode())
    write_json(
        directory / "environment.json",
        {
            "tombola": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "system": platform.system(),
            "processor": platform.machine(),
            "threads": config.threads,
        },
    )


def write_drawn(directory: Path, ticket: Ticket, start: State) -> None:
    """Write a ticket and its scores, and the weights that it is to be trained from."""
    ticket.save(directory / "ticket.safetensors")
    write_weights(directory / "scores.safetensors", ticket.scores or {})
    write_weights(directory / "start.safetensors", start.tensors)


def write_trained(
    directory: Path, start: State, trained: State, rows: list[dict[str, Any]], values: dict[str, Any]
) -> None:
    """Write the weights before and after a ticket's training, all metrics, and last the result."""
    write_weights(directory / "start.safetensors", start.tensors)
    write_weights(directory / "weights.safetensors", trained.tensors)
    journal = "".join(json.dumps(row) + "\n" for row in rows)
    write_bytes(directory / "metrics.jsonl", journal.encode())
    write_json(directory / "result.json", values)
