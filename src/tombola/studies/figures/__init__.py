"""Figures of a comparison, for print and for the page, from one description of each."""

from collections.abc import Sequence
from pathlib import Path

from tombola.errors import UsageError
from tombola.studies.figures import along, scores, tickets
from tombola.studies.figures.drawing import Figure
from tombola.studies.figures.published import published_curves
from tombola.studies.reading import Study

ENDINGS = (".svg", ".pdf", ".png")


def figures_of(study: Study, against: str) -> list[Figure]:
    """Return every figure that a comparison has something for; against: the finder whose gains are shown.

    Loads PyTorch, to read tickets.
    """
    made = [
        scores.by_density(study, published_curves(study)),
        scores.by_cost(study),
        scores.gains(study, against),
        tickets.layers(study),
        tickets.overlap(study),
        along.search(study),
        along.training(study),
        along.dynamics(study),
    ]
    return [figure for figure in made if figure is not None]


def overview(study: Study) -> Figure:
    """Return the one figure of `--plot`: the score over density and over cost, and the dynamics where measured."""
    density, cost, dynamics = scores.by_density(study), scores.by_cost(study), along.dynamics(study)
    below = dynamics.panels if dynamics else ()
    return Figure("overview", "", "", (*density.panels, *cost.panels[-1:], *below))


def check_picture(path: Path) -> None:
    """Raise UsageError unless a picture can be written to a path."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"plot {path} must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", option="plot")
    if not path.parent.is_dir():
        raise UsageError(f"plot {path}: {path.parent} is not a directory", option="plot")


def check_directory(path: Path) -> None:
    """Raise UsageError unless figures can be written below a path."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; it must be a directory", option="figures")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure into a file, whose ending says how."""
    from tombola.studies.figures.printed import draw

    draw(figure, path)


def write_figures(figures: Sequence[Figure], directory: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Write figures into a directory, which is made, each in every format; return the files."""
    check_directory(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory} cannot be a directory: {error.strerror}", option="figures") from None
    paths = []
    for figure in figures:
        for ending in endings:
            paths.append(directory / f"{figure.name}{ending}")
            write_figure(figure, paths[-1])
    return paths
