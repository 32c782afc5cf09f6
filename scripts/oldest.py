"""Print the oldest version of each dependency that pyproject.toml allows, as pins."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def pins() -> list[str]:
    """Return a pin for each dependency with a lower bound."""
    bounds = (re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", each) for each in PROJECT["dependencies"])
    return [f"{bound[1]}=={bound[2]}.*" for bound in bounds if bound]


if __name__ == "__main__":
    print("\n".join(pins()))
