"""Results keep their names: what a configuration is filed under, and what does not rename it."""

import json
import os
import subprocess
from dataclasses import dataclass, replace

import pytest

import tombola
from tombola import Ticket
from tombola.core.parts import identify
from tombola.core.progress import Silent
from tombola.finders import Ranked
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import built, load_preset
from tombola.runs.config.run import default_threads
from tombola.runs.pipeline import draw as draw_run
from tombola.runs.pipeline import run
from tombola.storage.identity import digest

CONFIGURATIONS = {
    "digits": [load_preset("digits")],
    "published": [load_preset("cifar10-resnet20", "published")],
    "vgg": [load_preset("cifar10-vgg16")],
    "fast": [load_preset("cifar10-resnet20-fast")],
    "seed": [{"seed": 7}],
    "settings": [{"finder": "cts:steps=500:controller=gradbalance:momentum=0.95"}],
    "objective": [{"objective": "feature-mse", "features": ["relu*"]}],
    "ltr": [{"finder": "ltr:rate=0.5", "rewind_to": 2}],
    "imp": [{"finder": "imp", "draw_at": "init"}],
    "snip": [{"finder": "snip:rounds=10:allocation=erk"}],
    "joint": [{"finder": "joint", "search_epochs": 40}],
    "patterns": [{"density": "fc3*=1; *=2%", "finder": "random"}],
    "adamw": [{"optimizer": "adamw", "lr_schedule": "cosine"}],
    "width": [{"model": "resnet20:width=8"}],
}
# A change here renames results that lie on disks. It is right where numbers have changed and a version was raised, and
# never where an option, a finder or a component was added.
PINNED = {
    "digits": "e5a63a962127",
    "published": "c948dab42b2b",
    "vgg": "6a652a319fe0",
    "fast": "2aaba919aa9f",
    "seed": "941758e89d5f",
    "settings": "49d1c360f466",
    "objective": "0705809e2255",
    "ltr": "0ca51fb16699",
    "imp": "da4177cd7ad9",
    "snip": "14c0c3c941f3",
    "joint": "f22d8aca4cd6",
    "patterns": "72ce3f926114",
    "adamw": "96420cabbefe",
    "width": "73d46caf2f17",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_names_of_results_stay(name):
    assert digest(identify(built(CONFIGURATIONS[name])))[:12] == PINNED[name]


def test_densities_by_pattern_in_another_order_are_another_result(tmp_path):
    layers = [load_preset("digits"), {"finder": "magnitude", "draw_at": "init", "threads": 1}]

    def drawn(density):
        return draw_run(built([*layers, {"density": density}]), tmp_path, Silent())

    first, second = drawn("fc[12]*=0.1; fc[23]*=0.8"), drawn("fc[23]*=0.8; fc[12]*=0.1")
    assert not second.repeated
    kept = [dict(Ticket.load(found.values["ticket"]).density_by_layer) for found in (first, second)]
    assert (kept[0]["fc3.weight"], kept[1]["fc1.weight"]) == (0.8, pytest.approx(0.1, abs=1e-4))
    assert kept[0]["fc2.weight"] < 0.2 < kept[1]["fc2.weight"]
    assert drawn("fc[23]*=0.8; fc[12]*=0.1").repeated
    # What no order could change keeps its name.
    assert drawn("fc1*=0.1; fc[23]*=0.8").directory == drawn("fc[23]*=0.8; fc1*=0.1").directory


@dataclass(frozen=True)
class Before(Ranked):
    name = "sketched"
    power: float = tombola.option(1.0, "a power")


@dataclass(frozen=True)
class After(Ranked):
    name = "sketched"
    power: float = tombola.option(1.0, "a power")
    further: int = tombola.option(0, "an option that came later, without effect at its default")
    order: str = tombola.option("global", "and another")


def test_a_new_option_renames_nothing_until_it_is_used():
    def named(part):
        found = identify(part)
        return {key: value for key, value in found.items() if key not in {"name", "code"}}

    assert named(Before()) == named(After())
    assert named(Before(power=2.0)) == named(After(power=2.0))
    assert named(After(further=1)) != named(Before())


def test_a_part_within_at_its_default_is_left_out_until_its_version_is_raised(monkeypatch):
    from tombola.core.allocation import Global
    from tombola.finders import SNIP

    assert "allocation" not in identify(SNIP())
    monkeypatch.setattr(Global, "version", 2)
    assert identify(SNIP())["allocation"] == {"name": "global", "version": 2}


def test_where_things_lie_and_what_they_run_on_is_no_part_of_the_name(tmp_path):
    config = resolve(built([load_preset("digits"), {"threads": 1}]))
    other = replace(config, threads=2)
    assert Cell.prepare(config).identity() == Cell.prepare(other).identity()
    assert "threads" not in json.dumps(Cell.prepare(config).identity())


def test_the_same_command_with_other_threads_finds_what_is_there(tmp_path):
    layers = [load_preset("digits"), {"finder": "random", "epochs": 2, "milestones": [], "rewind_to": 1}]
    first = run(built([*layers, {"threads": 1}]), tmp_path, Silent())
    again = run(built([*layers, {"threads": 2}]), tmp_path, Silent())
    assert again.repeated
    assert again.directory == first.directory
    environment = json.loads((first.directory / "environment.json").read_text())
    assert environment["threads"] == 1, "a result says on what it was made"


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("2,4", 2), ("0", None), ("many", None), ("", None)])
def test_threads_follow_openmps_variable(value, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == (expected or len(os.sched_getaffinity(0)))


OWN = """
from dataclasses import dataclass
import torch, tombola
from tombola.finders import Ranked

@dataclass(frozen=True)
class Heavy(Ranked):
    power: float = tombola.option({power}, "a power")
    def scores(self, problem):
        return problem.layout.flatten(problem.values_of(problem.weights)).abs() ** self.power * {factor}
"""


def test_the_code_of_a_finder_of_ones_own_belongs_to_the_name(tmp_path, tombola_in_bash):
    options = "--preset digits --finder heavy:Heavy --epochs 2 --milestones [] --rewind-to 1"

    def drawn(**values):
        (tmp_path / "heavy.py").write_text(OWN.format(**{"power": 1.0, "factor": 1.0, **values}))
        command = ["bash", "-c", f"{tombola_in_bash}tombola draw {options} --out o --json"]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(found.stdout)

    first = drawn()
    assert drawn()["repeated"]
    edited = drawn(factor=-1.0)
    assert not edited["repeated"], "an edited finder must not return the old result as finished"
    assert edited["run_dir"] != first["run_dir"]
