"""The presets that come with the package, and their recipes."""

from importlib.resources import files
from typing import Any

import yaml

from tombola.errors import UsageError, did_you_mean

# The recipe that every preset has: the preset's own values.
STANDARD = "standard"


def preset_names() -> list[str]:
    """Return the presets that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in (files("tombola") / "presets").iterdir()
        if entry.name.endswith(".yaml")
    )


def load_preset(name: str, recipe: str = STANDARD) -> dict[str, Any]:
    """Return the values of a preset under one of its recipes; raises UsageError listing what there is."""
    if name not in preset_names():
        hint = did_you_mean(name, preset_names())
        raise UsageError(f"{name!r} is unknown; allowed are {', '.join(preset_names())}{hint}", option="preset")
    values = _read_preset(name)
    recipes = {STANDARD: {}, **values.pop("recipes", {})}
    if recipe not in recipes:
        words = f"{recipe!r} is not one of the preset {name}; allowed are {', '.join(recipes)}"
        raise UsageError(f"{words}{did_you_mean(recipe, recipes)}", option="recipe")
    found: dict[str, Any] = values | recipes[recipe]
    return found


def recipe_names() -> list[str]:
    """Return the recipes that some preset has."""
    names = {recipe for name in preset_names() for recipe in _read_preset(name).get("recipes", {})}
    return [STANDARD, *sorted(names)]


def _read_preset(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((files("tombola") / "presets" / f"{name}.yaml").read_text())
    return found
