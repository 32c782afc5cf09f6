"""Prints the finished runs below a directory as one table: mean and sample standard deviation over seeds.

usage: python scripts/summarise.py OUT_DIR
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import yaml


def spread(values: list[float]) -> str:
    """Return mean ± sample standard deviation."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def main(out: Path) -> None:
    """Print the table."""
    cells: dict[tuple[str, ...], list[dict]] = defaultdict(list)
    dense: dict[int, dict] = {}
    for path in sorted(out.glob("*/result.json")):
        result = json.loads(path.read_text())
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        name = f"{config['finder']} {config['objective'] or ''}".strip() + f" at {config['draw_at']}"
        cells[f"{config['density']:.4%}", name, f"{result['kept']:,}"].append(result)
        dense[config["seed"]] = result
    print("| density | ticket | weights kept | test accuracy (%) | seeds |")
    print("| --- | --- | --- | --- | --- |")
    accuracies = spread([result["dense_test_accuracy"] for result in dense.values()])
    total = next(iter(dense.values()))["prunable"]
    print(f"| 100 % | dense | {total:,} | {accuracies} | {len(dense)} |")
    for (density, name, kept), results in sorted(cells.items(), key=lambda cell: (-float(cell[0][0][:-1]), cell[0][1])):
        accuracy = spread([result["test_accuracy"] for result in results])
        percent = density[:-1].rstrip("0").rstrip(".")
        print(f"| {percent} % | {name} | {kept} | {accuracy} | {len(results)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
