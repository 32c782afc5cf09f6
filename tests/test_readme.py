"""The README's examples run as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_python_example(tmp_path):
    code = blocks("python")[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "ticket.safetensors").exists()


def test_the_command_line_tour(tmp_path):
    code = "".join(blocks("bash"))
    assert len(code.strip().splitlines()) >= 10
    # The installed command and this interpreter are the same program; the tests need no activated environment.
    (tmp_path / "mine.py").write_text(blocks("python")[1])
    program = f'tombola() {{ {shlex.quote(sys.executable)} -m tombola "$@"; }}\nset -e\n'
    found = subprocess.run(
        ["bash", "-c", program + code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert found.returncode == 0, found.stderr
    assert "cts ticket" in found.stdout
    assert '"finder": "cts"' in found.stdout
    assert "seconds of training" in found.stdout
    assert "steps: 1000" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_in_the_makefile(target):
    assert f"make {target}" in README
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_links_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
            assert link.startswith("https://arxiv.org/") or (ROOT / link).exists(), link


def test_the_page_of_finders_lists_each_with_its_options():
    from tombola.config import short_forms
    from tombola.finders import FINDERS

    page = (ROOT / "docs" / "finders.md").read_text()
    rows = {line.split("`")[1]: line.split("|")[-2] for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == set(FINDERS)
    # All finders have --allocation, of which the text below the table speaks, as of --search-batch-size.
    below = {"--allocation", "--search-batch-size"}
    for name in FINDERS:
        forms = short_forms().items()
        options = {f"--{form.replace('_', '-')}" for form, of in forms if name in [owner for owner, _, _ in of.owners]}
        assert set(re.findall(r"--[a-z-]+", rows[name])) == options - below, name
    assert all(option in page for option in below)


def test_the_table_lists_what_there_is():
    from tombola.controllers import CONTROLLERS
    from tombola.data import DATASETS
    from tombola.finders import FINDERS
    from tombola.models import MODELS
    from tombola.objectives import OBJECTIVES

    table = README.split("## What works today")[1]
    for known in (CONTROLLERS, DATASETS, FINDERS, MODELS, OBJECTIVES):
        assert all(f"`{name}`" in table for name in known)
