"""`tombola study FILE`: many cells from a small file, on this machine or a cluster."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from tombola.cli.board import Later, board
from tombola.cli.options import add_json_option, make_parser, out_directory, parse
from tombola.cli.show import show_json, show_table, show_text, size_words
from tombola.errors import UsageError, check_one_of
from tombola.studies.shipped import study_names

if TYPE_CHECKING:
    from tombola.studies import StudyPlan
    from tombola.studies.engines import Engine
    from tombola.studies.graph import Graph

ENGINES = ("local", "ray", "slurm")
# Tasks that a dry run shows one by one; more of them are shown by kind and finder.
MOST_LISTED = 60


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status: 1 where some cell failed."""
    options = _options(arguments)

    from tombola.studies import read_study

    study = read_study(options.study)
    options.out = options.out or f"studies/{study.name}"
    out = out_directory(options)
    engine = _engine(options, study)
    if options.dry_run:
        _forecast(study, out, engine, options)
        return 0
    return _run(study, out, engine, options)


def _options(arguments: Sequence[str]) -> Namespace:
    parser = make_parser(
        "study",
        "Run the cells of a study: finders at densities over seeds, as a small YAML file says, or one that comes with "
        f"tombola: {', '.join(study_names())}. What cells share is done once. "
        "Stopped anywhere, the same command goes on; several of them, on any machines that see --out, work together.",
        "tombola study digits-mini --jobs 2",
        "FILE",
    )
    parser.add_argument(
        "study", metavar="FILE", type=str, help="YAML file, or the name of a study that comes with tombola"
    )
    parser.add_argument("--out", type=str, default="", help="directory of the results (default: studies/NAME)")
    parser.add_argument("--engine", type=str, default="local", help=f"where workers run: {', '.join(ENGINES)}")
    parser.add_argument(
        "--jobs",
        type=int,
        default=None,
        help="workers at a time (default: 1; of ray as many as the cluster has room for)",
    )
    parser.add_argument("--address", type=str, default="", help="of a Ray cluster (default: one is started here)")
    parser.add_argument(
        "--slurm",
        type=str,
        default="",
        help="what jobs ask Slurm for: partition=gpu,time=4:00:00,parallel=8,gpus=1; also cpus, memory, account, qos, "
        "constraint",
    )
    parser.add_argument("--retry-failed", action="store_true", help="try failed tasks again")
    parser.add_argument(
        "--dry-run", action="store_true", help="only list the tasks, and what they will take by a few measured steps"
    )
    add_json_option(parser)
    return parse(parser, arguments)


def _engine(options: Namespace, study: "StudyPlan") -> "Engine":
    from tombola.studies.engines import Local, OnRay, OnSlurm
    from tombola.studies.engines.on_slurm import SlurmOptions

    check_one_of(ENGINES, options.engine, "engine")
    for name, engine in (("address", "ray"), ("slurm", "slurm")):
        if getattr(options, name) and options.engine != engine:
            raise UsageError(f"needs --engine {engine}", option=name)
    if options.jobs is not None and options.engine == "slurm":
        raise UsageError("is not for Slurm: say --slurm parallel=", option="jobs")
    if options.engine == "slurm":
        return OnSlurm(SlurmOptions.read(options.slurm, study.resources))
    if options.engine == "ray":
        return OnRay(options.address, options.jobs, study.resources)
    return Local() if options.jobs is None else Local(options.jobs)


def _run(study: "StudyPlan", out: Path, engine: "Engine", options: Namespace) -> int:
    from tombola.cli.compare import show_comparison
    from tombola.cli.comparison import comparison_table
    from tombola.studies import tabulate
    from tombola.studies.comparison import carry_out

    first = study.cells[0].label
    with board() as shown:
        rows, found, left = carry_out(
            study,
            out,
            shown,
            engine,
            seen=lambda done: shown.show(
                Later(lambda width: comparison_table(study.title, tabulate(done), first, width)[0])
            ),
            retry_failed=options.retry_failed,
            command=("study", options.study),
        )
    if not left:
        return show_comparison(study.title, rows, found, first, out, options.json)
    done = len(study.cells) - left
    if options.json:
        show_json({"cells": len(study.cells), "finished": done})
    else:
        show_text(f"{done} of {len(study.cells)} cells are finished; tombola status {out} shows how far it is.")
    return 0


def _forecast(study: "StudyPlan", out: Path, engine: "Engine", options: Namespace) -> None:
    """Show the tasks and what is left of them, and write nothing."""
    from tombola.data import shared
    from tombola.studies.estimate import estimate
    from tombola.studies.ledger import Ledger, survey
    from tombola.studies.status import duration_words

    study = study.on_threads(engine.threads(study.resources))
    workers = engine.workers or 1
    with shared():
        graph = study.graph(out)
        states, found = survey(graph, Ledger(out)), estimate(graph)
    gpu_hours = found.work / 3600 if found.on_gpu else 0.0
    if options.json:
        tasks = [
            {"task": task.words, "kind": task.kind, "state": states[name], "seconds": found.seconds.get(name, 0.0)}
            for name, task in graph.tasks.items()
        ]
        whole = {"seconds": found.wall(workers), "workers": workers, "gpu_hours": gpu_hours, "bytes": found.disk}
        guessed = {"start_seconds": found.start, "guesses": list(found.guesses)}
        show_json({"tasks": tasks, "work_seconds": found.work, **whole, **guessed})
        return
    title = f"{study.name}: {len(graph.tasks)} tasks for {len(study.cells)} cells"
    if len(graph.tasks) > MOST_LISTED:
        show_table(title, ("tasks", "how many", "done", "about"), _grouped(graph, states, found.seconds))
        show_text("--json lists them one by one.")
    else:
        rows = [
            (task.words, states[name], duration_words(found.seconds[name]) if name in found.seconds else "")
            for name, task in graph.tasks.items()
        ]
        show_table(title, ("task", "state", "about"), rows)
    done = sum(state == "done" for state in states.values())
    show_text(
        f"{done} of {len(graph.tasks)} tasks are done; the others are about {duration_words(found.work)} of work."
    )
    wall = duration_words(found.wall(workers))
    on_gpu = f", and {gpu_hours:.1f} GPU hours in all" if found.on_gpu else ""
    show_text(f"With {workers} at a time, their start included: {wall}{on_gpu}.")
    show_text(f"On the disk they will take about {size_words(found.disk)}.")
    show_text(
        "Measured just now: preparing a cell, steps of training and of each finder from loading the batch on, "
        f"evaluation, and a file written. Guessed: {'; '.join(found.guesses)}."
    )


def _grouped(
    graph: "Graph", states: Mapping[str, str], seconds: Mapping[str, float]
) -> list[tuple[str, str, str, str]]:
    """Return a row for the tasks of each kind and finder: what they are, how many, how many done, what is left."""
    from tombola.studies.graph import Kind
    from tombola.studies.status import duration_words

    groups: dict[str, list[str]] = {}
    for name, task in graph.tasks.items():
        shared = task.kind in (Kind.DENSE, Kind.TEACHER)  # by finders that are not told apart here
        groups.setdefault(task.kind if shared else f"{task.kind} of {task.finder}", []).append(name)
    return [
        (
            words,
            str(len(names)),
            str(sum(states[name] == "done" for name in names)),
            duration_words(sum(seconds.get(name, 0.0) for name in names)),
        )
        for words, names in groups.items()
    ]
