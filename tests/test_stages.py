"""Draw, train, run, evaluate and export on the command line, one after another, with a model and data of one's own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tombola import Ticket
from tombola.cli.main import main
from tombola.runs.cell import Cell

from .conftest import OWN, as_json, command


def test_the_stages_one_by_one_end_where_a_run_ends(capsys, brought, tmp_path):
    whole = as_json(capsys, "run", *OWN, "--out", tmp_path / "whole")
    drawn = as_json(capsys, "draw", *OWN, "--out", tmp_path / "parts")
    assert Ticket.load(drawn["ticket"]) == Ticket.load(whole["ticket"])
    assert not drawn["repeated"]
    assert as_json(capsys, "draw", *OWN, "--out", tmp_path / "parts")["repeated"]
    trained = as_json(capsys, "train", drawn["ticket"], "--out", tmp_path / "trained")
    expected, found = (load_file(f"{values['run_dir']}/weights.safetensors") for values in (whole, trained))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert trained["test_accuracy"] == whole["test_accuracy"]
    assert as_json(capsys, "train", drawn["ticket"], "--out", tmp_path / "trained")["repeated"]
    other = as_json(capsys, "train", drawn["run_dir"], "--seed", "1", "--out", tmp_path / "trained")
    assert other["run_dir"] != trained["run_dir"]
    # And `run` goes on from what `draw` left behind.
    finished = as_json(capsys, "run", *OWN, "--out", tmp_path / "parts")
    assert finished["run_dir"] == drawn["run_dir"]
    assert finished["test_accuracy"] == whole["test_accuracy"]
    assert main(["info", finished["run_dir"]]) == 0
    assert f"test accuracy (%): {whole['test_accuracy']:.2f}" in capsys.readouterr().out


QUICK = ["--preset", "digits", "--epochs", "3", "--milestones", "[]", "--train-samples", "200", "--threads", "1"]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights_of(found):
    return load_file(f"{found['run_dir']}/weights.safetensors")


@pytest.mark.parametrize(
    ("drawn", "asked"),
    [
        (["--rewind-to", "1", "--finder", "lrr:rate=0.5:back-to=2", "--density", "0.3"], []),
        (["--rewind-to", "2", "--draw-at", "trained", "--finder", "magnitude", "--density", "0.1"], QUICK),
    ],
)
def test_a_ticket_is_trained_in_the_epochs_of_its_run(drawn, asked, capsys, tmp_path):
    whole = as_json(capsys, "run", *QUICK, *drawn, "--out", tmp_path / "whole")
    again = as_json(capsys, "train", whole["run_dir"], *asked, "--out", tmp_path / "again")
    expected, found = weights_of(whole), weights_of(again)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_ticket_made_by_hand_is_trained_from_a_run_as_the_runs_own(capsys, tmp_path):
    ticket = Path(as_json(capsys, "draw", *QUICK, "--rewind-to", "1", "--density", "0.1", "--finder", "snip",
                          "--out", tmp_path)["ticket"])  # fmt: skip
    mine = ticket.with_name("mine.safetensors")
    Ticket({name: mask.flip(0) for name, mask in Ticket.load(ticket).items()}).save(mine)
    trained = as_json(capsys, "train", mine, "--out", tmp_path)["run_dir"]
    again = as_json(capsys, "train", trained, "--out", tmp_path / "again")["run_dir"]
    epochs = [[row["epoch"] for row in read_lines(Path(run) / "metrics.jsonl")] for run in (trained, again)]
    assert epochs == [[2, 3], [2, 3]], "from where the run's weights are"
    assert "│ ticket │" in command(capsys, "list", tmp_path)[1], "and not what the run's options name"
    _, out, _ = command(capsys, "audit", mine, "--seeds", "1", "--out", tmp_path)
    assert "scores inverted within layers: not possible" in out


def test_a_recipe_is_one_of_a_presets(capsys, tmp_path):
    drawn = as_json(capsys, "draw", *QUICK, "--finder", "random", "--density", "0.1", "--out", tmp_path)
    status, out, err = command(capsys, "train", drawn["run_dir"], "--recipe", "standard")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--recipe is one of a preset's: say --preset too" in err


def test_an_audit_from_within_a_run_lies_beside_it(capsys, tmp_path, monkeypatch):
    run = as_json(capsys, "run", *QUICK, "--finder", "random", "--density", "0.1", "--out", tmp_path)["run_dir"]
    monkeypatch.chdir(run)
    before = sorted(Path().iterdir())
    command(capsys, "audit", ".", "--seeds", "1")
    assert sorted(Path().iterdir()) == before
    assert list(tmp_path.glob("audit-*"))


def test_channels_are_silent_in_the_audit_of_a_ticket_alone(capsys, tmp_path, monkeypatch):
    channels = ["--finder", "random:granularity=channel", "--density", "0.3"]
    run = Path(as_json(capsys, "run", *QUICK, *channels, "--out", tmp_path / "runs")["run_dir"])
    silent = []
    original = Cell.trainer

    def watching(cell, store, progress, of=None):
        silent.append(of)
        return original(cell, store, progress, of)

    monkeypatch.setattr(Cell, "trainer", watching)
    alone = shutil.copy(run / "ticket.safetensors", tmp_path / "alone.safetensors")
    given = ["--weights", run / "start.safetensors", *QUICK, "--seeds", "1", "--out", tmp_path / "audits"]
    command(capsys, "audit", alone, *given)
    assert set(silent) == {True}


def test_a_ticket_file_alone_with_ones_own_model_data_and_weights(capsys, brought, tmp_path):
    whole = as_json(capsys, "run", *OWN, "--out", tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    ticket = tmp_path / "alone" / "ticket.safetensors"
    Ticket.load(whole["ticket"]).save(ticket)
    own = ["--model", "brought:build", "--data", "brought:datasets"]
    weights = f"{whole['run_dir']}/weights.safetensors"
    found = as_json(capsys, "evaluate", ticket, *own, "--weights", weights)
    assert found["accuracy"] == whole["test_accuracy"]
    start = f"{whole['run_dir']}/start.safetensors"
    trained = as_json(
        capsys, "train", ticket, *own, "--weights", start, "--epochs", "4", "--batch-size", "20",
        "--milestones", "[]", "--out", tmp_path / "o", "--threads", "1", "--learning-rate", "0.1",
    )  # fmt: skip
    assert trained["kept"] == whole["kept"]
    assert trained["test_accuracy"] > 60
    for arguments, message in (
        (["train", whole["run_dir"], "--epochs", "1"], "--epochs must lie above 1, the run's rewind point, got 1"),
        (["train", ticket], "lies in no run directory: say --preset, or --model and --data"),
        (["train", ticket, *own], "--weights: give the weights that the ticket is trained from"),
        (["train", ticket, *own, "--weights", start, "--epochs", "1"], "--epochs must lie above 1"),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err


def test_export_never_writes_over_what_it_reads(brought, capsys, tmp_path):
    drawn = as_json(capsys, "draw", *OWN, "--out", tmp_path / "o")
    assert main(["export", drawn["run_dir"]]) == 2
    assert "is not trained yet; train it, or give a state_dict" in capsys.readouterr().err
    start = f"{drawn['run_dir']}/start.safetensors"
    assert main(["export", drawn["run_dir"], "--weights", start, "--out", drawn["ticket"]]) == 2
    assert "whose files are the run's own" in capsys.readouterr().err
    bare = tmp_path / "bare.safetensors"
    Ticket.load(drawn["ticket"]).save(bare)
    assert main(["export", str(bare), "--weights", start, "--out", str(bare)]) == 2
    assert "is a file that is being read" in capsys.readouterr().err
    assert main(["export", str(bare)]) == 2
    assert "--weights: the ticket lies in no run directory" in capsys.readouterr().err
    assert Ticket.load(bare) == Ticket.load(drawn["ticket"])
