"""`tombola evaluate`: measure a trained ticket on its data again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from tombola.cli.options import make_parser, parse, run_and_ticket
from tombola.cli.show import show_json, show_table
from tombola.config import from_dict
from tombola.errors import UsageError


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = make_parser(
        "evaluate",
        "Evaluate the trained ticket of a run directory, or other weights under its mask, on the run's data.",
        "tombola evaluate runs/17945779b4e6223b --split held-out",
    )
    parser.add_argument("run_dir", type=str, help="run directory, or the ticket file in it")
    parser.add_argument("--weights", type=str, default="", help="state_dict, .safetensors or .pt (the run's)")
    parser.add_argument("--split", type=str, default="test", help="test or held-out")
    parser.add_argument("--data-dir", type=str, default="", help="folder with the dataset's files (the run's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    options = parse(parser, arguments)
    if options.split not in {"test", "held-out"}:
        raise UsageError(f"--split must be test or held-out, got {options.split}")
    directory, _ = run_and_ticket(options.run_dir)
    if not (directory / "config.yaml").is_file():
        raise UsageError(f"{options.run_dir} is not a run directory, nor a ticket in one: it has no config.yaml")
    try:
        values = yaml.safe_load((directory / "config.yaml").read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{directory / 'config.yaml'} is not YAML: {' '.join(str(error).split())}") from None
    config = from_dict(values)
    if options.data_dir:
        config = replace(config, data_dir=options.data_dir)
    weights = Path(options.weights) if options.weights else directory / "weights.safetensors"

    from tombola.pipeline import evaluate_run

    found = evaluate_run(config, directory, weights, options.split.replace("-", "_"))
    facts = {
        "run_dir": str(directory),
        "split": options.split,
        "accuracy": 100 * found.metric,
        "loss": found.loss,
        "samples": found.samples,
    }
    if options.json:
        show_json(facts)
        return
    row = (options.split, f"{facts['accuracy']:.2f} %", f"{found.loss:.4f}", f"{found.samples:,}")
    show_table(str(directory), ("split", "accuracy", "loss", "samples"), [row])
