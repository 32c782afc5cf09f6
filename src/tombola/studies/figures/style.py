"""How finders look: a family by its colour, a single finder by its marker and dash, also in grey."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tombola.studies.reading.questions import base_name

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "searches for masks": ("cts", "joint", "continuous-sparsification", "edge-popup", "gem-miner"),
    "trains and prunes": ("ltr", "lrr", "imp", "gradual"),
    "scores once or in rounds": (
        "snip", "grasp", "grasp-magnitude", "synflow", "force", "prospr", "saliency", "fisher", "fisher-taylor",
        "hutchinson", "hutchinson-taylor",
    ),
    "sizes and chance": ("magnitude", "random"),
    "trains under a moving mask": ("ac-dc", "rigl", "set", "granet"),
}  # fmt: skip
OWN = "of one's own"

# From Okabe and Ito's colours, which the colour-blind tell apart; none too pale for white paper nor too dark for black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8860b", "#cc79a7", "#4b9cd3", "#8c564b", "#7a68b3")
DENSE = "#808080"
MARKERS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "triangle-down", "star", "pentagon", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Style:
    """colour: #rrggbb. marker: one of MARKERS. dash: one of DASHES. family: in words."""

    colour: str
    marker: str
    dash: str
    family: str


def family_of(label: str) -> str:
    """Return the family of a finder as it was asked for; of a label in words, of the finder that it begins with."""
    name = base_name(label)
    if not name.partition(":")[2]:
        name = re.split(r"[\s,;(]", name.strip(), maxsplit=1)[0].lower()
    return next((family for family, names in FAMILIES.items() if name in names), OWN)


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Return a look for each finder: no two of up to fifty have the same marker and dash, which is what grey leaves.

    Where all are of one family, colours go to finders instead, or, of one finder, to its first settings.
    """
    groups = _groups(labels)
    names = list(dict.fromkeys(groups.values()))
    fixed = [*FAMILIES, OWN]
    found: dict[str, Style] = {}
    for number, label in enumerate(labels):
        group = groups[label]
        colour = COLOURS[(fixed if group in fixed else names).index(group) % len(COLOURS)]
        marker, dash = number % len(MARKERS), (number + number // len(MARKERS)) % len(DASHES)
        found[label] = Style(colour, MARKERS[marker], DASHES[dash], group)
    return found


def _groups(labels: Sequence[str]) -> dict[str, str]:
    for group_of in (family_of, base_name, _first_setting):
        groups = {label: group_of(label) for label in labels}
        if len(set(groups.values())) > 1:
            break
    return groups


def _first_setting(label: str) -> str:
    rest = label.removeprefix(base_name(label)).removeprefix(":")
    return rest.split(":")[0].strip() or "by default"


def shortened(label: str, most: int = 26) -> str:
    """Return a label of at most so many characters, cut in its middle."""
    if len(label) <= most:
        return label
    head = (most - 1) * 2 // 3
    return f"{label[:head]}…{label[head + 1 - most :]}"
