"""The tables of the documents are what the scripts make of the figures beside them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def output_of(script, *arguments):
    return subprocess.run(
        [sys.executable, f"scripts/results/{script}", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def rows(text):
    return re.findall(r"^\|.*\|$", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("document", "script", "arguments"),
    [
        ("results", "table.py", ["docs/results/fashion-mnist-lenet.json"]),
        ("results", "table.py", ["docs/results/fashion-mnist-resnet20-w8.json"]),
        ("results", "table.py", ["docs/results/fashion-mnist-resnet20-w8-ltr.json"]),
        ("choices", "table.py", ["docs/results/digits-dynamics.json", "dynamics"]),
        ("choices", "table.py", ["docs/results/digits-objectives.json", "objectives"]),
        ("results", "table.py", ["docs/results/cifar10-resnet20-twelve-epochs.json"]),
        ("results", "table.py", ["docs/results/fashion-mnist-all.csv", "densities"]),
        ("results", "table.py", ["docs/results/joint-or-ltr.csv", "priced"]),
        ("results", "table.py", ["docs/results/joint-or-ltr-resnet20.csv", "priced"]),
        ("results", "table.py", ["docs/results/joint-or-ltr-cifar10.csv", "priced"]),
        ("results", "table.py", ["docs/results/equal-cost-resnet20.csv", "priced"]),
        ("granularity", "table.py", ["docs/results/cifar10-granularity.csv", "densities"]),
        ("granularity", "table.py", ["docs/results/sst2-granularity.csv", "densities"]),
        ("domains", "table.py", ["docs/results/sst2-transformer.csv", "priced"]),
        ("domains", "table.py", ["docs/results/enlarged-cifar10-resnet18.csv", "priced"]),
        ("domains", "table.py", ["docs/results/enlarged-cifar10-vit.csv", "priced"]),
        ("choices", "ablation.py", ["table", "docs/results/digits-ablation.json"]),
        ("performance", "benchmarks.py", ["benchmarks/results/full.json", "benchmarks/results/full-bf16.json"]),
    ],
)
def test_a_table_is_what_its_script_prints(document, script, arguments):
    printed = "\n".join(rows(output_of(script, *arguments)))
    assert printed.count("\n") > 3
    assert printed in (ROOT / f"docs/{document}.md").read_text()


def test_the_searches_stand_with_the_samples_a_step():
    stated = (ROOT / "docs/choices.md").read_text()
    printed = output_of("table.py", "docs/results/shorter-searches.json", "searches")
    parts = re.findall(r"^.*, batch (\d+):\n\n((?:\|.*\n)+)", printed, flags=re.MULTILINE)
    assert len(parts) > 3
    for batch, table in parts:
        for row in rows(table)[2:]:
            density, finder, *rest = row.removesuffix(" |").split(" | ")
            assert " | ".join(["\n" + density, finder, batch, *rest]) + " |" in stated
