"""`tombola audit`: the sanity checks of a ticket."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from tombola.cli.options import add_json_option, add_ticket_options, is_run, make_parser, out_directory
from tombola.cli.runs import configure_for_ticket
from tombola.cli.show import FEW_SEEDS, show_json, show_table, show_text

if TYPE_CHECKING:
    from tombola.studies.audit import Check, Report


def _parser() -> ArgumentParser:
    parser = make_parser(
        "audit",
        "Alter a ticket in several ways, train what comes out as the ticket is trained, and say whether the ticket is "
        "better, as one that says something about its weights must be. Exit status 0 where every check says so, 1 "
        "where one does not, else 3 where the seeds do not decide.",
        "tombola audit runs/RUN --seeds 5",
        "TICKET",
    )
    add_ticket_options(parser, "to train from")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of the ticket, and of every altered one")
    parser.add_argument(
        "--out", type=str, default="", help="where the audit lies (default: beside the run; runs for a ticket file)"
    )
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    options, config, directory, ticket = configure_for_ticket(
        _parser, arguments, ("data", "model", "training", "machine")
    )
    in_run = is_run(directory)
    start, scores = directory / "start.safetensors", directory / "scores.safetensors"
    weights = Path(options.weights) if options.weights else start if in_run and start.is_file() else None
    out = out_directory(options) if options.out else directory.resolve().parent if in_run else Path("runs")

    from tombola.core.progress import progress_on
    from tombola.studies.audit import audit

    found = in_run and scores.is_file() and ticket.name == "ticket.safetensors"  # they are no other ticket's
    report, where = audit(
        config, ticket, scores if found else None, weights, options.seeds, out, progress_on(sys.stderr)
    )
    if options.json:
        show_json({"ticket": str(ticket), "audit_dir": str(where), **report.to_dict()})
    else:
        _show(report, str(ticket))
        show_text(f"audit: {where / 'audit.json'}")
    return report.status


def _show(report: "Report", title: str) -> None:
    measure, own = report.measure, report.score
    rows = [("the ticket itself", "", measure.with_unit(measure.spread(own.mean, own.std)), "", "")]
    columns = ("check", "least changed", f"test {measure.name}", "the ticket gains", "verdict")
    show_table(title, columns, rows + [_row(check) for check in report.checks])
    if report.transfers:
        columns = ("carried over", "least changed", f"test {measure.name}", "the ticket gains", "verdict")
        show_table("the ticket on other initial weights", columns, [_row(each) for each in report.transfers])
    for check in (*report.checks, *report.transfers):
        if check.why:
            show_text(f"{check.name}: not possible: {check.why}")
    if own.indicative:
        show_text(FEW_SEEDS)
    if report.other_weights:
        show_text("The ticket was drawn at other weights than those that it is trained from here.")
    show_text(f"layers without a weight: {', '.join(report.empty_layers) or 'none'}")
    for name, overlap in report.overlap.items():
        chance = f"{100 * overlap['by_chance']:.1f} % by chance"
        show_text(f"in common with a {name} ticket: {100 * overlap['shared']:.1f} % of the weights kept ({chance})")
    if report.connectivity:
        word = "connected" if report.connectivity.connected else "not connected"
        rise = measure.number(report.connectivity.barrier) + (" points" if measure.in_percent else "")
        show_text(f"two trainings in different order of data: linearly {word} (the error rises by {rise} between them)")


def _row(check: "Check") -> tuple[str, ...]:
    from tombola.studies.statistics import summarise

    if check.difference is None or check.changed is None:
        return (check.name, "", "", "", check.verdict)
    gain, measure, found = check.difference.summary, check.measure, summarise(check.scores)
    interval = ""
    if gain.low is not None and gain.high is not None:
        interval = f" ({measure.signed(-gain.high)} to {measure.signed(-gain.low)})"
    score = measure.with_unit(measure.spread(found.mean, found.std))
    gained = f"{measure.signed(-gain.mean)}{interval}"
    return (check.name, f"{100 * check.changed:.1f} %", score, gained, check.verdict)
