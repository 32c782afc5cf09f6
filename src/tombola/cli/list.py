"""`tombola list`: the runs below a directory and how they stand."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.cli.options import add_json_option, make_parser, parse
from tombola.cli.show import show_json, show_table, show_text, size_words
from tombola.core.measure import ACCURACY

if TYPE_CHECKING:
    from tombola.runs.inventory import ListedRun


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "list",
        "List the runs, trainings and audits below a directory, one a row: finished, drawn (only the ticket is there), "
        "unfinished, or damaged (a file is missing or is not as it was written; the same command makes it again).",
        "tombola list runs",
        "DIR",
    )
    parser.add_argument("directory", metavar="DIR", type=str, help="the --out that the runs were made with")
    add_json_option(parser)
    options = parse(parser, arguments)

    from tombola.runs.inventory import kept_by_sparsify, list_runs, with_runs_below
    from tombola.runs.rundir import STORE
    from tombola.storage.files import size_of

    out = Path(options.directory)
    found, kept = list_runs(out), kept_by_sparsify(out)
    store, of_sparsify = size_of(out / STORE), sum(map(size_of, kept))
    if options.json:
        bytes_of_sparsify = {"sparsify_bytes": of_sparsify} if kept else {}
        show_json({"runs": [run.to_dict() for run in found], "store_bytes": store, **bytes_of_sparsify})
        return
    if found:
        measures = {run.measure for run in found if run.score is not None} or {ACCURACY}
        one = next(iter(measures)) if len(measures) == 1 else None
        columns = ("name", "finder", "density", "seed", "state", f"test {one.name}" if one else "on test data", "size")
        show_table(options.directory, columns, [_row(run, one is None) for run in found])
    elif not kept:
        show_text(f"no runs lie in {options.directory}")
    if kept:
        words = "what tombola.sparsify keeps here by out=, from which the same call goes on or gives its result"
        show_text(f"{words}: {size_words(of_sparsify)}")
    if store:
        show_text(f"what they share (in {STORE}): {size_words(store)}")
    if store or kept:
        show_text(_cleaning(out, options.directory))
    further = with_runs_below(out)
    if further:
        show_text(f"more runs lie in {', '.join(map(str, further))}")


def _cleaning(out: Path, directory: str) -> str:
    """Return what cleaning would delete, in words."""
    from tombola.runs.inventory import could_free, is_under_way
    from tombola.studies.manifest import is_unfinished

    begun = is_unfinished(out)
    freed = could_free(out, begun=begun)
    if freed:
        return f"tombola clean {directory} deletes {size_words(freed)}"
    if begun or is_under_way(out):
        return "tombola clean deletes nothing of it while something is unfinished"
    return f"tombola clean {directory} has nothing to delete; with --all, what further runs could use again"


def _row(run: "ListedRun", named: bool) -> tuple[str, ...]:
    """Return the texts of a row; named: whether its score says what it is."""
    score = "" if run.score is None else run.measure.shown(run.score)
    return (
        run.name,
        run.finder or "",
        "" if run.density is None else f"{100 * run.density:.4g} %",
        "" if run.seed is None else str(run.seed),
        run.state,
        f"{run.measure.name} {score}" if named and score else score,
        size_words(run.bytes),
    )
