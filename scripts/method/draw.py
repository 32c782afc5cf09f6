"""Draw the pictures of docs/method.md anew from the JSON files that the checks wrote.

usage: python scripts/method/draw.py docs/method
"""

import json
import sys
from pathlib import Path
from typing import Any

import balance
import divergences
import planted
from common import picture


def main(place: Path) -> None:
    """Draw all pictures of a directory."""

    def rows(name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((place / f"{name}.json").read_text())
        return found

    picture(place / "balance.svg", len(balance.PRESETS), lambda axes: balance.draw(axes, rows("balance")))
    picture(
        place / "divergences.svg", len(divergences.FIGURES), lambda axes: divergences.draw(axes, rows("divergences"))
    )
    picture(place / "planted.svg", 2, lambda axes: planted.draw(axes, rows("planted"), rows("enumerated")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
