"""Plain modules, built for the shape of the data; models by name."""

from tombola.models.registry import MODELS, build, builder, imported, source
from tombola.models.weights import load_into, read_weights, unshared, write_weights

__all__ = [
    "MODELS",
    "build",
    "builder",
    "imported",
    "load_into",
    "read_weights",
    "source",
    "unshared",
    "write_weights",
]
