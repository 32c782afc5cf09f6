"""`tombola clean`: deletes what can be made again; results stay."""

from collections.abc import Sequence
from pathlib import Path

from tombola.cli.options import add_json_option, make_parser, parse
from tombola.cli.show import show_json, show_text, size_words


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "clean",
        "Delete what can be made again and no finished run needs: partial files that killed processes left and, unless "
        "a run is unfinished, checkpoints and intermediate results. Runs, trainings and audits stay as they are.",
        "tombola clean runs --dry-run",
        "DIR",
    )
    parser.add_argument("directory", metavar="DIR", type=str, help="the --out that the runs were made with")
    parser.add_argument(
        "--all",
        action="store_true",
        help="delete all that runs share: unfinished ones begin anew, and further ones share nothing with those here",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    add_json_option(parser)
    options = parse(parser, arguments)

    from tombola.runs.inventory import clean
    from tombola.studies.manifest import is_unfinished

    out = Path(options.directory)
    cleaned = clean(out, options.all, options.dry_run, is_unfinished(out))
    if options.json:
        paths = [{"path": str(path), "bytes": size} for path, size in cleaned.paths]
        busy = list(cleaned.busy)
        show_json({"deleted": paths, "bytes": cleaned.freed, "dry_run": options.dry_run, "busy": busy})
        return
    for path, size in cleaned.paths:
        show_text(f"{path}: {size_words(size)}")
    for name in cleaned.busy:
        show_text(f"{name}: left alone, another process works on it")
    verb = "would be deleted" if options.dry_run else "deleted"
    show_text(f"{verb}: {size_words(cleaned.freed)}")
