"""Directories of comparisons that no network was trained for: as many finders as a test wants, and cells missing."""

import json
import random
import zlib

import torch
import yaml

from tombola import Ticket
from tombola.storage.files import write_json
from tombola.studies import manifest
from tombola.studies.manifest import CellEntry

LAYERS = {"conv.weight": (8, 3, 3), "fc.weight": (10, 20)}
TOTAL = 8 * 9 + 200
DENSE = 92.0


def result(finder, density, accuracy, seconds=60.0, dense=DENSE, work=2.0, kept=None):
    return {
        "finder": finder, "density": density, "kept": sum((kept or {"w": 27}).values()), "prunable": TOTAL,
        "kept_by_layer": kept or {"w": 27}, "test_accuracy": accuracy, "test_loss": 0.3, "dense_test_accuracy": dense,
        "dense_test_loss": 0.2, "cost": {"seconds": seconds, "forward": 100, "backward": 50}, "seconds": seconds,
        "dense_equivalents": work, "seconds_by_stage": {"draw": seconds}, "warnings": [], "objective": {},
    }  # fmt: skip


def metrics(epochs=3, search=True):
    rows = [
        {"stage": stage, "epoch": epoch, "loss": 1 / epoch, "held_out_metric": 0.5 + 0.1 * epoch}
        for stage in ("dense training", "ticket training")
        for epoch in range(1, epochs + 1)
    ]
    steps = [
        {"stage": "search", "step": step, "objective": 2 - step / 50, "expected_density": 0.1, "entropy": 0.1,
         "multiplier": step / 10}
        for step in (0, 20, 40)
    ]  # fmt: skip
    return rows + steps * search


def ticket(density, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(shape, generator=generator) < density for name, shape in LAYERS.items()}
    masks["fc.weight"][0, 0] = True
    return Ticket(masks)


def write_run(out, label, density, seed, accuracy, tickets=True, options=None, **more):
    name = f"run-{zlib.crc32(f'{label} {density}'.encode())}-s{seed}"
    (out / name).mkdir()
    drawn = ticket(density, seed + len(label))
    if tickets:
        drawn.save(out / name / "ticket.safetensors")
    write_json(out / name / "result.json", result(label, density, accuracy, kept=drawn.kept_by_layer, **more))
    (out / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()))
    write_json(out / name / "environment.json", {"tombola": "0.1.0", "torch": "2.9"})
    config = {"data": "digits", "model": "lenet-300-100", "finder": {"name": label.split(":")[0]}, "draw_at": "rewind"}
    config |= options or {}
    (out / name / "config.yaml").write_text(yaml.safe_dump({**config, "density": density, "seed": seed}))
    return name


def study(out, finders, densities=(0.2, 0.05, 0.02), seeds=3, missing=(), failed=(), tickets=True):
    """Write a comparison; missing, failed: (finder, density, seed) of cells without a result."""
    out.mkdir(exist_ok=True)
    noise = random.Random(0)
    entries = []
    for seed in range(seeds):
        for density in densities:
            for place, label in enumerate(finders):
                cell = label, density, seed
                entry = CellEntry(*cell, failure="SearchError: it broke" if cell in failed else "")
                if cell not in failed and cell not in missing:
                    # The last finders are at chance, wherever they are.
                    lost = 60 if place > 2 and place >= len(finders) - 3 else place * 0.4 + 3 * (1 - density)
                    accuracy = DENSE - lost + noise.gauss(0, 0.3)
                    more = {"seconds": 30.0 + 20 * place, "work": 1 + 0.3 * place, "tickets": tickets}
                    entry = CellEntry(*cell, run=write_run(out, *cell, accuracy, **more))
                entries.append(entry)
    manifest.write(out, entries, ["compare", "--out", str(out)])
    return out
