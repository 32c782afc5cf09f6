"""`tombola status DIR`: how a study stands, wherever its workers are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.cli.options import add_json_option, add_study_option, make_parser, parse
from tombola.cli.show import print_table, show_json, show_table, show_text, terminal_width

if TYPE_CHECKING:
    from tombola.studies.status import Status


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "status",
        "Show how the study or comparison below a directory stands: what is done, who works on what, what has failed, "
        "and the table so far, also while others write.",
        "tombola status studies/digits-mini",
        "DIR",
    )
    parser.add_argument("directory", metavar="DIR", type=str, help="the --out of the study")
    add_study_option(parser)
    parser.add_argument("--tracebacks", action="store_true", help="show where failures were raised")
    add_json_option(parser)
    options = parse(parser, arguments)

    from tombola.studies import tabulate
    from tombola.studies.status import status_of
    from tombola.studies.study import study_below

    out = Path(options.directory)
    found = status_of(out, options.study)
    if options.json:
        show_json(_plain(found))
        return
    _show(found, options.tracebacks)
    if len(found.studies) > 1:
        show_text(f"{out} holds {', '.join(found.studies)}; --study NAME shows one of them.")
    rows = tabulate(found.outcomes)
    if rows:
        from tombola.cli.comparison import comparison_table

        study, _ = study_below(out, options.study)
        print_table(comparison_table(study.title, rows, study.cells[0].label, terminal_width())[0])


def _show(found: "Status", tracebacks: bool) -> None:
    from tombola.studies.status import duration_words, since_words

    show_text(f"{found.name}: {', '.join(f'{number} {state}' for state, number in found.counts.items() if number)}")
    if found.seconds_left is not None and found.seconds_left > 0:
        show_text(f"about {duration_words(found.seconds_left)} are left with as many workers as now")
    if found.running:
        rows = [
            (
                words,
                now.holder.host,
                now.holder.process,
                f"{now.title} {now.done}/{now.total}",
                since_words(now),
                now.note,
            )
            for words, now in found.running.items()
        ]
        show_table("running", ("task", "on", "process", "step", "since", "how it goes"), rows)
    for words, failure in found.failed.items():
        show_text(f"failed: {words}: {failure.why}")
        if tracebacks:
            for line in failure.traceback.splitlines():
                show_text(line)


def _plain(found: "Status") -> dict[str, Any]:
    from tombola.studies import tabulate

    running = [
        {
            "task": words,
            "host": now.holder.host,
            "process": now.holder.process,
            "since": now.holder.since,
            "stage": now.title,
            "done": now.done,
            "total": now.total,
        }
        for words, now in found.running.items()
    ]
    failed = [{"task": words, "why": f.why, "traceback": f.traceback} for words, f in found.failed.items()]
    return {
        "name": found.name,
        "studies": list(found.studies),
        "tasks": dict(found.counts),
        "running": running,
        "failed": failed,
        "seconds_left": found.seconds_left,
        "rows": [row.to_dict() for row in tabulate(found.outcomes)],
    }
