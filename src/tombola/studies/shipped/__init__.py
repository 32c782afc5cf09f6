"""Studies that come with the package, as YAML files."""

from importlib.resources import files
from pathlib import Path


def study_names() -> list[str]:
    """Return their names, which files have without their ending."""
    entries = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in entries if name.endswith(".yaml"))


def path_of(name: str) -> Path:
    """Return the file of one of them."""
    return Path(str(files(__name__) / f"{name}.yaml"))
