"""A ticket from a ResNet on photographs of one's own, of any size, in class folders, by the command line.

train and test hold a folder a class. Small ones fit in memory (`--data folder`, as here, decoded once); `--data images`
leaves them in their files, for worker processes to decode.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tombola.cli.main import main as tombola

COLOURS = {"sea": (30, 90, 160), "wood": (40, 110, 50), "sand": (200, 170, 110)}


def write(folder: Path, count: int = 40) -> None:
    """Write pictures of noise about the colour of their class, every one of another size."""
    for part, seed in (("train", 0), ("test", 1)):
        draw = np.random.default_rng(seed)
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                size = tuple(draw.integers(40, 90, 2))
                pixels = np.clip(draw.normal(colour, 60, (*size, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.jpg")


def main(folder: Path, data: str = "folder", epochs: int = 3, steps: int = 60, count: int = 40) -> None:
    """Draw a ticket of a tenth of the weights, train it, and show it beside the dense network."""
    write(folder / "photographs", count)
    tombola(
        [
            "run", "--preset", "photos-resnet18", "--data", data, "--data-dir", str(folder / "photographs"),
            "--model", "resnet20:width=8", "--image-size", "32", "--epochs", str(epochs), "--steps", str(steps),
            "--density", "0.1", "--batch-size", "24", "--out", str(folder / "runs"),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
