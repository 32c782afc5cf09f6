"""What a command loads before it has something to do, what is seen meanwhile, and how it ends when interrupted."""

import collections
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tombola import Ticket, UsageError, alive, data
from tombola.cli.main import main
from tombola.core.progress import Silent
from tombola.data import loading, sources
from tombola.data.sources.digits import Digits
from tombola.networks.runtime import Runtime, changed
from tombola.runs.config import load_preset
from tombola.runs.pipeline import run
from tombola.studies.statistics import compare_paired, summarise

from .conftest import at

HEAVY = ("torch", "torch._dynamo", "torchvision", "lightning_fabric", "sklearn", "scipy", "scipy.stats", "matplotlib")
PROGRAM = """
import json, sys
from tombola.cli.main import main

for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit:
        pass
    print("LOADED", *sorted(sys.modules), file=sys.stderr)
"""


def loaded(commands=(), program=PROGRAM):
    """Run commands one after the other in one process; return the heavy packages that are there after each."""
    words = [sys.executable, "-c", program, json.dumps(commands)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    modules = [line.split() for line in found.stderr.splitlines() if line.startswith("LOADED")]
    return [[name for name in HEAVY if name in names] for names in modules]


def test_what_needs_no_parts_loads_nothing_heavy():
    assert loaded([["--help"], ["--version"], ["nothing"], ["info", "no-ticket"], ["export", "no"]]) == 5 * [[]]


def test_help_and_what_cannot_be_parsed_load_the_parts_alone():
    commands = [
        ["run", "--help"],
        ["compare", "--help"],
        ["run", "--lr", "0.1"],
        ["run", "--steps", "many"],
        ["run", "--out", "o" * 300],
        ["run", "--weights="],
        ["compare", "--finder", "cts"],
        ["train", "there-is-no-such-ticket"],
    ]
    assert loaded(commands) == 8 * [["torch"]]


def test_importing_the_package_loads_nothing_heavy():
    program = 'import sys, tombola; print("LOADED", *sys.modules, file=sys.stderr)'
    assert loaded(program=program) == [[]]
    program = 'import sys, tombola.studies; print("LOADED", *sys.modules, file=sys.stderr)'
    assert loaded(program=program) == [[]]
    program = 'import sys, tombola.studies as s; s.plan, s.run_all; print("LOADED", *sys.modules, file=sys.stderr)'
    assert loaded(program=program) == [["torch"]]


def test_importing_draws_none_of_pythons_random_numbers():
    program = "import random; before = random.getstate(); import tombola.finders; assert random.getstate() == before"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_info_loads_pytorch_alone(tmp_path):
    Ticket({"w": torch.tensor([[True, False]])}).save(tmp_path / "t.safetensors")
    assert loaded([["info", str(tmp_path / "t.safetensors")]]) == [["torch"]]


def test_a_finished_run_is_shown_without_what_trains(tmp_path):
    quick = ["--finder", "random", "--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--threads", "1"]
    arguments = ["run", *quick, "--out", str(tmp_path)]
    assert main(arguments) == 0
    (found,) = loaded([arguments])
    assert not {"torch._dynamo", "torchvision", "lightning_fabric", "matplotlib"} & set(found)


def in_a_terminal(program):
    """Run a program with standard error on a pseudo-terminal; return what was written there."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(slave)
        parts = []
        try:
            while part := os.read(master, 4096):
                parts.append(part)
        except OSError:  # the other side is closed
            os.close(master)
        process.communicate()
    return b"".join(parts).decode()


def test_a_line_of_life_on_a_terminal_goes_before_anything_else_is_shown():
    program = """
import sys
from tombola import alive
alive.begin("tombola run", works=False)
alive.options_are_read()
sys.stderr.write("|")
alive.end()
alive.end()
sys.stderr.write("own words")
"""
    assert in_a_terminal(program) == "tombola run: loading PyTorch ...|\r\x1b[Kown words"


def test_errors_on_a_terminal_take_the_line_away():
    found = in_a_terminal("import sys; from tombola.cli.main import main; main(['run', '--finder', 'magic'])")
    assert found.startswith("tombola run: loading PyTorch ...\r\x1b[Ktombola run: --finder 'magic' is unknown")
    assert found.count("\n") == 1


@pytest.mark.parametrize(("works", "wait", "words"), [(True, 0.01, 1), (False, 0.01, 0), (True, 60.0, 0)])
def test_a_line_of_life_in_a_pipe_is_for_work_that_takes_longer(monkeypatch, works, wait, words):
    text = io.StringIO()
    monkeypatch.setattr(alive, "PIPE_SECONDS", wait)
    waiting = alive._Waiting("tombola run", text, works)
    waiting.options_are_read()
    if words:
        waiting._timer.join()
    waiting.end()
    assert text.getvalue() == "tombola run: loading PyTorch\n" * words


def test_there_is_no_line_where_pytorch_is_loaded_already():
    alive.begin("tombola run", works=True)
    assert alive._waiting is None


INTERRUPTED = """
import sys
from tombola import alive
alive.guard()
sys.path.insert(0, sys.argv[1])
try:
    import slow
except BaseException as error:
    print("came out as", type(error), file=sys.stderr)
"""


def test_an_interrupted_import_ends_the_program_in_one_line(tmp_path):
    (tmp_path / "slow.py").write_text("import time; print('ready', flush=True); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "tombola: interrupted\n")


def test_a_command_interrupted_while_it_loads_ends_in_one_line(tmp_path):
    (tmp_path / "yaml.py").write_text("import time; print('ready', flush=True); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-m", "tombola", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "tombola: interrupted\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_outside_of_imports_is_the_usual_one(capsys, monkeypatch, number, status):
    before = signal.getsignal(number)

    def interrupt(arguments):
        assert signal.getsignal(number) is alive._interrupted
        signal.raise_signal(number)
        time.sleep(60)

    monkeypatch.setattr("tombola.cli.info.main", interrupt)
    assert main(["info", "x"]) == status
    assert capsys.readouterr().err == "tombola info: interrupted; the same command goes on from the last checkpoint\n"
    assert signal.getsignal(number) is before


def test_handlers_of_others_stay(monkeypatch):
    def own(number, frame):
        pass

    before = signal.signal(signal.SIGINT, own)
    try:
        alive.guard()
        assert signal.getsignal(signal.SIGINT) is own
        alive.unguard()
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8), st.integers(1, 4))
def test_students_t_is_that_of_scipy_stats(values, comparisons):
    found = summarise(values, comparisons)
    if found.high is None:  # few values, all the same
        return
    level = 1 - 0.05 / comparisons
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * found.std / len(values) ** 0.5
    assert found.high - found.mean == pytest.approx(reach, rel=1e-9, abs=1e-9)
    if max(values) - min(values) > 1e-3:
        assert compare_paired(values, [0.0] * len(values)).p == pytest.approx(
            stats.ttest_1samp(values, 0.0).pvalue, rel=1e-6, abs=1e-12
        )


class Pair(NamedTuple):
    x: object
    y: object


@dataclass
class Open:
    x: torch.Tensor
    note: str = ""

    @cached_property
    def double(self):
        return 2 * self.x


@dataclass(frozen=True)
class Closed:
    x: torch.Tensor


class Graph:
    def __init__(self, x):
        self.x = x

    def to(self, device):
        self.x = self.x + 1  # moves in place and returns nothing


class Own(Sequence):
    def __init__(self, parts):
        self.parts = list(parts)

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, at):
        return self.parts[at]


def test_data_of_any_structure_keep_their_kinds():
    one = torch.ones(1)

    def twice(data):
        return changed(data, lambda part: isinstance(part, torch.Tensor), lambda tensor: 2 * tensor)

    for data_in in ((one, "a"), [one, 3], Pair(one, None), {"a": one, "b": b"x"}, Own([one, "b"]), range(3), "text", 4):
        found = twice(data_in)
        assert type(found) is type(data_in)
    assert twice(Pair(one, {"k": [one]})) == Pair(torch.tensor([2.0]), {"k": [torch.tensor([2.0])]})
    by_name = collections.defaultdict(list, a=one)
    assert twice(by_name)["a"] == 2
    assert twice(by_name).default_factory is list
    before = Open(one, "n")
    assert before.double == 2
    after = twice(before)
    assert (after.x, after.note, after.double, before.x) == (2, "n", 4, 1), "nothing that was derived goes along"
    assert twice(Closed(one)).x == 2
    same = object()
    assert twice([same])[0] is same


def test_what_can_be_moved_is_moved():
    found = Runtime(torch.device("meta")).move({"x": [torch.ones(2)], "y": (torch.ones(3), "a")})
    assert found["x"][0].device.type == found["y"][0].device.type == "meta"
    graph = Graph(torch.ones(1))
    (moved,) = Runtime(torch.device("cpu")).move([graph])
    assert moved is graph
    assert graph.x == 2


@pytest.fixture
def reads(monkeypatch):
    """Count how often the digits are read."""
    count = []

    @dataclass(frozen=True)
    class Counted(Digits):
        data_dir: str | None = None

        def read(self, image_size):
            count.append(self)
            return super().read(image_size)

    monkeypatch.setitem(sources.DATASETS.known, "digits", Counted())
    return count


def test_data_are_loaded_once_in_a_study_and_every_time_outside(reads, tmp_path):
    plain = data.load("digits").fingerprint
    data.load("digits")
    assert len(reads) == 2
    with data.shared():
        first = data.load(at("digits", tmp_path))
        assert data.load(at("digits", tmp_path)) is first
        assert first.fingerprint == plain
        with data.shared():
            assert data.load(at("digits", tmp_path)) is first
        assert len(reads) == 3
        (tmp_path / "train").mkdir()
        assert data.load(at("digits", tmp_path)) is not first, "a file has come"
        (tmp_path / "train" / "class").mkdir()
        data.load(at("digits", tmp_path))
        assert len(reads) == 5
        assert data.load(at("digits", tmp_path), held_out=0.2) is not first
        smaller = data.load(at("digits", tmp_path), train_samples=50)
        assert len(smaller.train) == 50
        assert smaller.fingerprint == data.load("digits").with_training(50).fingerprint
        assert len(loading._shared) == loading.MOST
    assert loading._shared is None


def test_a_failure_to_load_is_not_kept(reads):
    with data.shared():
        for _ in range(2):
            with pytest.raises(UsageError, match="train_samples must lie between"):
                data.load("digits", train_samples=10**9)
    assert len(reads) == 2


def test_cells_of_a_study_share_their_data_and_keep_their_names(reads, tmp_path):
    from tombola.studies import plan, run_all

    layers = [load_preset("digits"), {"epochs": 2, "rewind_to": 1, "milestones": (), "threads": 1}]
    cells = plan(layers, ["random", "magnitude"], [0.5], seeds=2)
    outcomes = run_all(cells, tmp_path, Silent())
    assert len(reads) == 1
    assert run(cells[0].config, tmp_path, Silent()).repeated, "outside of a study the cell has the same name"
    assert all(outcome.values for outcome in outcomes)
