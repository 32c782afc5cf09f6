"""`tombola info`: what is in a ticket, a run, an audit or a comparison."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from tombola.cli.options import add_json_option, add_study_option, make_parser, parse, run_and_ticket
from tombola.cli.show import show_failures, show_json, show_others, show_table, show_text
from tombola.core.measure import ACCURACY, Measure, measure_in

if TYPE_CHECKING:
    from tombola.ticket import Ticket

# Where in training a ticket is drawn.
_PLACES = {
    "init": "the initial weights",
    "rewind": "the rewind point",
    "trained": "the trained network",
    "given": "weights that were given",
}
# What is known of an objective: of the hard ticket before its training, and of the masks that a search sampled.
_OBJECTIVE = {
    "hard": "of the ticket before training",
    "held_out": "of it on held-out data",
    "soft": "of the sampled masks at the search's end",
    "first": "at its beginning",
}


def _parser() -> ArgumentParser:
    parser = make_parser(
        "info",
        "Show a ticket: how many weights each layer keeps, and where the ticket comes from. Of a run directory, show "
        "also how well the trained ticket does; of an audit's, what it found; of a comparison's (its --out), how far "
        "it has come and what it found.",
        "tombola info runs/RUN",
        "TICKET",
    )
    parser.add_argument(
        "ticket", metavar="TICKET", type=str, help="ticket file, run directory, or directory of a comparison"
    )
    add_study_option(parser)
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    options = parse(_parser(), arguments)
    place = Path(options.ticket)
    if (place / "audit.json").is_file():
        _show_audit(place, options.json)
    elif _holds_runs(place):
        _show_study(place, options.study, options.json)
    else:
        _show_ticket(options.ticket, options.json)


def _show_ticket(place: str, as_json: bool) -> None:
    """Show a ticket from its file or its run directory, of which also what became of it."""
    directory, path = run_and_ticket(place)

    from tombola.ticket import Ticket

    ticket = Ticket.load(path)
    result, damaged = (_result(directory), _damaged(directory)) if Path(place).is_dir() else ({}, [])
    provenance, layers = ticket.provenance.to_dict() if ticket.provenance else {}, _layers(ticket)
    if as_json:
        show_json(
            {
                "kept": ticket.kept,
                "prunable": ticket.prunable,
                "density": ticket.density,
                "layers": layers,
                "provenance": provenance,
                **({"result": result} if result else {}),
                **({"damaged": damaged} if damaged else {}),
            }
        )
        return
    show_table(place, ("layer", "shape", "kept", "density", "dead units", "unread inputs"), _rows(ticket, layers))
    for line in (*_figures(result), *_further(result), *_origin(provenance), *_missing(ticket)):
        show_text(line)
    if damaged:
        show_text(f"damaged: {', '.join(damaged)}; the command that made the run makes it again")


def _layers(ticket: "Ticket") -> list[dict[str, Any]]:
    """Return what is known of a ticket's layers."""
    dead, unread = ticket.dead_units, ticket.unread_units
    kept_by_layer, density = ticket.kept_by_layer, ticket.density_by_layer
    return [
        {
            "name": name,
            "shape": list(shape),
            "kept": kept_by_layer[name],
            "density": density[name],
            "dead_units": dead.get(name, 0),
            "unread_inputs": unread.get(name, 0),
        }
        for name, shape in ticket.shapes.items()
    ]


def _rows(ticket: "Ticket", layers: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return the rows of a ticket's table, layer by layer, and that of all of them."""
    rows: list[tuple[object, ...]] = [
        (
            layer["name"],
            "x".join(map(str, layer["shape"])),
            f"{layer['kept']:,}",
            f"{100 * layer['density']:.3g} %",
            layer["dead_units"],
            layer["unread_inputs"],
        )
        for layer in layers
    ]
    total = ("all layers", "", f"{ticket.kept:,} of {ticket.prunable:,}", f"{100 * ticket.density:.4g} %", "", "")
    return [*rows, total]


def _further(result: Mapping[str, Any]) -> Iterator[str]:
    """Give what a run's result says beside its score."""
    paths, kept = result.get("paths") or {}, result.get("kept_weights") or {}
    if "nodes" in paths:
        number = "none" if paths["log_paths"] is None else f"e^{paths['log_paths']:.2f}"
        yield f"effective nodes: {paths['nodes']:,} of {paths['of']:,}; paths from inputs to outputs: {number}"
        if "weights" in paths:
            yield f"effective weights, on a path from an input to an output: {paths['weights']:,}"
    if kept:
        own, measure = "kept weights, of the finder's own training, no ticket", measure_in(result)
        yield f"{own}: {measure.shown(kept[measure.test])} test {measure.name}"
    if result.get("trained_from", "rewind") != "rewind":
        yield f"trained from: {result['trained_from']}"


def _figures(result: Mapping[str, Any]) -> Iterator[str]:
    """Give what a result says of the trained ticket, in words."""
    measure = measure_in(result)
    named = ((measure.test, f"test {measure.words}"), (measure.dense_test, f"dense network's test {measure.words}"))
    for key, words in named:
        if isinstance(result.get(key), int | float):
            yield f"{words}: {measure.number(result[key])}"
    if isinstance(result.get("seconds"), int | float):
        yield f"seconds: {result['seconds']:.2f}"


def _result(directory: Path) -> dict[str, Any]:
    """Return a run's result, or nothing where it is not finished."""
    from tombola.runs.rundir import read_result

    return read_result(directory) if (directory / "result.json").is_file() else {}


def _holds_runs(path: Path) -> bool:
    """Whether a directory is no run's own, but one in which runs lie."""
    if not path.is_dir() or (path / "ticket.safetensors").exists() or (path / "identity.json").exists():
        return False
    return (path / "study.json").is_file() or any(path.glob("[!.]*/result.json"))


def _show_study(directory: Path, name: str, as_json: bool) -> None:
    """Show how far a comparison has come, and what it found."""
    from tombola.studies import failures, read
    from tombola.studies.report.words import compared, finding

    study = read(directory, name)
    if as_json:
        show_json(
            {
                "study": study.name,
                "others": study.others,
                "finders": study.finders,
                "densities": study.densities,
                "seeds": study.seeds,
                "cells": len(study.outcomes),
                "finished": len(study.done),
                "missing": len(study.missing),
                "failures": failures(study.outcomes),
                "rows": [row.to_dict() for row in study.rows],
            }
        )
        return
    for sentence in (*compared(study), *finding(study, study.chosen())):
        show_text(sentence)
    show_failures(failures(study.outcomes))
    show_others(study)
    show_text(f"tombola table {directory} shows its table, tombola report {directory} makes its page")


def _damaged(directory: Path) -> list[str]:
    from tombola.storage.digests import damaged

    return damaged(directory)


def _show_audit(directory: Path, as_json: bool) -> None:
    """Show what an audit found."""
    from tombola.runs.rundir import read_result

    found = read_result(directory, "audit.json")
    if as_json:
        show_json(found)
        return
    measure = measure_in(found)
    rows = [
        (check.get("name"), check.get("verdict"), check.get("why") or _plain(check.get(measure.tests)))
        for checks in (found.get("checks"), found.get("transfers"))
        for check in (checks if isinstance(checks, list) else [])
        if isinstance(check, dict)
    ]
    own = ("the ticket itself", "", _plain(found.get(measure.tests)))
    show_table(str(directory), ("check", "verdict", _plural(measure)), [own, *rows])


def _origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Give what a ticket's provenance says in lines to read; nothing for what it does not say."""
    if not provenance:
        yield "nothing is known of where this ticket comes from"
        return
    yield f"finder: {_finder(provenance['finder'])}"
    epoch = provenance["epoch"]
    where = _PLACES.get(str(provenance["at"]), str(provenance["at"]))
    after = f", after {epoch} epoch{'s' if epoch != 1 else ''} of dense training" if epoch else ""
    yield f"drawn: at {where}{after}, with seed {provenance['seed']}, by tombola {provenance['version']}"
    values = provenance["objective"]
    if values:
        figures = [
            f"{_number(values[key])} {words}" for key, words in _OBJECTIVE.items() if values.get(key) is not None
        ]
        yield f"objective: {values.get('name', 'unnamed')}{', '.join(figures) and ': '}{', '.join(figures)}"
    cost = provenance["cost"]
    yield (
        f"cost: {cost['seconds']:,.1f} seconds from the initial weights on; "
        f"{cost['forward']:,} samples forward, {cost['backward']:,} backward"
    )
    if provenance["teacher"]:
        yield f"teacher: {provenance['teacher']}"
    for warning in provenance["warnings"]:
        yield f"warning: {warning}"


def _missing(ticket: "Ticket") -> Iterator[str]:
    """Say of a ticket of groups how many weights it lacks of those that were asked for."""
    from tombola.core.flat import Layout
    from tombola.core.selection import Selection

    if ticket.provenance is None or ticket.granularity == "weight":
        return
    asked = Selection(Layout.of(ticket.items()), ticket.provenance.density).kept
    if ticket.kept < asked:
        yield f"groups of weights are whole: {ticket.kept:,} of the {asked:,} weights asked for are kept"


def _finder(described: Mapping[str, Any]) -> str:
    """Return a finder's name, with the options that are not as by default; all of them of a finder that is not ours."""
    from tombola.core.parts import describe
    from tombola.finders import FINDERS

    name = str(described.get("name", "unnamed"))
    usual = describe(FINDERS.known[name]) if name in FINDERS else {}
    differing = {key: value for key, value in described.items() if key != "name" and usual.get(key, ...) != value}
    options = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in differing.items())
    if name not in FINDERS:
        return f"{name}, of one's own{options and ': '}{options}"
    return f"{name}, with {options}; otherwise by default" if options else f"{name}, by default"


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = " ".join(f"{key} {_plain(part)}" for key, part in value.items() if key != "name")
        return f"{value.get('name', '')} ({inner})" if inner else str(value.get("name", ""))
    if isinstance(value, list):
        return " and ".join(map(_plain, value)) or "none"
    return _number(value)


def _plural(measure: Measure) -> str:
    return "test accuracies (%)" if measure == ACCURACY else f"test {measure.words}, by seed"
