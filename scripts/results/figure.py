"""Draw the overview of a comparison, as `--plot` does, from the JSON that `tombola compare --json` once printed.

Of the dense network such a file has the mean alone, so that its spread over seeds is not drawn.

usage: python -m scripts.results.figure RESULTS.json FILE.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

from tombola.studies.figures import check_picture, overview, write_figure
from tombola.studies.outcome import CellOutcome
from tombola.studies.reading.study import ReadCell, Study


def study_of(found: dict[str, Any], place: Path) -> Study:
    """Return a comparison as its table tells it: accuracies by seed, costs as means."""
    dense = found["dense_test_accuracy_mean"]
    return Study(place, tuple(outcome for row in found["rows"] for outcome in outcomes(row, dense)))


def outcomes(row: dict[str, Any], dense: float) -> list[CellOutcome]:
    """Return the cells of a row."""
    shared = {
        "dense_test_accuracy": dense,
        "kept": row["kept"],
        "prunable": round(row["kept"] / row["density"]),
        "cost": row["cost"],
        "dense_equivalents": row["cost"]["dense_equivalents"],
    }
    return [
        CellOutcome(ReadCell(row["finder"], row["density"], seed), {**shared, "test_accuracy": accuracy})
        for seed, accuracy in zip(row["seeds"], row["test_accuracies"], strict=True)
    ]


def main(source: Path, target: Path) -> None:
    """Read the table and draw."""
    check_picture(target)
    write_figure(overview(study_of(json.loads(source.read_text()), source.parent)), target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
