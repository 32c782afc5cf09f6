"""A ticket from a small encoder trained from scratch on texts of one's own, by the command line.

Needs `pip install tombola[transformers]`. Texts lie in a folder as train and test: .tsv, .csv, .jsonl or .parquet, a
column of texts and one of labels; here a made one. The tokenizer is trained on them, nothing is downloaded.
"""

import json
import random
import tempfile
from pathlib import Path

from tombola.cli.main import main as tombola

GOOD = ("moving", "funny", "bright", "warm", "clever")
BAD = ("dull", "noisy", "bleak", "cold", "clumsy")


def write(folder: Path, count: int = 400) -> None:
    """Write reviews whose label is that of most of their words."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, seed in (("train", 0), ("test", 1)):
        draw = random.Random(seed)
        lines = []
        for _ in range(count):
            label = draw.random() < 0.5
            words = [draw.choice(GOOD if (draw.random() < 0.8) == label else BAD) for _ in range(draw.randint(3, 15))]
            lines.append(json.dumps({"review": " ".join(words), "label": "good" if label else "bad"}))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")


def main(folder: Path, epochs: int = 6, steps: int = 100) -> None:
    """Draw a ticket of a twentieth of the weights, train it, and show it beside the dense network."""
    write(folder / "reviews")
    tombola(
        [
            "run", "--preset", "sst2-transformer", "--data-dir", str(folder / "reviews"), "--vocabulary", "400",
            "--model", "hf:bert:layers=2:width=32:heads=2", "--learning-rate", "0.003", "--epochs", str(epochs),
            "--steps", str(steps), "--density", "0.05", "--out", str(folder / "runs"),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
