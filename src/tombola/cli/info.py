"""`tombola info`: what is in a ticket."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tombola.cli.options import make_parser, parse, run_and_ticket
from tombola.cli.show import show_json, show_table, show_text

_FIGURES = {
    "test_accuracy": "test accuracy (%)",
    "dense_test_accuracy": "dense network's test accuracy (%)",
    "seconds": "seconds",
}


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "info",
        "Show a ticket: how many weights each layer keeps, and where the ticket comes from. Of a run directory, show "
        "also how well the trained ticket does; of an audit's, what it found.",
        "tombola info runs/RUN",
        "TICKET",
    )
    parser.add_argument("ticket", type=str, help="ticket file, or run directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    options = parse(parser, arguments)
    if (Path(options.ticket) / "audit.json").is_file():
        _show_audit(Path(options.ticket), options.json)
        return

    from tombola.ticket import Ticket

    directory, path = run_and_ticket(options.ticket)
    ticket = Ticket.load(path)
    result = _result(directory) if Path(options.ticket).is_dir() else {}
    provenance = ticket.provenance.to_dict() if ticket.provenance else {}
    dead, kept, density = ticket.dead_units, ticket.kept_by_layer, ticket.density_by_layer
    layers: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(shape),
            "kept": kept[name],
            "density": density[name],
            "dead_units": dead.get(name, 0),
        }
        for name, shape in ticket.shapes.items()
    ]
    if options.json:
        show_json(
            {
                "kept": ticket.kept,
                "prunable": ticket.prunable,
                "density": ticket.density,
                "layers": layers,
                "provenance": provenance,
                **({"result": result} if result else {}),
            }
        )
        return
    rows: list[tuple[object, ...]] = [
        (
            layer["name"],
            "x".join(map(str, layer["shape"])),
            f"{layer['kept']:,}",
            f"{100 * layer['density']:.3g} %",
            layer["dead_units"],
        )
        for layer in layers
    ]
    rows.append(("all layers", "", f"{ticket.kept:,} of {ticket.prunable:,}", f"{100 * ticket.density:.4g} %", ""))
    show_table(options.ticket, ("layer", "shape", "kept", "density", "dead units"), rows)
    for key, words in _FIGURES.items():
        if isinstance(result.get(key), int | float):
            show_text(f"{words}: {result[key]:.2f}")
    for key in ("finder", "objective", "at", "epoch", "seed", "version", "cost", "teacher", "warnings", "weights"):
        if provenance.get(key) not in (None, "", [], {}):
            show_text(f"{key}: {_plain(provenance[key])}")


def _result(directory: Path) -> dict[str, Any]:
    """Return a run's result, or nothing where it is not finished."""
    from tombola.rundir import read_result

    return read_result(directory) if (directory / "result.json").is_file() else {}


def _show_audit(directory: Path, as_json: bool) -> None:
    """Show what an audit found."""
    from tombola.rundir import read_result

    found = read_result(directory, "audit.json")
    if as_json:
        show_json(found)
        return
    checks = found.get("checks")
    rows = [
        (check.get("name"), check.get("verdict"), check.get("why") or _plain(check.get("test_accuracies")))
        for check in (checks if isinstance(checks, list) else [])
        if isinstance(check, dict)
    ]
    own = ("the ticket itself", "", _plain(found.get("test_accuracies")))
    show_table(str(directory), ("check", "verdict", "test accuracies (%)"), [own, *rows])


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner not in ("", [], {}))
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
