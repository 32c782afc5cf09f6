"""The README's examples run as they stand."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "guide" / "command-line.md").read_text()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/guide/python.md", marks=pytest.mark.hard)])
def test_the_python_example(page, tmp_path):
    (code,) = blocks((ROOT / page).read_text(), "python")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "ticket.safetensors").exists()


def shown(defined, code, folder):
    found = subprocess.run(
        ["bash", "-c", f"{defined}set -e\n{code}"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert found.returncode == 0, found.stderr
    assert "steps: 1000" in (folder / "config.yaml").read_text()
    return found.stdout


@pytest.mark.hard
def test_the_command_line_tour(tombola_in_bash, tmp_path):
    code = "".join(blocks(README, "bash"))
    assert len(code.strip().splitlines()) >= 10
    found = shown(tombola_in_bash, code, tmp_path)
    assert "cts ticket" in found
    assert '"finder": "cts"' in found
    assert (tmp_path / "tour.svg").exists()


@pytest.mark.hard
@pytest.mark.timeout(1800)
def test_the_guide_to_the_command_line(tombola_in_bash, tmp_path):
    (mine,) = blocks(GUIDE, "python")
    (tmp_path / "mine.py").write_text(mine)
    found = shown(tombola_in_bash, "".join(blocks(GUIDE, "bash")), tmp_path)
    assert "cts ticket" in found
    assert "seconds of training" in found


def test_the_parts_of_ones_own_go_by_their_names(tombola_in_bash, tmp_path):
    shutil.copy(ROOT / "examples" / "own_parts.py", tmp_path)
    doc = ast.get_docstring(ast.parse((tmp_path / "own_parts.py").read_text()))
    lines = [line.strip() for line in doc.splitlines() if line.strip().startswith("tombola ")]
    assert len(lines) == 3
    short = "--epochs 4 --milestones 3"
    shown(tombola_in_bash, "tombola run --preset digits --steps 1000 --print-config > config.yaml\n", tmp_path)
    for line in lines:
        shown(tombola_in_bash, f"{line} {short} {'' if '--finder ' in line else '--steps 100'} --out own\n", tmp_path)


def test_the_page_of_options_is_what_the_parts_say(tmp_path):
    page = tmp_path / "options.md"
    subprocess.run([sys.executable, "-m", "scripts.docs.options", page], cwd=ROOT, check=True)
    assert page.read_text() == (ROOT / "docs" / "options.md").read_text(), "python -m scripts.docs.options"


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_in_the_makefile(target):
    assert f"make {target}" in README
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(r"`[^`\n]*`", "", page.read_text())):
            assert link.startswith("https://") or (page.parent / link).exists(), (page.name, link)


def test_the_page_of_finders_lists_each_with_its_options():
    from tombola.finders import FINDERS
    from tombola.runs.config import short_forms

    page = (ROOT / "docs" / "finders.md").read_text()
    rows = {line.split("`")[1]: line.split("|")[-2] for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == set(FINDERS)
    # All finders have these, of which the text below the table speaks, as of --search-batch-size.
    below = {"--allocation", "--granularity", "--search-batch-size"}
    for name in FINDERS:
        forms = short_forms().items()
        options = {f"--{form.replace('_', '-')}" for form, of in forms if name in [owner for owner, _, _ in of.owners]}
        assert set(re.findall(r"--[a-z-]+", rows[name])) == options - below, name
    assert all(option in page for option in below)


def test_the_table_lists_what_there_is():
    from tombola.core.controllers import CONTROLLERS
    from tombola.data import DATASETS
    from tombola.finders import FINDERS
    from tombola.networks.models import MODELS
    from tombola.objectives import OBJECTIVES

    table = README.split("## What works today")[1]
    for known in (CONTROLLERS, DATASETS, FINDERS, MODELS, OBJECTIVES):
        assert all(f"`{name}`" in table for name in known)
