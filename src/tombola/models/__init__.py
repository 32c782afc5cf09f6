"""Models by name: plain modules, built for the shape of the data."""

from collections.abc import Callable

from torch import nn

from tombola.errors import UsageError
from tombola.models.lenet import lenet_300_100

MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {"lenet-300-100": lenet_300_100}


def build(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a freshly initialised model for inputs of `shape`; raises UsageError listing the known names."""
    if name not in MODELS:
        raise UsageError(f"--model {name!r} is unknown; allowed are {', '.join(MODELS)}")
    return MODELS[name](shape, classes)


__all__ = ["MODELS", "build"]
