"""Curves that the authors of arXiv 2512.07142 published, for studies of the same networks and data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from tombola.core.parts import called
from tombola.studies.figures.style import COLOURS, DASHES, FAMILIES, OWN, family_of
from tombola.studies.reading import Study
from tombola.studies.reading.questions import base_name

_DATA = "cifar10"
# No file of theirs holds a search by the reverse KL, our default; the forward one is the nearest that is published.
_NEAREST = {"reverse-kl": "forward-kl"}
# What a search goes by where nothing is said: at the initial weights there is no dense network to be like.
_DEFAULT = {"init": "loss"}


@dataclass(frozen=True)
class Curve:
    """A published curve. points: weights kept in percent, mean test accuracy and its deviation over runs."""

    label: str
    colour: str
    dash: str
    points: tuple[tuple[float, float, float], ...]


def published_curves(study: Study) -> list[Curve]:
    """Return the published curves of the finders of a study; none unless its network and data are the paper's."""
    found: dict[str, Curve] = {}
    known: Mapping[str, Mapping[str, Any]] | None = None
    for label, config in study.configurations.items():
        if called(config.get("data")) != _DATA or config.get("image_size") or config.get("train_samples"):
            continue
        if known is None:
            known = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))["curves"]
        curves = known.get(called(config.get("model")), {})
        for name in (name for name in curves if _belongs(name, label, config)):
            colour = COLOURS[[*FAMILIES, OWN].index(family_of(label))]
            points = tuple((float(kept), float(mean), float(std)) for kept, mean, std in curves[name])
            found.setdefault(name, Curve(name, colour, DASHES[len(found) % len(DASHES)], points))
    return list(found.values())


def _belongs(name: str, label: str, config: Mapping[str, Any]) -> bool:
    finder, place = called(config.get("finder")) or base_name(label), str(config.get("draw_at"))
    if finder in ("ltr", "imp"):
        return name.startswith("ltr ")
    if finder != "cts":
        return name == f"{finder}@{place}"
    settings = config.get("finder")
    asked = called(settings.get("objective")) if isinstance(settings, Mapping) else ""
    objective = asked or _DEFAULT.get(place, "reverse-kl")
    return name == f"cts {_NEAREST.get(objective, objective)} @{place}"
