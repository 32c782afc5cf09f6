"""Accuracy against latency: every ticket of a study in its fastest exact form, beside the dense network.

A ticket's network is measured by `tombola deploy` as it is (masked), compacted, and accelerated, on one thread; seeds
of one finder and density are averaged. --seeds 1 measures the first seed alone, for accuracies too.

usage: python -m scripts.results.latency STUDY_DIR FILE.json FILE.svg [--batch 64] [--seconds 1] [--seeds N]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import pandas as pd
import yaml
from matplotlib import pyplot as plt

from tombola.core.parts import written_name
from tombola.runs.config import from_dict
from tombola.studies import read
from tombola.studies.figures.style import COLOURS

mpl.rcParams.update({"svg.hashsalt": "tombola", "font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False})


def deployed(run: Path, batch: int, seconds: int) -> list[dict[str, Any]]:
    """Return what was measured of a run's network, a row for each form that could be built: name, milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "tombola", "deploy", str(run), "--out", folder, "--threads", "1", "--json"]
        words += ["--seconds", str(seconds)]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    rows = (row for row in json.loads(printed)["rows"] if "why_not" not in row)
    return [
        {
            "network": row["network"],
            "form": f"{row['network']}, {row['runtime']}",
            "milliseconds": time["latency_ms"],
            "bytes": row["bytes"],
        }
        for row in rows
        for time in row["times"]
        if time["batch"] == batch and time["threads"] == 1
    ]


def granularity_of(run: Path) -> str:
    """Return the granularity of a run's finder, of blocks with their shape."""
    finder = from_dict(yaml.safe_load((run / "config.yaml").read_text())).finder
    part = getattr(finder, "granularity", None)
    return f"{written_name(part)} {getattr(part, 'shape', '')}".strip()


def measured(study: Path, batch: int, seconds: int, seeds: int | None) -> list[dict[str, Any]]:
    """Return a row for each finder and density: accuracies, and the fastest forms of ticket and dense network."""
    cells = read(study).cells
    chosen = sorted(set(cells.seed))[:seeds]
    found = []
    for cell in cells[(cells.state == "finished") & cells.seed.isin(chosen)].itertuples():
        forms = deployed(study / str(cell.run), batch, seconds)
        print(f"{cell.run}: {len(forms)} forms", file=sys.stderr)
        tickets = [form for form in forms if form["network"] != "dense"]
        fastest = min(tickets, key=lambda form: form["milliseconds"])
        dense = min(form["milliseconds"] for form in forms if form["network"] == "dense")
        found.append(
            {
                "finder": cell.finder,
                "granularity": granularity_of(study / str(cell.run)),
                "density": cell.density,
                "accuracy": cell.test_accuracy,
                "dense_accuracy": cell.dense_test_accuracy,
                "milliseconds": fastest["milliseconds"],
                "dense_milliseconds": dense,
                "bytes": fastest["bytes"],
                "form": fastest["form"],
            }
        )
    groups = pd.DataFrame(found).groupby(["finder", "granularity", "density"], sort=False)
    rows = groups.mean(numeric_only=True).assign(
        std=groups.accuracy.std(), seeds=groups.size(), form=groups.form.agg(lambda forms: ", ".join(sorted({*forms})))
    )
    return json.loads(rows.reset_index().to_json(orient="records"))  # type: ignore[no-any-return]


def draw(rows: list[dict[str, Any]], batch: int, target: Path) -> None:
    """Draw accuracy over latency, divided by the dense network's in the same run.

    Granularities have colours, finders markers; the densities of one of both are joined.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    granularities = {row["finder"]: row["granularity"] for row in rows}
    kinds = list(dict.fromkeys(granularities.values()))
    finders = list(dict.fromkeys(row["finder"].split(":")[0] for row in rows))
    for name, kind in granularities.items():
        own = (row for row in rows if row["finder"] == name)
        points = sorted((row["milliseconds"] / row["dense_milliseconds"], row["accuracy"]) for row in own)
        finder = name.split(":")[0]
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[kinds.index(kind)],
            marker="osDP^v"[finders.index(finder) % 6],
            markersize=4,
            linewidth=0.8,
            label=f"{finder}, {kind}",
        )
    accuracy = pd.DataFrame(rows).dense_accuracy.mean()
    axes.plot(1.0, accuracy, "k*", markersize=9, label="dense")
    axes.set_xscale("log")
    axes.set(xlabel=f"time for {batch} samples on one thread, dense: 1", ylabel="test accuracy (%)")
    axes.legend(frameon=False, fontsize=7, ncols=2)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


def main() -> None:
    """Measure, write the figures, and draw."""
    parser = argparse.ArgumentParser(prog="python -m scripts.results.latency", description="Accuracy against latency.")
    parser.add_argument("study", type=Path, help="directory of a study")
    parser.add_argument("figures", type=Path, help="file to write, .json")
    parser.add_argument("picture", type=Path, help="file to draw, .svg, .pdf or .png")
    parser.add_argument("--batch", type=int, default=64, choices=(1, 64), help="samples at once")
    parser.add_argument("--seconds", type=int, default=1, help="for each setting of each run")
    parser.add_argument("--seeds", type=int, help="measure only so many, the first ones (default: all)")
    asked = parser.parse_args()
    rows = measured(asked.study, asked.batch, asked.seconds, asked.seeds)
    asked.figures.write_text(json.dumps(rows, indent=2) + "\n")
    draw(rows, asked.batch, asked.picture)


if __name__ == "__main__":
    main()
