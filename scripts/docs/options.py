"""Write docs/options.md: every part with its options, made from the parts themselves.

usage: python -m scripts.docs.options [FILE]
"""

import inspect
import sys
from pathlib import Path
from typing import Any

from tombola.core.allocation import ALLOCATIONS
from tombola.core.concrete import RELAXATIONS
from tombola.core.controllers import CONTROLLERS
from tombola.core.granularity import GRANULARITIES
from tombola.core.parts import allowed_words, flag_of, is_part, kinds, options_of, written_name
from tombola.data import DATASETS
from tombola.finders import FINDERS
from tombola.networks.models import MODELS
from tombola.networks.task import TASKS
from tombola.objectives import OBJECTIVES
from tombola.runs.config import RunConfig
from tombola.trackers import TRACKERS
from tombola.training import OPTIMIZERS, Recipe

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
HEAD = """# Options

Made by `python -m scripts.docs.options` from the parts' own fields; a test holds this page to them.

A part is written as its name with settings behind colons, on the command line, in files and in Python:
`cts:steps=500:controller=gradbalance:momentum=0.95`. A setting belongs to the part named last that has such an option,
else to the parts around it, else to a part within; a value with colons of its own stands in brackets. `MODULE:NAME` in
place of a name is a part of your own ([how](extending.md)). Options of finders and of the training have short forms as
well, given in the first column: `--steps 500`.
"""
FAMILIES: dict[str, tuple[str, Any]] = {
    "Finders": ("`--finder`, `--finders`", FINDERS),
    "Objectives": ("`--objective`", OBJECTIVES),
    "Controllers": ("`--controller`", CONTROLLERS),
    "Relaxations": ("`--relaxation`", RELAXATIONS),
    "Allocations": ("`--allocation`", ALLOCATIONS),
    "Granularities": ("`--granularity`", GRANULARITIES),
    "Optimisers": ("`--optimizer`", OPTIMIZERS),
    "Models": ("`--model`", MODELS),
    "Trackers": ("`--tracker`", TRACKERS),
    "Data": ("`--data`", DATASETS),
    "Tasks": ("`--task`", TASKS),
}


def cell(value: object) -> str:
    """Return a text that a table's cell can hold."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def default_of(f: Any) -> str:
    """Return an option's default in words."""
    if f.metadata.get("unset"):
        return str(f.metadata["unset"])
    if is_part(f.default):
        return f"`{written_name(f.default)}`"
    return "none" if f.default in (None, ()) else f"`{str(f.default).lower()}`"


def rows(part: Any, flags: bool) -> list[str]:
    """Return a row for each option of a part; flags: whether each has a short form."""
    found = []
    for f in options_of(part):
        kind, must = kinds(type(part))[f.name], f.metadata.get("must")
        allowed = "a part" if f.metadata.get("family") else allowed_words(kind, must)
        short = f"`--{flag_of(f).replace('_', '-')}`" if flags or f.metadata.get("flag") else ""
        found.append(f"| `{f.name}` | {short} | {cell(f.metadata['help'])} | {cell(allowed)} | {cell(default_of(f))} |")
    return found


def table(part: Any, flags: bool) -> list[str]:
    """Return the table of a part's options, or nothing where it has none."""
    found = rows(part, flags)
    head = ["| option | short form | what it means | allowed | default |", "| --- | --- | --- | --- | --- |"]
    return [*head, *found, ""] if found else []


def row_of_run(f: Any) -> str:
    """Return the row of an option that is the run's own."""
    must = f.metadata["must"]
    allowed = "fractions in (0, 1]" if f.metadata.get("read") else allowed_words(kinds(RunConfig)[f.name], must)
    words = (cell(f.metadata["help"]), cell(allowed), cell(default_of(f)))
    return f"| `--{flag_of(f).replace('_', '-')}` | {' | '.join(words)} |"


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for title, (option, family) in FAMILIES.items():
        lines += [f"## {title}", "", f"{option}: {', '.join(f'`{name}`' for name in family)}.", ""]
        for name, part in family.known.items():
            first = (inspect.getdoc(type(part)) or "").split("\n\n")[0].replace("\n", " ")
            lines += [f"### {name}", "", f"{first} Version {part.version}.", "", *table(part, title == "Finders")]
    lines += [
        "## Training",
        "",
        "The recipe: `--epochs` and the like, in Python `tombola.Recipe`.",
        "",
        *table(Recipe(), True),
    ]
    own = [f for f in options_of(RunConfig()) if f.name not in {"finder", "training", "model"}]
    lines += ["## Runs", "", "All other options of a run.", ""]
    lines += ["| option | what it means | allowed | default |", "| --- | --- | --- | --- |"]
    lines += [row_of_run(f) for f in own]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page())
