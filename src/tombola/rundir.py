"""What a run directory holds."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
import yaml

from tombola.config import RunConfig
from tombola.errors import UsageError
from tombola.models import write_weights
from tombola.store import write_bytes, write_json
from tombola.ticket import Ticket
from tombola.training import State
from tombola.version import __version__

# What a finished run directory holds; result.json is written last.
FILES = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    "scores.safetensors",
    "start.safetensors",
    "ticket.safetensors",
    "weights.safetensors",
)


def is_whole(directory: Path) -> bool:
    """Whether a run directory has every file of a finished run, and a ticket that can be read."""
    if not all((directory / name).is_file() for name in FILES):
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


def write_run(directory: Path, ticket: Ticket, start: State, trained: State, rows: list[dict[str, Any]]) -> None:
    """Write what was found: ticket and scores, the weights before and after its training, and all metrics."""
    ticket.save(directory / "ticket.safetensors")
    for name, tensors in (
        ("scores", ticket.scores or {}),
        ("start", start.tensors),
        ("weights", trained.tensors),
    ):
        write_weights(directory / f"{name}.safetensors", tensors)
    journal = "".join(json.dumps(row) + "\n" for row in rows)
    write_bytes(directory / "metrics.jsonl", journal.encode())
