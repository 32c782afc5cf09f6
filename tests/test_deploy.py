"""Deployment: who is measured, how, and what is said of it. No test asserts a time."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tombola import Ticket, UsageError
from tombola.cli.main import main
from tombola.networks.models import build
from tombola.runs.deployment import Report, Row, Setting, timing
from tombola.runs.deployment.contenders import CONTENDERS, DenseInPyTorch, InPyTorch, Masked
from tombola.sparse.tracing import Untraceable
from tombola.ticket.formats import onnx

from .conftest import TinyConv
from .test_export import finished  # noqa: F401


class Clock:
    """Goes on by what is called."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_calls_take_turns_and_the_median_counts(monkeypatch):
    clock, seen = Clock(), []
    monkeypatch.setattr(timing, "time", clock)

    def call(name, takes):
        def run():
            seen.append(name)
            clock.now += takes * (100 if len(seen) == 30 else 1)  # something else ran meanwhile

        return run

    found = timing.interleaved({"a": call("a", 1.0), "b": call("b", 0.5)}, seconds=20)
    assert found == {"a": 1.0, "b": 0.5}
    assert seen[: 2 * timing.WARM] == ["a", "b"] * timing.WARM
    rest = seen[2 * timing.WARM :]
    assert rest == ["a", "a", "b", "b"] * (len(rest) // 4)
    assert timing.LEAST <= len(rest) // 4 <= 8
    seen.clear()
    timing.interleaved({"a": call("a", 1.0)}, seconds=0)
    assert len(seen) == timing.WARM + 2 * timing.LEAST


ONE, MANY = Setting(1, 1), Setting(2, 64)


def report(*rows):
    return Report(rows, {"ticket": "a|b"})


def row(network, one, many, size, accuracy=None):
    layouts = {ONE: "contiguous", MANY: "channels-last"}
    return Row(network, "PyTorch", accuracy, size, {ONE: one, MANY: many}, layouts)


def test_what_is_gained_and_what_is_not_is_said():
    dense = row("dense", 0.002, 0.1, 1000)
    faster = Row("dense", "onnxruntime", None, 1100, {ONE: 0.001, MANY: 0.2}, {ONE: "", MANY: ""})
    found = report(dense, faster, row("masked", 0.002, 0.1, 1000), row("compacted", 0.0005, 0.099, 100))
    masked, compacted = found.verdicts
    assert masked == (
        "masked, PyTorch, beside the best dense network: nothing is gained at all (0.5 times as fast at batch 1, "
        "1 thread, as fast at batch 64, 2 threads, as large on disk)"
    )
    assert compacted == (
        "compacted, PyTorch, beside the best dense network: 2 times as fast at batch 1, 1 thread; 10 times as small on "
        "disk; nothing is gained otherwise (1.01 times as fast at batch 64, 2 threads)"
    )


def test_the_table_and_what_could_not_be_measured():
    found = report(row("dense", 0.002, 0.1, 1000, 97.5), Row("accelerated", "tombola", why="it holds an LSTM"))
    assert found.columns()[3:] == ["ms, batch 1, 1 thread", "ms, batch 64, 2 threads", "samples/s, batch 64, 2 threads"]
    assert found.cells() == [
        ["dense, PyTorch", "97.50 %", "1,000", "2", "100", "640"],
        ["accelerated, tombola", "-", "-", "-", "-", "-"],
    ]
    assert found.verdicts == ["accelerated, tombola: not measured: it holds an LSTM"]
    page = found.to_markdown()
    assert "| dense, PyTorch | 97.50 % | 1,000 | 2 | 100 | 640 |" in page
    assert "- ticket: a\\|b" in page
    first, second = found.to_dict()["rows"]
    assert first["times"][1] == {
        "threads": 2, "batch": 64, "layout": "channels-last", "latency_ms": 100.0, "throughput": 640.0,
    }  # fmt: skip
    assert second == {"network": "accelerated", "runtime": "tombola", "why_not": "it holds an LSTM"}


def test_convolutional_networks_run_in_both_layouts():
    convolutional = InPyTorch.of(TinyConv().eval())
    runs = convolutional.runs(torch.randn(2, 1, 4, 4), 1)
    assert list(runs) == ["contiguous", "channels-last"]
    with torch.no_grad():
        torch.testing.assert_close(*(run() for run in runs.values()))
    assert convolutional.model.conv.weight.is_contiguous()
    assert InPyTorch.of(build("lenet-300-100", (1, 8, 8), 10)).layouts == ("contiguous",)


def test_a_network_that_grows_is_said_to_be_larger():
    found = report(row("dense", 0.002, 0.1, 1000), row("accelerated", 0.001, 0.1, 1250))
    assert found.verdicts[0].endswith("(as fast at batch 64, 2 threads, 1.25 times as large on disk)")


def deployed(capsys, *arguments):
    assert main(["deploy", *map(str, arguments), "--seconds", "0", "--threads", "1"]) == 0
    return capsys.readouterr().out


def refuse(self, model):
    raise UsageError("it cannot be")


@pytest.mark.hard
def test_a_run_is_measured_in_every_form(capsys, finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Ticket, "accelerate", lambda self, model: model, raising=False)
    out = deployed(capsys, finished, "--out", tmp_path / "d")
    found = json.loads((tmp_path / "d" / "deploy.json").read_text())
    assert [(each["network"], each["runtime"]) for each in found["rows"]] == [
        (each.network, each.runtime) for each in CONTENDERS
    ]
    result = json.loads((finished / "result.json").read_text())
    accuracies = [each["test_accuracy"] for each in found["rows"]]
    assert accuracies[:2] == [result["dense_test_accuracy"]] * 2
    assert accuracies[2:] == pytest.approx([result["test_accuracy"]] * 4)
    sizes = {(each["network"], each["runtime"]): each["bytes"] for each in found["rows"]}
    assert 0 < sizes["accelerated", "tombola"] < 0.1 * sizes["masked", "PyTorch"]
    assert 0 < sizes["compacted", "PyTorch"] < 0.1 * sizes["masked", "PyTorch"]
    assert all([(t["threads"], t["batch"]) for t in each["times"]] == [(1, 1), (1, 64)] for each in found["rows"])
    assert len(found["verdicts"]) == 4
    assert found["verdicts"][0] in " ".join(out.split())
    assert "| accelerated, tombola |" in (tmp_path / "d" / "deploy.md").read_text()
    said = "The ticket's scores are of float32; the run's own are of bf16-mixed"
    assert said not in out
    assert said in deployed(capsys, finished, "--out", tmp_path / "d", "--precision", "bf16-mixed")


def test_who_cannot_be_built_is_listed_with_the_reason(capsys, finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Ticket, "accelerate", refuse, raising=False)
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    found = json.loads(deployed(capsys, finished / "ticket.safetensors", "--out", tmp_path, "--json"))
    why = {(each["network"], each["runtime"]): each.get("why_not") for each in found["rows"]}
    missing = "ONNX needs onnx, onnxscript, onnxruntime: install tombola[onnx]"
    assert why["dense", "onnxruntime"] == why["compacted", "onnxruntime"] == missing
    assert why["accelerated", "tombola"] == "it cannot be"
    assert why["masked", "PyTorch"] is None


def test_what_would_run_dense_is_not_measured_as_accelerated(capsys, finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(
        "tombola.sparse.inference.trace", lambda *_: (_ for _ in ()).throw(Untraceable("no sparse form"))
    )
    found = json.loads(deployed(capsys, finished, "--out", tmp_path, "--json"))
    why = {(each["network"], each["runtime"]): each.get("why_not") for each in found["rows"]}
    assert why["accelerated", "tombola"] == "the model runs dense: no sparse form"


def test_measurements_of_other_tickets_are_left_alone(capsys, finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tombola.runs.deployment.CONTENDERS", CONTENDERS[:1])
    deployed(capsys, finished)
    place = Path("deploy") / finished.name
    assert json.loads((place / "deploy.json").read_text())["ticket"] == str(finished / "ticket.safetensors")
    deployed(capsys, finished)
    shutil.copytree(finished, "other-run")
    before = (place / "deploy.json").read_bytes()
    assert main(["deploy", "other-run", "--out", str(place)]) == 2
    assert f"--out {place} holds the measurement of {finished}/ticket.safetensors: choose" in capsys.readouterr().err
    assert (place / "deploy.json").read_bytes() == before


NOISY = """
import sklearn.datasets, torch
from torch.utils.data import TensorDataset

def digits():
    x, y = map(torch.tensor, sklearn.datasets.load_digits(return_X_y=True))
    x = x.float().reshape(-1, 1, 8, 8) / 16
    noisy = x[1000:] + 0.6 * torch.randn(797, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x[:1000], y[:1000]), TensorDataset(noisy, y[1000:])
"""


def test_the_dense_score_of_other_data_is_left_out(capsys, finished, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tombola.runs.deployment.CONTENDERS", (DenseInPyTorch(), Masked()))
    assert main(["deploy", str(finished), "--data", "noisy:digits", "--out", "d", "--seconds", "0", "--json"]) == 0
    printed = capsys.readouterr()
    scores = [each.get("test_accuracy") for each in json.loads(printed.out)["rows"]]
    assert (scores[0], scores[1] is None) == (None, False)
    assert "the dense network's score is left out: the run has it of other data" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "-0.5"], "--seconds must be a number of at least 0, got -0.5"),
        (["--seconds", ".inf"], "--seconds must be a number of at least 0, got inf"),
        (["--seconds", "soon"], "--seconds must be a number, got"),
        (["--out", "RUN"], "is the run directory, whose files are the run's own"),
        (["--out", "RUN/config.yaml"], "is a file; it must be a directory"),
    ],
)
def test_bad_options_are_refused(arguments, message, capsys, finished):  # noqa: F811
    given = [each.replace("RUN", str(finished)) for each in arguments]
    assert main(["deploy", str(finished), *given]) == 2
    assert message in capsys.readouterr().err
