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

    from tombola.core.parts import written_name
    from tombola.finders.diagnostics import immovable
    from tombola.runs.cell import Cell, resolve
    from tombola.runs.config import density_words

    cell = Cell.prepare(resolve(config))
    selection = cell.selection()
    sizes, warnings = selection.groups.sizes, immovable(selection.layout)
    if options.json:
        entries = [
            {name: value for name, value in vars(entry).items() if name != "wiring"} for entry in cell.survey.entries
        ]
        survey = {"parameters": entries, "prunable": cell.survey.prunable, "total": cell.survey.total}
        groups = None if sizes is None else len(sizes)
        show_json({**survey, "kept": selection.kept, "groups": groups, "warnings": warnings})
        return
    show_lines(str(cell.survey))
    if sizes is not None:
        smallest, largest = int(sizes.min()), int(sizes.max())
        each = f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
        show_text(
            f"{written_name(selection.granularity)}: {len(sizes):,} groups of {each} weights, kept or pruned whole"
        )
    for warning in warnings:
        show_text(f"warning: {warning}")
    show_text(f"a ticket of density {density_words(config.density)} keeps {selection.kept:,} weights")
