"""`tombola info`: what is in a ticket."""

from collections.abc import Sequence
from typing import Any

from tombola.cli.options import make_parser, parse, run_and_ticket
from tombola.cli.show import show_json, show_table, show_text


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "info",
        "Show a ticket: how many weights each layer keeps, and where the ticket comes from.",
        "tombola info runs/17945779b4e6223b/ticket.safetensors",
    )
    parser.add_argument("ticket", type=str, help="ticket file, or run directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    options = parse(parser, arguments)

    from tombola.ticket import Ticket

    ticket = Ticket.load(run_and_ticket(options.ticket)[1])
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
    for key in ("finder", "objective", "at", "epoch", "seed", "version", "cost", "teacher", "warnings", "weights"):
        if provenance.get(key) not in (None, "", [], {}):
            show_text(f"{key}: {_plain(provenance[key])}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
