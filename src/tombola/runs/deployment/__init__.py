"""Deployment: what a ticket's network is worth once it is trained, in bytes and in milliseconds."""

import platform
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tombola.core.measure import measure_in
from tombola.core.parts import identify, written_name
from tombola.core.progress import Progress
from tombola.errors import UsageError
from tombola.networks.runtime import on_threads
from tombola.runs.config import RunConfig
from tombola.runs.deployment.contenders import CONTENDERS, Built, Contender
from tombola.runs.deployment.network import Delivered, load
from tombola.runs.deployment.report import Report, Row, Setting
from tombola.runs.deployment.timing import interleaved
from tombola.runs.deployment.two_of_four import semi_structured
from tombola.runs.rundir import read_result
from tombola.storage.files import read_json_object, write_bytes, write_json
from tombola.version import __version__

__all__ = ["BATCHES", "Delivered", "Report", "Row", "Setting", "deploy", "load", "measure", "write"]

BATCHES = (1, 64)


def deploy(
    config: RunConfig,
    ticket_file: Path,
    weights: Path,
    run: Path | None,
    seconds: float,
    progress: Progress,
) -> Report:
    """Measure a ticket's network in all its forms, on one thread and on all of them, on the CPU in float32.

    config: model and data. weights: the trained ticket's. run: its run directory, if it lies in one, which knows what
    the trained dense network reaches. seconds: for each of the settings.
    """
    with on_threads(config.threads):
        delivered = load(config, ticket_file, weights, max(BATCHES))
        dense_score = None if run is None else _dense_score(delivered, run, progress)
        rows = measure(delivered, CONTENDERS, dense_score, seconds, progress)
        return Report(rows, _facts(delivered, ticket_file))


def _dense_score(delivered: Delivered, run: Path, progress: Progress) -> float | None:
    """Return what a run says of the trained dense network, where that is of the data and the model at hand."""
    if not (run / "result.json").is_file():
        return None
    values, known, cell = read_result(run), read_json_object(run / "identity.json"), delivered.cell
    task = identify(cell.config).get("task")
    if [cell.data_identity(), cell.model_identity(), task] != [
        known.get("data"), known.get("model"), known.get("config", {}).get("task")
    ]:  # fmt: skip
        progress.say(
            "the dense network's score is left out: the run has it of other data, another task or another model"
        )
        return None
    found = values.get(measure_in(values).dense_test)
    return float(found) if isinstance(found, int | float) else None


def measure(
    delivered: Delivered,
    contenders: Sequence[Contender],
    dense_score: float | None,
    seconds: float,
    progress: Progress,
) -> list[Row]:
    """Return a row for each contender; those that can be built are timed in one run."""
    built: dict[Contender, Built] = {}
    why: dict[Contender, str] = {}
    for contender in contenders:
        try:
            built[contender] = contender.build(delivered)
        except UsageError as error:
            why[contender] = str(error)
    scores = {
        contender: _score(delivered, each) if contender.trained else dense_score for contender, each in built.items()
    }
    threads = sorted({1, torch.get_num_threads()})
    settings = [Setting(count, batch) for count in threads for batch in BATCHES]
    times: dict[Contender, dict[Setting, tuple[float, str]]] = {contender: {} for contender in built}
    with progress.track("deployment", len(settings)) as tracker:
        for done, setting in enumerate(settings, start=1):
            for contender, best in _timed(delivered, built, setting, seconds).items():
                times[contender][setting] = best
            tracker.update(done, str(setting))
    return [
        Row(
            contender.network,
            contender.runtime,
            scores[contender],
            built[contender].bytes,
            {setting: best for setting, (best, _) in times[contender].items()},
            {setting: layout for setting, (_, layout) in times[contender].items()},
            measure=delivered.cell.task.measure,
        )
        if contender in built
        else Row(contender.network, contender.runtime, why=why[contender], measure=delivered.cell.task.measure)
        for contender in contenders
    ]


def _score(delivered: Delivered, built: Built) -> float:
    """Return the score on test data, as its measure shows it."""
    return delivered.cell.task.measure.of(delivered.cell.evaluate_model(built.model, "test").metric)


def _timed(
    delivered: Delivered, built: dict[Contender, Built], setting: Setting, seconds: float
) -> dict[Contender, tuple[float, str]]:
    """Return each contender's median time in a setting and the layout in which that is."""
    samples = delivered.samples[: setting.batch].clone()
    with on_threads(setting.threads), torch.inference_mode():
        calls = {
            (contender, layout): run
            for contender, each in built.items()
            for layout, run in each.runs(samples, setting.threads).items()
        }
        found = interleaved(calls, seconds)
    return {
        contender: min((time, layout) for (owner, layout), time in found.items() if owner is contender)
        for contender in built
    }


def _facts(delivered: Delivered, ticket_file: Path) -> dict[str, Any]:
    ticket, config = delivered.ticket, delivered.cell.config
    return {
        "ticket": str(ticket_file),
        "model": written_name(config.model),
        "data": written_name(config.data),
        "kept": ticket.kept,
        "prunable": ticket.prunable,
        "semi_structured": semi_structured(ticket, delivered.model),
        "precision": "float32",
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "tombola": __version__,
        "torch": torch.__version__,
        "onnxruntime": metadata.version("onnxruntime") if find_spec("onnxruntime") else "not installed",
    }


def write(report: Report, out: Path) -> list[Path]:
    """Write a report to `out` as deploy.json and deploy.md, and return where they are."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "deploy.json", report.to_dict())
    write_bytes(out / "deploy.md", report.to_markdown().encode())
    return [out / "deploy.json", out / "deploy.md"]
