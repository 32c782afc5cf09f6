"""The configuration of a run: one typed dataclass, from presets, YAML files and the command line."""

from tombola.config.densities import parse_density, parse_sparsity
from tombola.config.presets import STANDARD, load_preset, preset_names, recipe_names
from tombola.config.run import FINDER_OPTIONS, RunConfig, from_dict, from_values

__all__ = [
    "FINDER_OPTIONS",
    "STANDARD",
    "RunConfig",
    "from_dict",
    "from_values",
    "load_preset",
    "parse_density",
    "parse_sparsity",
    "preset_names",
    "recipe_names",
]
