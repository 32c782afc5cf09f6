"""`tombola preview`: what would be pruned of a model."""

from collections.abc import Sequence

from tombola.cli.options import add_json_option, make_parser
from tombola.cli.runs import configure
from tombola.cli.show import show_json, show_lines, show_text


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "preview",
        "List the parameters of a run's model: which would be pruned, and why the rest would not.",
        "tombola preview --preset digits --model resnet20 --exclude '[fc.*]'",
    )
    add_json_option(parser)
    options, config = configure(parser, arguments)

    from tombola.finders import selection_of
    from tombola.runs.cell import Cell, resolve
    from tombola.runs.config import density_words

    cell = Cell.prepare(resolve(config))
    kept = selection_of(config.finder, cell.survey.layout, config.density).kept
    if options.json:
        entries = [
            {name: value for name, value in vars(entry).items() if name != "wiring"} for entry in cell.survey.entries
        ]
        show_json({"parameters": entries, "prunable": cell.survey.prunable, "total": cell.survey.total, "kept": kept})
        return
    show_lines(str(cell.survey))
    show_text(f"a ticket of density {density_words(config.density)} keeps {kept:,} weights")
