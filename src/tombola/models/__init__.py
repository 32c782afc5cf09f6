"""Plain modules, built for the shape of the data; models by name."""

from tombola.models.registry import MODELS, build, builder, imported, source

__all__ = ["MODELS", "build", "builder", "imported", "source"]
