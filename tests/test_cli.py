import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tombola import CTS, Ticket
from tombola.cli.main import COMMANDS, main
from tombola.cli.show import sparsity_words
from tombola.finders import FINDERS, SNIP
from tombola.networks.models import read_weights
from tombola.runs.config import from_dict

from .conftest import command

QUICK = ["--epochs", "3", "--rewind-to", "1", "--steps", "20", "--threads", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli")
    assert main(["run", *QUICK, "--out", str(out)]) == 0
    return next(path for path in out.iterdir() if path.name != ".store")


def test_json_is_one_object_and_nothing_else(capsys, tmp_path):
    status, out, err = command(capsys, "run", *QUICK, "--sparsity", "98%", "--out", tmp_path, "--json")
    assert status == 0
    values = json.loads(out)
    assert {
        "run_dir", "ticket", "finder", "density", "kept", "prunable", "test_accuracy", "dense_test_accuracy", "seconds",
    } <= set(values)  # fmt: skip
    assert (values["kept"], values["prunable"]) == (1004, 50_200)
    assert 0 <= values["test_accuracy"] <= 100
    assert values["density"] == 0.02
    assert "search: 20/20" in err
    status, again, _ = command(capsys, "run", *QUICK, "--density", "0.02", "--out", tmp_path, "--json")
    assert json.loads(again)["repeated"]
    assert json.loads(again)["run_dir"] == values["run_dir"]


def test_a_repeated_run_says_so(capsys, finished):
    status, out, _ = command(capsys, "run", *QUICK, "--out", finished.parent)
    assert status == 0
    assert "finished already" in out
    assert "1,004 of 50,200" in out
    assert "dense" in out


BAD = [
    (["run", "--steps", "many"], "--steps must be a whole number of at least 1, got many"),
    (["run", "--epochs", "1.5"], "--epochs must be a whole number"),
    (["run", "--steps", "1:30"], "--steps must be a whole number of at least 1, got 1:30"),
    (["run", "--steps", "0x10"], "--steps must be a whole number of at least 1, got 0x10"),
    (["compare", "--finders", "random", "--print-config"], "--print-config is not an option"),
    (
        ["run", "--fit", "json:load", "--label-smoothing", "0.1"],
        "--label-smoothing must be 0 where json:load has a loss of its own, got 0.1\n",
    ),
    (["run", "--learning-rate", "fast"], "--learning-rate must be a number above 0, at most 1e+30, got fast"),
    (["run", "--milestones", "x"], "--milestones must be a list of whole numbers such as [40,80]"),
    (["run", "--density", "2"], "--density must lie in (0, 1], got 2; did you mean 2%?"),
    (
        ["run", "--sparsity", "98"],
        "--sparsity must lie in [0, 1) or be a percentage below 100%, got 98; did you mean 98",
    ),
    (["run", "--preset", "digit"], "tabular-mlp; did you mean digits?"),
    (
        ["run", "--finder", "snip:round=10"],
        "'round' is not an option of snip, which has allocation, granularity, rounds, "
        "search-batch-size, batches; did you mean rounds?",
    ),
    (
        ["run", "--model", "tombola.networks.models:biuld"],
        "--model 'tombola.networks.models:biuld' cannot be imported: "
        "tombola.networks.models has no biuld; did you mean build?",
    ),
    (["list"], "DIR is missing: the --out that the runs were made with"),
    (["audit"], "TICKET is missing: ticket file, or run directory"),
    (["study"], "FILE is missing: YAML file, or the name of a study that comes with tombola"),
    (["table"], "DIR is missing: the --out of a comparison"),
    (["export", "a", "b c", "d"], "export: give one TICKET (ticket file, or run directory), not also b c d"),
    (["evaluate", "a", "b", "--split", "test"], "give one TICKET (ticket file, or run directory), not also b\n"),
    (["info", "a", "b"], "give one TICKET (ticket file, run directory, or directory of a comparison), not also b"),
    (["list", "a", "b"], "give one DIR (the --out that the runs were made with), not also b"),
    (["export", "a", "b", "--zip"], "give one TICKET (ticket file, or run directory), not also b\n"),
    (["run", "digits"], "run: takes options alone, which begin with --, not digits"),
    (["run", "--finder", "cst"], "MODULE:NAME; did you mean cts?"),
    (["run", "--recipe", "standrad"], "--recipe 'standrad' is not one of the preset digits; allowed are standard; did"),
    (["run", "--precision", "32-ture"], "got '32-ture'; did you mean 32-true?"),
    (["table", "x", "--what", "summry"], "metrics, layers, got summry; did you mean summary?"),
    (["table", "x", "--format", "markdwon"], "latex, got markdwon; did you mean markdown?"),
    (["study", "digits-minii"], "there is no study digits-minii: give a YAML file, or one of "),
    (["study", "digits-minii"], "vgg16-cifar10; did you mean digits-mini?"),
    (
        ["study", "digits-mini", "--engine", "rya"],
        "--engine must be one of local, ray, slurm, got rya; did you",
    ),
    (["run", "--density", "0.1", "--sparsity", "0.9"], "--density excludes --sparsity: give one of them"),
    (["run", "--sparsity", "110%"], "--sparsity must lie in [0, 1)"),
    (["run", "--finder", "magic"], "--finder 'magic' is unknown; allowed are "),
    (
        ["run", "--preset", "imagenet"],
        "--preset 'imagenet' is unknown; allowed are cifar10-resnet20, cifar10-resnet20-fast, cifar10-vgg16",
    ),
    (["run", "--recipe", "published"], "--recipe 'published' is not one of the preset digits; allowed are standard"),
    (
        ["run", "--preset", "tabular-mlp", "--epochs", "4"],
        "--rewind-to must lie between 1 and 3 (draw-at rewind, 4 epochs), got 4, the preset's\n",
    ),
    (["run", "--preset", "tabular-mlp", "--rewind-to", "40"], "(draw-at rewind, 40 epochs), got 40\n"),
    (
        ["compare", "--preset", "tabular-mlp", "--epochs", "4", "--finders", "cts"],
        "--rewind-to must lie between 1 and 3 (draw-at rewind, 4 epochs), got 4, the preset's (finder cts)",
    ),
    (["run", "--clip-norm", "x"], "--clip-norm must be a number above 0, at most 1e+30, got x"),
    (["run", "--std", "[0.1,0.2]"], "--std must have one number for each of 1 channels, got (0.1, 0.2)"),
    (["run", "--fit", "nowhere:train"], "--fit 'nowhere:train' cannot be imported"),
    (["run", "--data", "nowhere:datasets"], "--data 'nowhere:datasets' cannot be imported"),
    (["run", "--finder", "magic", "--print-config"], "--finder 'magic' is unknown; allowed are "),
    (["run", "--precision", "fp4"], "--precision must be one of auto, 32-true, bf16-mixed, got 'fp4'"),
    (["run", "--objective", "best"], "--objective 'best' is unknown; allowed are loss, delta-loss"),
    (["run", "--exclude", "[head.*]"], "--exclude: no parameter of the model matches 'head.*'"),
    (["run", "--density", "1e-9"], "--density"),
    (["draw", "--epochs", "0"], "--epochs must be a whole number of at least 1, got 0"),
    (["train", "none.safetensors"], "there is no ticket file none.safetensors"),
    (["info", "."], ". is not a run directory with a ticket: there is no ticket.safetensors"),
    (["run", "--epochs", "1", "--milestones", "[]"], "--epochs must be at least 2 (draw-at rewind), got 1"),
    (
        ["run", "--search-precision", "fp4"],
        "--search-precision must be one of auto, 32-true, bf16-mixed, got 'fp4'",
    ),
    (["run", "--search-lr-schedule", "x"], "--search-lr-schedule must be one of one-cycle, drop, constant, got 'x'"),
    (["run", "--model", "mine.py:build"], "--model 'mine.py:build' must name the module without .py: mine:build"),
    (["run", "--objective", "feature-mse", "--features", "nope"], "--features: no module's name matches nope"),
    (["train", "--preset", "digits", "none.safetensors"], "there is no ticket file none.safetensors"),
    (["run", "--speed", "3"], "--speed is not an option"),
    (["run", "--step", "3"], "--step is not an option; did you mean --steps?"),
    (["compare", "--devices", "2"], "--devices is for run, draw and train, which divide one cell over processes"),
    (["study", "digits-mini", "--num-nodes=2"], "--num-nodes is for run, draw and train"),
    (["run", "--densty=3"], "--densty is not an option; did you mean --density?"),
    (["run", "--sparsity"], "--sparsity must be a number such as 0.02, 2% or 0.8**22, got nothing\n"),
    (["run", "--density", "0.8**100000000"], "--density takes powers up to 9999"),
    (["run", "--threads", "99999999"], "--threads must lie between 1 and"),
    (["run", "--device", "meta"], "--device 'meta' is not supported; allowed are auto, cpu, cuda and cuda:N"),
    (["run", "--held-out", "0.99999"], "--held-out 0.99999 of 1437 training samples leaves a side without"),
    (["run", "--milestones", "[9,3]"], "--milestones must be epochs from 1 on, in rising order"),
    (["run", "--out", ""], "--out must name a directory"),
    (["run", "--out", "s3://bucket/runs"], "--out must be a directory of a file system, and no address such as s3:"),
    (["run", "--out", "/proc/none"], "--out /proc/none cannot be written to"),
    (["run", "--config", "none.yaml"], "--config: there is no file none.yaml"),
    (["run", "--steps"], "--steps"),
    (["info", "none.safetensors"], "there is no ticket file none.safetensors"),
    (["evaluate", "none"], "there is no ticket file none"),
    (
        ["run", "--finder", "joint", "--draw-at", "trained"],
        "--draw-at must be rewind or init for the finder joint, got trained",
    ),
    (
        ["run", "--finder", "imp"],
        "--draw-at must be init for the finder imp, got rewind",
    ),
    (
        ["run", "--finder", "joint", "--steps", "9"],
        "--steps is not an option of the finder joint, which has --allocation, --granularity, --search-epochs, --share",
    ),
    (
        ["run", "--finder", "joint", "--rewind-to", "3", "--search-epochs", "3"],
        "--search-epochs must lie above 3, where the search starts, got 3",
    ),
    (["run", "--controller", ""], "--controller '' is unknown; allowed are gradbalance, "),
    (["preview", "--model", "vit_b_16"], "--model vit_b_16 cannot be run on inputs of [1, 8, 8]: "),
    (
        ["run", "--lr-schedule", "flat"],
        "--lr-schedule must be one of steps, one-cycle, cosine, warm-cosine, got 'flat'",
    ),
    (
        ["run", "--lr-schedule", "one-cycle"],
        "--milestones must be empty ([]) where lr_schedule is one-cycle, got [15, 25], the preset's\n",
    ),
    (["run", "--label-smoothing", "1"], "--label-smoothing must be a number in [0, 1), got 1"),
    (["run", "--nesterov", "true", "--momentum", "0"], "--nesterov must be false where momentum is 0"),
    (["fly"], f"there is no command 'fly'; allowed are {', '.join(COMMANDS)}"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_gets_one_sentence_and_status_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(capsys, *arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_file_with_unknown_keys_is_refused(capsys, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("steps: 7\nstepz: 3\n")
    status, _, err = command(capsys, "run", "--config", path)
    assert status == 2
    assert "--config: unknown key 'stepz'; did you mean steps?" in err
    assert len(err.strip().splitlines()) == 1


def test_printed_configuration_is_a_configuration(capsys, tmp_path):
    status, out, _ = command(capsys, "run", "--preset", "fashion-mnist-lenet", "--steps", "7", "--print-config")
    assert status == 0
    values = yaml.safe_load(out)
    assert (values["data"]["name"], values["finder"]["steps"]) == ("fashion-mnist", 7)
    assert values["training"]["milestones"] == [6, 9]
    path = tmp_path / "c.yaml"
    path.write_text(out)
    _, again, _ = command(capsys, "run", "--config", path, "--print_config")
    assert yaml.safe_load(again) == values
    _, changed, _ = command(capsys, "run", "--config", path, "--steps", "9", "--print-config")
    assert yaml.safe_load(changed)["finder"]["steps"] == 9


def test_another_finder_leaves_the_options_of_the_presets_own_behind(capsys):
    fast = ["--preset", "cifar10-resnet20-fast", "--data", "digits", "--image-size", "8", "--print-config"]
    kept = yaml.safe_load(command(capsys, "run", *fast)[1])
    assert (kept["finder"]["name"], kept["finder"]["epochs"], kept["finder"]["share"]) == ("joint", 34, 0.4)
    status, out, _ = command(capsys, "run", *fast, "--finder", "cts")
    left = yaml.safe_load(out)
    assert status == 0
    assert from_dict({key: left[key] for key in left if key not in {"preset", "recipe"}}).finder == CTS()
    assert left["training"] == kept["training"]
    published = ["--preset", "cifar10-resnet20", "--recipe", "published", "--data", "digits", "--print-config"]
    found = yaml.safe_load(command(capsys, "run", *published, "--finder", "cts")[1])["finder"]
    assert FINDERS.read(found) == CTS.published()
    found = yaml.safe_load(command(capsys, "run", *published, "--finder", "snip")[1])["finder"]
    assert FINDERS.read(found) == SNIP()


def test_a_sparsity_is_printed_as_the_density_it_means(capsys, tmp_path):
    _, out, _ = command(capsys, "run", "--sparsity=98%", "--print-config")
    assert yaml.safe_load(out)["density"] == 0.02
    path = tmp_path / "c.yaml"
    path.write_text(out)
    _, again, _ = command(capsys, "run", "--config", path, "--density", "0.1", "--print-config")
    assert yaml.safe_load(again)["density"] == 0.1


def test_weights_that_are_no_state_dict_are_not_exported(capsys, finished, tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(2)}, "epoch": 3}, tmp_path / "w.pt")
    ticket = finished / "ticket.safetensors"
    status, _, err = command(capsys, "export", ticket, "--weights", tmp_path / "w.pt", "--out", tmp_path / "p.pt")
    assert status == 2
    assert "does not fit the ticket" in err
    (tmp_path / "d.pt").mkdir()
    status, _, err = command(capsys, "export", ticket, "--out", tmp_path / "d.pt")
    assert (status, "is there already and is no file" in err) == (2, True)


def test_files_that_cannot_be_written_are_named_in_one_sentence(capsys, finished):
    status, _, err = command(capsys, "export", finished / "ticket.safetensors", "--out", "/proc/none.pt")
    assert status == 1
    assert err.startswith("tombola export: /proc/")
    assert "No such file or directory" in err


def test_output_into_a_closed_pipe_is_no_error(finished):
    command = [sys.executable, "-m", "tombola", "info", str(finished), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_presets_and_configuration_files(capsys, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert "must hold keys and values" in command(capsys, "run", "--config", path)[2]
    path.write_text("preset: fashion-mnist-lenet\n")
    _, out, _ = command(capsys, "run", "--config", path, "--print-config")
    assert yaml.safe_load(out)["data"]["name"] == "fashion-mnist"
    status, _, err = command(capsys, "run", "--config", path, "--preset", "digits")
    assert status == 2
    assert "--preset excludes --config" in err


def test_lists_and_configuration_files_in_any_order(capsys, tmp_path):
    def printed(*arguments):
        with pytest.raises(SystemExit):
            main(["run", *arguments, "--print-config"])
        return yaml.safe_load(capsys.readouterr().out)

    for text in ("*.bias,fc1.*", "[*.bias,fc1.*]", "['*.bias', \"fc1.*\"]"):
        assert printed("--exclude", text)["exclude"] == ["*.bias", "fc1.*"]
    assert printed("--exclude", "[ab]*")["exclude"] == ["[ab]*"]
    assert printed("--milestones", "4,8", "--epochs", "9")["training"]["milestones"] == [4, 8]
    assert printed("--milestones=[]")["training"]["milestones"] == []
    (tmp_path / "c.yaml").write_text("seed: 5\nsteps: 7\n")
    found = printed("--seed", "3", "--config", str(tmp_path / "c.yaml"))
    assert (found["seed"], found["finder"]["steps"]) == (3, 7)


def test_damaged_run_directories_say_what_to_do(capsys, tmp_path):
    run = ["run", *QUICK[:4], *QUICK[6:], "--finder", "random", "--out", tmp_path]
    assert command(capsys, *run)[0] == 0
    directory = next(path for path in tmp_path.iterdir() if path.name != ".store")
    for name in ("weights.safetensors", "ticket.safetensors"):
        before = (directory / name).read_bytes()
        (directory / name).write_bytes(before[:50]) if name.startswith("t") else (directory / name).unlink()
        status, out, _ = command(capsys, *run, "--json")
        assert status == 0
        assert not json.loads(out)["repeated"], "what is gone is made again"
        assert len((directory / name).read_bytes()) == len(before)
    (directory / "config.yaml").write_text("epochs: [")
    assert "is not YAML" in command(capsys, "evaluate", directory)[2]
    (directory / "config.yaml").write_text("epochs: abc")
    assert "epochs must be a whole number of at least 1, got abc" in command(capsys, "evaluate", directory)[2]
    (directory / "identity.json").write_text("{")
    status, _, err = command(capsys, *run)
    assert status == 1
    assert "identity.json is damaged" in err


def test_a_ticket_beside_somebodys_configuration_lies_in_no_run_directory(capsys, finished, tmp_path):
    shutil.copy(finished / "ticket.safetensors", tmp_path)
    (tmp_path / "config.yaml").write_text("preset: digits\nrecipe: standard\n")
    for name in ("train", "evaluate", "audit"):
        status, _, err = command(capsys, name, tmp_path / "ticket.safetensors")
        assert (status, err.count("\n")) == (2, 1)
        assert "lies in no run directory: say --preset, or --model and --data" in err


def test_a_moved_run_directory_shows_where_it_lies_now(capsys, finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "moved")
    _, out, _ = command(capsys, "run", *QUICK, "--out", tmp_path / "moved", "--json")
    assert json.loads(out)["run_dir"] == str(tmp_path / "moved" / finished.name)


def test_the_configuration_of_a_run_directory_repeats_the_run(capsys, finished):
    status, out, _ = command(capsys, "run", "--config", finished / "config.yaml", "--out", finished.parent, "--json")
    assert status == 0
    assert json.loads(out)["run_dir"] == str(finished)


def test_info_of_a_ticket_and_of_a_run(capsys, finished):
    status, out, _ = command(capsys, "info", finished / "ticket.safetensors")
    assert status == 0
    assert "1,004 of 50,200" in out
    assert "fc1.weight" in out
    assert "reverse-kl" in out
    assert "features" not in out, "an option that is empty"
    _, out, _ = command(capsys, "info", finished, "--json")
    values = json.loads(out)
    assert sum(layer["kept"] for layer in values["layers"]) == values["kept"] == 1004
    assert values["provenance"]["finder"]["name"] == "cts"


def test_evaluate_measures_what_the_run_measured(capsys, finished):
    result = json.loads((finished / "result.json").read_text())
    status, out, _ = command(capsys, "evaluate", finished, "--json")
    assert status == 0
    assert json.loads(out)["accuracy"] == result["test_accuracy"]
    _, out, _ = command(capsys, "evaluate", finished / "ticket.safetensors", "--split", "held-out", "--json")
    assert json.loads(out)["samples"] == 144
    start = finished / "start.safetensors"
    _, out, _ = command(capsys, "evaluate", finished, "--weights", start, "--json")
    assert json.loads(out)["accuracy"] < result["test_accuracy"]
    status, _, err = command(capsys, "evaluate", finished, "--weights", finished / "scores.safetensors")
    assert status == 2
    assert "lacks fc1.bias, fc2.bias, fc3.bias" in err
    status, _, err = command(capsys, "evaluate", finished, "--split", "train")
    assert status == 2
    assert "--split must be one of test, held-out, got train" in err


def test_preview_lists_what_would_be_pruned(capsys):
    status, out, _ = command(capsys, "preview", "--model", "resnet20", "--exclude", "[fc.*]", "--sparsity", "99%")
    assert status == 0
    assert "excluded by name" in out
    assert "290,448 of 292,666 parameters are prunable" in out
    assert "keeps 2,904 weights" in out
    _, out, _ = command(capsys, "preview", "--json")
    assert json.loads(out)["prunable"] == 50_200
    channels = ("preview", "--model", "resnet20-w8", "--granularity", "channel", "--sparsity", "80%")
    assert "channel: 224 groups of 72 to 1,018 weights, kept or pruned whole" in command(capsys, *channels)[1]
    assert json.loads(command(capsys, *channels, "--json")[1])["groups"] == 224


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_export_writes_plain_weights_with_zeros(capsys, finished, tmp_path, ending):
    plain, start = tmp_path / f"plain{ending}", finished / "start.safetensors"
    assert command(capsys, "export", finished, "--weights", start, "--out", plain)[0] == 0
    found, before = read_weights(plain), load_file(start)
    ticket = Ticket.load(finished / "ticket.safetensors")
    assert list(found) == list(before)
    for name, value in before.items():
        expected = value * ticket[name] if name in ticket else value
        assert torch.equal(found[name], expected)
    # And such a file is a start for another run, the ticket's zeros included.
    status, out, _ = command(
        capsys, "run", *QUICK, "--weights", plain, "--draw-at", "init", "--out", tmp_path / "o", "--json"
    )
    assert status == 0
    again = load_file(Path(json.loads(out)["run_dir"]) / "start.safetensors")
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_weights_that_cannot_be_used(capsys, finished, tmp_path):
    (tmp_path / "junk.pt").write_bytes(b"junk")
    (tmp_path / "w.txt").write_bytes(b"")
    torch.save(torch.ones(1), tmp_path / "tensor.pt")
    for path, message in (
        (tmp_path / "none.pt", "there is no file"),
        (tmp_path / "junk.pt", "cannot be read"),
        (tmp_path / "w.txt", "must end in .safetensors, .pt, .pth"),
        (tmp_path / "tensor.pt", "must hold a state_dict, got Tensor"),
        (finished / "scores.safetensors", "lacks fc1.bias, fc2.bias, fc3.bias"),
    ):
        status, _, err = command(capsys, "run", *QUICK, "--weights", path, "--out", tmp_path / "out")
        assert status == 2
        assert message in err
        assert not (tmp_path / "out").exists()
    status, _, err = command(capsys, "export", finished, "--out", tmp_path / "x.bin")
    assert status == 2
    assert "--out" in err


def test_help_names_every_command_and_option(capsys):
    status, out, _ = command(capsys, "--help")
    assert status == 0
    assert all(name in out for name in COMMANDS)
    for name in COMMANDS:
        status, out, _ = command(capsys, name, "--help")
        assert status == 0
        assert "example: tombola" in out
    _, out, _ = command(capsys, "run", "--help")
    for option in ("density", "sparsity", "finder", "objective", "steps", "epochs", "draw-at", "rewind-to", "model",
                   "data", "data-dir", "seed", "out", "json", "config", "preset"):  # fmt: skip
        assert f"--{option}" in out
    assert command(capsys, "--version")[1].startswith("tombola 0.")


def test_help_lists_what_there_is():
    from tombola.core.allocation import ALLOCATIONS
    from tombola.core.concrete import RELAXATIONS
    from tombola.core.controllers import CONTROLLERS
    from tombola.core.granularity import GRANULARITIES
    from tombola.data import AUGMENTATIONS, DATASETS
    from tombola.networks.models import MODELS
    from tombola.objectives import OBJECTIVES
    from tombola.runs.config import short_forms
    from tombola.training import OPTIMIZERS

    known = {
        "data": DATASETS, "model": MODELS, "finder": FINDERS, "objective": OBJECTIVES, "controller": CONTROLLERS,
        "augmentation": AUGMENTATIONS, "relaxation": RELAXATIONS, "allocation": ALLOCATIONS, "optimizer": OPTIMIZERS,
        "granularity": GRANULARITIES,
    }  # fmt: skip
    for name, names in known.items():
        text = " ".join(f.metadata["help"] for _, f, _ in short_forms()[name].owners)
        assert all(each in text for each in names), name


def test_help_says_whose_a_default_is(capsys):
    text = " ".join(command(capsys, "run", "--help")[1].replace("-\n", "-").split())
    rounds = "2 (continuous-sparsification); 60 (force); 29 (gem-miner); 50 (gradual); 100 (synflow); else 1"
    assert f"(default: {rounds})" in re.sub(r"- +", "-", text)
    assert "588/steps, at most 1, with one-cycle, or 0.1 (cts); else 0.1" in text
    assert "Debian's package puts them (fashion-mnist)" in text


def test_finders_come_by_the_alphabet_behind_cts():
    first, *rest = FINDERS
    assert (first, rest) == ("cts", sorted(rest))


def test_a_command_that_is_nearly_right(capsys):
    status, _, err = command(capsys, "rum")
    assert status == 2
    assert err.endswith("; did you mean run?\n")


def test_the_list_of_commands_needs_no_torch():
    code = "import sys; from tombola.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_an_interrupted_run_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tombola.runs.pipeline.run", interrupt)
    status, _, err = command(capsys, "run", *QUICK, "--out", tmp_path)
    assert status == 130
    assert "the same command goes on from the last checkpoint" in err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_too_little_memory_is_said_with_what_needs_less(capsys, tmp_path, monkeypatch, error):
    def overflow(*arguments, **options):
        raise error

    monkeypatch.setattr("tombola.runs.pipeline.run", overflow)
    status, _, err = command(capsys, "run", *QUICK, "--out", tmp_path)
    assert status == 1
    assert err.startswith("tombola run: the memory does not suffice; less takes a smaller --batch-size")
    assert err.count("\n") == 1


def test_other_errors_of_pytorch_keep_their_traceback(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr("tombola.runs.pipeline.run", fail)
    with pytest.raises(RuntimeError, match="something else"):
        main(["run", *QUICK, "--out", str(tmp_path)])


@pytest.mark.hard
def test_the_demo_shows_three_networks_and_then_itself_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    demo = [sys.executable, "-m", "tombola", "demo"]  # as `make demo` calls it
    first = subprocess.run(demo, capture_output=True, text=True, check=True).stdout
    for words in ("dense", "cts ticket", "random ticket", "1,004 of 50,200", "98 %"):
        assert words in first
    assert "finished already" not in first
    second = command(capsys, "demo")[1]
    assert "finished already" in second
    assert first.split("64-300")[1] == second.split("64-300")[1]


@pytest.mark.parametrize(
    ("kept", "total", "words"),
    [
        (2_005, 270_896, "99.26 %"),
        (1_004, 50_200, "98 %"),
        (50_200, 50_200, "0 %"),
        (0, 50_200, "100 %"),
        (1, 50_200, "99.998 %"),
        (96, 1_000_000, "99.9904 %"),
        (1, 86_000_000, "99.9999988 %"),
    ],
)
def test_a_sparsity_does_not_round_up_to_all(kept, total, words):
    assert sparsity_words(kept, total) == words
