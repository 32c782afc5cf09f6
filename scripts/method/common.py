"""What the three checks of the method share: cells made quickly, tables, pictures."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from cycler import cycler
from matplotlib.figure import Figure

from tombola.core.progress import progress_on
from tombola.finders.problem import Problem
from tombola.networks.network import FrozenNetwork
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import from_dict, load_preset
from tombola.runs.rundir import store_below
from tombola.studies.figures.style import COLOURS
from tombola.ticket import Ticket
from tombola.training.trainer import Trainer

# As comparisons are drawn: colours that the colour-blind tell apart, and lines that grey leaves apart.
DASHES = ("-", "--", ":", "-.", (0, (9, 2)))
LOOK: Any = {
    "svg.hashsalt": "tombola",
    "font.size": 8.0,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS[: len(DASHES)], linestyle=DASHES),
}


def look_of(number: int) -> dict[str, Any]:
    """Return the colour and dash of the line of some number, where several lines are one curve over seeds."""
    return {"color": COLOURS[number], "linestyle": DASHES[number]}


def rewind_problem(preset: str, seed: int, out: Path) -> tuple[Cell, Trainer, Problem]:
    """Return a preset's cell and its problem at the rewind point; what is trained and drawn lies below `out`."""
    # One thread: networks this small gain nothing from more, and the figures do not depend on the number of cores.
    torch.set_num_threads(1)
    config = from_dict({**load_preset(preset), "seed": seed, "threads": 1, "search_batch_size": 512})
    cell, progress = Cell.prepare(resolve(config)), progress_on()
    store = store_below(out, progress)
    trainer = cell.trainer(store, progress)
    return cell, trainer, cell.problem(trainer.dense_at(cell.config.rewind_to), store, progress, trainer)


@torch.no_grad()
def divergences(problem: Problem, ticket: Ticket) -> dict[str, float]:
    """Return both KL divergences between a ticket's network, untrained, and the dense one, on held-out data."""
    network = FrozenNetwork(problem.network(), problem.layout, problem.task, problem.runtime)
    weights = problem.layout.flatten({name: mask.float() for name, mask in ticket.items()}) * network.weights
    assert problem.held_out is not None
    sums, samples = {"reverse": 0.0, "forward": 0.0}, 0
    for item in problem.held_out.epoch(0):
        sparse, dense, count = network.under(weights, item.batch), network.dense(item.batch), len(item.batch[1])
        sums["reverse"] += count * float(problem.task.divergence(sparse, dense, item.batch))
        sums["forward"] += count * float(problem.task.divergence(dense, sparse, item.batch))
        samples += count
    return {f"{name}_kl": total / samples for name, total in sums.items()}


def write(out: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of a check, one a line."""
    out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    (out / f"{name}.json").write_text(f"[\n{lines}\n]\n")


def spread(values: Iterable[float], digits: int) -> str:
    """Return mean ± sample standard deviation."""
    found = list(values)
    mean = f"{statistics.mean(found):.{digits}f}"
    return f"{mean} ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else mean


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def picture(path: Path, panels: int, draw: Callable[[Sequence[Any]], None]) -> None:
    """Draw panels side by side into an SVG file."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(4.4 * panels, 3.4), layout="constrained")
        draw(figure.subplots(1, panels, squeeze=False)[0])
        figure.savefig(path, metadata={"Date": None})
