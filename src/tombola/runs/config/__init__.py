"""The configuration of a run: one typed dataclass, from presets, YAML files and the command line."""

from tombola.runs.config.densities import density_list, density_words, parse_density, parse_sparsity
from tombola.runs.config.layers import (
    ShortForm,
    built,
    from_dict,
    lay_over,
    path_of,
    preset_named,
    settled,
    short_forms,
    start,
)
from tombola.runs.config.presets import STANDARD, load_preset, preset_names, recipe_names
from tombola.runs.config.run import RunConfig

__all__ = [
    "STANDARD",
    "RunConfig",
    "ShortForm",
    "built",
    "density_list",
    "density_words",
    "from_dict",
    "lay_over",
    "load_preset",
    "parse_density",
    "parse_sparsity",
    "path_of",
    "preset_named",
    "preset_names",
    "recipe_names",
    "settled",
    "short_forms",
    "start",
]
