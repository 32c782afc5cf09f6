"""Compare the runs below two directories to the bit: masks, scores, weights, metrics and figures, all but seconds.

usage: python -m scripts.results.equal ONE OTHER

Says how many runs are equal, and names those that differ or lie in one of the two alone; then the exit status is 1.
"""

import json
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

# Tensors are compared as they were written; what files of tickets say beside them holds seconds.
TENSORS = ("ticket.safetensors", "scores.safetensors", "start.safetensors", "weights.safetensors")


def content(run: Path) -> dict[str, Any]:
    """Return what a run found, as values that are equal where it is."""
    found: dict[str, Any] = {name: tensors(run / name) for name in TENSORS}
    found["metrics.jsonl"] = (run / "metrics.jsonl").read_text()
    found["result.json"] = without_seconds(json.loads((run / "result.json").read_text()))
    return found


def tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Return a file's tensors by name, as bytes."""
    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated
    return {name: (str(array.dtype), list(array.shape), array.tobytes()) for name, array in arrays.items()}


def without_seconds(values: Any) -> Any:
    """Return values without those that measure time."""
    if isinstance(values, dict):
        return {key: without_seconds(value) for key, value in values.items() if "seconds" not in key}
    return values


def runs(out: Path) -> dict[str, Path]:
    """Return the finished runs below a directory, by name."""
    return {path.parent.name: path.parent for path in out.glob("[!.]*/result.json")}


def main(one: str, other: str) -> int:
    """Compare and return the exit status."""
    first, second = runs(Path(one)), runs(Path(other))
    both = sorted(first.keys() & second.keys())
    differing = []
    for name in both:
        mine, theirs = content(first[name]), content(second[name])
        differing += [f"{name}: {', '.join(key for key in mine if mine[key] != theirs[key])}"] * (mine != theirs)
    print(f"{len(both) - len(differing)} of {len(first | second)} runs are equal")
    for line in differing:
        print(f"differs: {line}")
    for name in sorted(first.keys() ^ second.keys()):
        print(f"in one alone: {name}")
    return 0 if both and not differing and first.keys() == second.keys() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
