"""Prints what `tombola compare --json` found as Markdown: one row for each density and finder.

A file of docs/results that joins the rows of several comparisons, by title, gives a table for each. "densities" has one
row for each finder and a column for each density, also of a table.csv, which holds fewer figures; "priced" puts the
work in dense trainings beside each accuracy.

usage: python scripts/results/table.py RESULTS.json [accuracy|objectives|dynamics|searches|densities|priced]
"""

import csv
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def spread(row: dict[str, Any]) -> str:
    """Return mean ± sample standard deviation."""
    std = row["test_accuracy_std"]
    return f"{row['test_accuracy_mean']:.2f}" + ("" if std is None else f" ± {std:.2f}")


def beside(row: dict[str, Any], first: dict[str, Any]) -> str:
    """Return what the first finder is beside a row's, where the file holds it."""
    found = first.get("differences", {}).get(row["finder"])
    return f"{found['verdict']} ({found['mean']:+.2f})" if found else ""


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print accuracies, cost and differences from the first finder."""
    leader = rows[0]["finder"]
    first = {row["density"]: row for row in rows if row["finder"] == leader}
    with_ltr = any(row["finder"] == "ltr" for row in rows)
    columns = ["density", "finder", "test accuracy (%)", "seconds", "dense trainings"]
    columns += ["LTR takes"] if with_ltr else []
    print("| " + " | ".join([*columns, f"{leader} beside it"]) + " |")
    print("| --- " * (len(columns) + 1) + "|")
    for row in rows:
        cost, speed = row["cost"], row["speed_up_over_ltr"]
        cells = [f"{100 * row['density']:.4g} %", row["finder"], spread(row)]
        cells += [f"{cost['seconds']:.1f}", f"{cost['dense_equivalents']:.1f}"]
        cells += ([f"{speed:.1f} times as long" if speed else ""]) if with_ltr else []
        print("| " + " | ".join([*cells, beside(row, first[row["density"]])]) + " |")


def print_objectives(rows: list[dict[str, Any]]) -> None:
    """Print the objective of each ticket before training, search and saliency side by side."""
    found = {(row["finder"].partition(":")[0], row["objective"]["name"], row["density"]): row for row in rows}
    print("| density | objective | ticket of its saliency | ticket of cts |\n| --- | --- | --- | --- |")
    for (finder, name, density), row in found.items():
        other = found.get(("saliency", name, density))
        if finder == "cts" and other:
            values = f"{other['objective']['hard']:.4g} | {row['objective']['hard']:.4g}"
            print(f"| {100 * density:.4g} % | {name} | {values} |")


def print_dynamics(rows: list[dict[str, Any]]) -> None:
    """Print KL and cosine at the start, in the middle and at the end of training."""
    at = "at the start | in the middle | at the end"
    print(f"| density | finder | KL {at} | cosine {at} |\n" + "| --- " * 8 + "|")
    for row in rows:
        trajectory = row["dynamics"]
        points = [trajectory[0], trajectory[len(trajectory) // 2], trajectory[-1]]
        cells = [f"{point[kind]:.3f}" for kind in ("kl", "cosine") for point in points]
        print(f"| {100 * row['density']:.4g} % | {row['finder']} | " + " | ".join(cells) + " |")


def print_searches(rows: list[dict[str, Any]]) -> None:
    """Print the objective on held-out data before training, and the accuracy after it."""
    print("| density | finder | objective, held out | test accuracy (%) |\n" + "| --- " * 4 + "|")
    for row in rows:
        values = row["objective"]["held_out_values"]
        held_out = f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
        cells = [f"{100 * row['density']:.4g} %", row["finder"], held_out, spread(row)]
        print("| " + " | ".join(cells) + " |")


def print_densities(rows: list[dict[str, Any]]) -> None:
    """Print the accuracies of each finder at every density."""
    densities = list(dict.fromkeys(row["density"] for row in rows))
    found = {(row["finder"], row["density"]): spread(row) + row.get("price", "") for row in rows}
    print("| finder | " + " | ".join(f"{100 * density:.4g} %" for density in densities) + " |")
    print("| --- " * (len(densities) + 1) + "|")
    for finder in dict.fromkeys(row["finder"] for row in rows):
        print(f"| {finder} | " + " | ".join(found.get((finder, density), "") for density in densities) + " |")


def print_priced(rows: list[dict[str, Any]]) -> None:
    """Print the accuracies of each finder at every density, and in brackets the work in dense trainings."""
    for row in rows:
        trainings = row["dense_equivalents"] if "dense_equivalents" in row else row["cost"]["dense_equivalents"]
        row["price"] = f" ({trainings:.1f})"
    print_densities(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table.csv, what are numbers as such."""
    with path.open(newline="") as file:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


TABLES = {
    "accuracy": print_rows,
    "objectives": print_objectives,
    "dynamics": print_dynamics,
    "searches": print_searches,
    "densities": print_densities,
    "priced": print_priced,
}


def main(path: Path, kind: str = "accuracy") -> None:
    """Print one table, or one for each part of a file that joins several comparisons."""
    content = {"rows": read_csv(path)} if path.suffix == ".csv" else json.loads(path.read_text())
    if "rows" in content:
        TABLES[kind](content["rows"])
        return
    for title, rows in content.items():
        print(f"{title}:\n")
        TABLES[kind](rows)
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
