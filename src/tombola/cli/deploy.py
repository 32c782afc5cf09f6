"""`tombola deploy`: what a ticket's network gains in bytes and in time, beside the dense one."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from tombola.cli.options import add_json_option, add_ticket_options, is_run, make_parser, out_directory, weights_for
from tombola.cli.runs import configure_for_ticket
from tombola.cli.show import show_json, show_table, show_text
from tombola.errors import UsageError


def _parser() -> ArgumentParser:
    parser = make_parser(
        "deploy",
        "Measure a trained ticket's network beside the dense one: its score, bytes on disk, latency and throughput at "
        "batches of 1 and 64, on one thread and on all, on the CPU in float32. All forms of the network take turns "
        "within one run; figures are medians. Nothing else should run meanwhile.",
        "tombola deploy runs/RUN --out deploy",
        "TICKET",
    )
    add_ticket_options(parser, "to measure")
    parser.add_argument(
        "--out", type=str, default="", help="directory for deploy.json and deploy.md (default: deploy/RUN)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each batch size and number of threads")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options, config, directory, ticket = configure_for_ticket(_parser, arguments, ("data", "model", "machine"))
    options.out = options.out or f"deploy/{directory.resolve().name if is_run(directory) else ticket.stem}"
    out = out_directory(options)
    if not 0 <= options.seconds < math.inf:
        raise UsageError(f"--seconds must be a number of at least 0, got {options.seconds:g}")
    if out.resolve() == directory.resolve() and is_run(directory):
        raise UsageError(f"--out {out} is the run directory, whose files are the run's own: choose another place")
    _check_free(out, ticket)
    weights = weights_for(options.weights, directory)

    from tombola.core.progress import progress_on
    from tombola.runs.deployment import deploy, write
    from tombola.storage.store import check_out

    check_out(out)
    run = directory if is_run(directory) else None
    report = deploy(config, ticket, weights, run, options.seconds, progress_on(sys.stderr))
    files = write(report, out)
    if options.json:
        show_json(report.to_dict())
        return
    title = f"{config.title}, float32, on the CPU"
    show_table(title, report.columns(), report.cells())
    if config.precision == "bf16-mixed":
        show_text("The ticket's scores are of float32; the run's own are of bf16-mixed, in which it was trained.")
    for verdict in [*report.verdicts, f"semi-structured: {report.facts['semi_structured']}"]:
        show_text(verdict)
    show_text(f"written: {', '.join(map(str, files))}")


def _check_free(out: Path, ticket: Path) -> None:
    """Raise UsageError where another ticket's measurement lies, which would be lost."""
    from tombola.storage.files import read_json_object

    if (out / "deploy.json").is_file():
        other = str(read_json_object(out / "deploy.json").get("ticket"))
        if Path(other).resolve() != ticket.resolve():
            raise UsageError(f"--out {out} holds the measurement of {other}: choose another place")
