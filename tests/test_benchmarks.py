"""The benchmarks: their reference is the method, and their figures say what they should. No test asserts a timing."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import run
from benchmarks.cases import REVERSE_KL, Case
from benchmarks.figures import Figure, interleaved, ratio
from examples.cts_on_one_page import PlainSearch
from scripts.results import large
from tombola import GradBalance
from tombola.core.ranking import count_kept
from tombola.finders import gates
from tombola.networks.masking import survey
from tombola.networks.runtime import Runtime

from .conftest import TinyConv, images

ROOT = Path(__file__).parent.parent


def test_the_plain_transcription_and_the_search_take_the_same_steps(monkeypatch):
    case = Case.make("lenet-300-100", (1, 8, 8), 10, 16, 1)
    ours = case.search(REVERSE_KL, 0.3, GradBalance())
    naive = PlainSearch(case.model, list(survey(case.model).layout.names), 0.3, epsilon=1e-8)
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, 0.7))
    monkeypatch.setattr(gates, "fill_uniform", lambda out, *_: out.fill_(0.7))
    (item,) = ours.search._problem.feed.epoch(0)
    for _ in range(12):
        ours.search.advance(item)
        naive.step(item.batch[0])
    expected = torch.cat([logits.detach().flatten() for logits in naive.logits.values()])
    assert torch.allclose(ours.search.logits.detach(), expected, atol=2e-3)
    (state,) = ours.search.state()["balance"]
    assert float(state["multiplier"]) == pytest.approx(naive.multiplier, rel=1e-3)


def test_the_steps_of_a_case_run_where_tombola_would_run_them():
    case = Case.make("resnet20-w8", (1, 8, 8), 10, 4, 2)
    assert case.runtime == Runtime.choose(case.model, "cpu")
    case.training().take(3)
    steps = case.search(REVERSE_KL)
    steps.take(3)
    assert steps.search.step == 3


def test_figures_meet_their_goals_or_not():
    assert Figure("a", 0.9, "times", 0.95).to_dict()["met"]
    assert not Figure("a", 1.0, "times", 0.95).to_dict()["met"]
    assert Figure("a", 3.5, "times", 3.0, at_least=True).to_dict()["met"]
    assert Figure("a", 3.5, "s").to_dict()["met"] is None
    assert ratio({"a": [2.0, 9.0, 4.0], "b": [1.0, 1.0, 1.0]}, "a", "b") == 4.0


def test_work_is_done_in_turns():
    order = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert [len(found) for found in seconds.values()] == [2, 2]


def test_a_run_writes_one_file_and_a_missed_goal_does_not_fail(tmp_path, capsys):
    slow, more = (lambda: [Figure("slow", 2.0, "s", 1.0)]), (lambda: [Figure("more", 1.0, "s")])
    run.main(tmp_path / "new" / "quick.json", [slow])
    found = json.loads((tmp_path / "new" / "quick.json").read_text())
    assert [(each["name"], each["met"]) for each in found["figures"]] == [("slow", False)]
    assert "MISSED" in capsys.readouterr().out
    run.main(tmp_path / "full.json", [slow, more])
    assert len(json.loads((tmp_path / "full.json").read_text())["figures"]) == 2


LITTLE = """
preset: photos-resnet18
data_dir: data
model: resnet20-w8
image_size: 32
epochs: 2
batch_size: 8
finders: [magnitude]
densities: [0.5]
"""


@pytest.mark.hard
def test_the_check_for_machines_with_cuda_runs_on_a_cpu_and_goes_on(tmp_path):
    data = tmp_path / "data"
    chosen = torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("test", 4)):
        for label in "ab":
            folder = data / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=chosen).numpy()
                Image.fromarray(pixels).save(folder / f"{number}.png")
    options = "--epochs 2 --rewind-to 1 --milestones [] --steps 2 --search-batch-size 8 --batch-size 8 --rate 0.9"
    environment = {**os.environ, "PYTHON": sys.executable, "DEVICE": "cpu", "OPTIONS": options, "SEEDS": "0 1"}
    environment |= {"TOMBOLA_CACHE": str(tmp_path / "cache"), "LARGE": "resnet50", "DATA": "folder"}
    (tmp_path / "little.yaml").write_text(LITTLE)
    environment |= {"STUDIES": str(tmp_path / "little.yaml"), "JOBS": "1"}

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "steps.json").write_text("measured before")
    (tmp_path / "out" / "large.json").write_text("measured before")

    def check(minutes):
        command = [str(ROOT / "scripts" / "gpu_check.sh"), str(data), str(tmp_path / "out"), str(minutes)]
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found.stdout

    assert "the minutes are over before seed 0" in check(0)
    assert "skipped" in (tmp_path / "out" / "tests.txt").read_text() or torch.cuda.is_available()
    assert (tmp_path / "out" / "steps.json").read_text() == "measured before"
    check(60)
    for seed in range(2):
        rows = json.loads((tmp_path / "out" / f"headline-{seed}.json").read_text())["rows"]
        assert [row["finder"] for row in rows] == ["cts", "snip", "ltr"]
        assert {row["kept"] for row in rows} == {count_kept(0.8**22, 291_376 - 8 * 64)}, "two classes, not ten"
    assert json.loads((tmp_path / "out" / "studies" / "little" / "table.json").read_text())["rows"]


@pytest.mark.filterwarnings("ignore::tombola.TicketWarning")
def test_what_is_measured_of_large_networks(monkeypatch):
    model, data = TinyConv(), images(size=8)
    monkeypatch.setattr(large, "vision", lambda name, recomputed: model)
    monkeypatch.setattr(large, "images", lambda samples: data)
    found = {name: case() for name, case in large.cases(4, "cpu")["resnet50"].items()}
    assert list(found) == ["dense", "dense, checkpointed", "cts, checkpointed"]
    assert all(row["seconds_a_step"] > 0 for row in found.values())
    row = found["cts, checkpointed"]
    assert (row["steps"], row["prunable"], row["kept"]) == (4, 228, 23)
    assert row["bytes"] > 0
    assert large.previewed(model)["prunable"] == 228
    assert large.resident(os.getpid()) > 10 * 2**20
    assert large.resident(2**30) == 0


def test_blocks_are_recomputed_and_a_copy_has_its_own():
    assert not any("forward" in vars(module) for module in large.vision("resnet50", False).modules())
    saving = large.vision("resnet50", True)
    blocks = [module for module in copy.deepcopy(saving).modules() if "forward" in vars(module)]
    assert len(blocks) == 16
    assert all(block.forward.args[0].__self__ is block for block in blocks)
