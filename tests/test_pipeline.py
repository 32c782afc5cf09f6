import io
import json
import linecache
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tombola import Ticket, UsageError
from tombola.core.progress import Lines, Silent
from tombola.finders import FINDERS
from tombola.networks import runtime
from tombola.runs import pipeline
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig, built, from_dict, load_preset, parse_density, parse_sparsity, preset_names
from tombola.storage.identity import differing_keys, digest
from tombola.storage.store import MemoryStore
from tombola.training import State

from .conftest import Killed, Listening, dying

QUICK = built([load_preset("digits"), {"epochs": 4, "rewind_to": 1, "steps": 30, "milestones": (2,), "threads": 1}])


def changed(config, **values):
    """The configuration with other values, by their names on the command line."""
    return built([config.to_dict(), values])


def run(config, out, every=1e9):
    return pipeline.run(config, out, Silent(), checkpoint_seconds=every)


def contents(directory):
    """Everything in a run directory that must be equal to the bit; seconds and places may differ."""
    found = {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix in {".jsonl", ".yaml"}}
    found |= {
        name: {key: value.tolist() for key, value in load_file(directory / f"{name}.safetensors").items()}
        for name in ("scores", "start", "weights")
    }
    found["ticket"] = Ticket.load(directory / "ticket.safetensors")
    result = json.loads((directory / "result.json").read_text())
    for key in ("seconds", "dense_seconds", "seconds_by_stage", "draw_cost", "cost"):
        del result[key]
    return found | {"result": result}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(QUICK, tmp_path_factory.mktemp("finished"))


def test_a_run_directory_holds_what_it_promises(finished):
    names = {path.name for path in finished.directory.iterdir()}
    assert names == {
        "config.yaml", "digests.json", "environment.json", "identity.json", "metrics.jsonl", "result.json",
        "scores.safetensors", "start.safetensors", "ticket.safetensors", "weights.safetensors",
    }  # fmt: skip
    config = yaml.safe_load((finished.directory / "config.yaml").read_text())
    assert config["finder"]["objective"] is None, "what is unset is decided where the ticket is drawn"
    assert config["finder"]["controller"] == {"name": "proportional", "width": 0.05}
    assert config["precision"] == "32-true"
    assert config["layout"] == "contiguous"
    assert set(config) == set(vars(RunConfig()))
    assert from_dict(config) == replace(
        QUICK, precision="32-true", search_precision="32-true", layout="contiguous", device="cpu", execution="dense"
    )
    ticket = Ticket.load(finished.directory / "ticket.safetensors")
    weights = load_file(finished.directory / "weights.safetensors")
    assert all((weights[name][~mask] == 0).all() for name, mask in ticket.items())
    assert finished.values["kept"] == 1004
    assert finished.values["prunable"] == 50_200
    rows = [json.loads(line) for line in (finished.directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["dense training"] * 4 + ["search"] * 3 + ["ticket training"] * 3
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2, 3, 4, 2, 3, 4]


def test_a_finished_run_is_shown_not_done_again(finished, monkeypatch):
    monkeypatch.setattr(pipeline, "_draw", None)
    monkeypatch.setattr(pipeline, "_train", None)
    again = run(QUICK, finished.directory.parent)
    assert again.repeated
    assert again.values == finished.values


def test_the_same_seed_gives_the_same_run_to_the_bit(finished, tmp_path):
    torch.rand(3)
    assert contents(run(QUICK, tmp_path).directory) == contents(finished.directory)


@pytest.mark.parametrize("kind", ["dense", "draw", "train"])
@pytest.mark.parametrize("after", [1, 17])
def test_a_run_killed_in_any_stage_goes_on_to_the_same_bits(finished, tmp_path, kind, after):
    with pytest.raises(Killed), dying(after, kind):
        run(QUICK, tmp_path, every=0)
    (directory,) = (path for path in tmp_path.iterdir() if path.name != ".store")
    assert not (directory / "result.json").exists()
    resumed = run(QUICK, tmp_path)
    assert resumed.directory == directory
    assert contents(resumed.directory) == contents(finished.directory)


def test_with_two_threads_too(tmp_path):
    both = changed(QUICK, threads=2)
    with pytest.raises(Killed), dying(17, "draw"):
        run(both, tmp_path / "killed", every=0)
    assert contents(run(both, tmp_path / "killed").directory) == contents(run(both, tmp_path / "straight").directory)


@pytest.mark.parametrize(
    ("kind", "after", "said"),
    [
        ("dense", 3, "dense training: goes on in epoch 1 of "),
        ("draw", 2, "search: goes on at step 2 of "),
        ("train", 3, "ticket training: goes on in epoch 2 of "),
    ],
)
def test_a_run_says_once_from_where_it_goes_on(tmp_path, kind, after, said):
    with pytest.raises(Killed), dying(after, kind):
        run(QUICK, tmp_path, every=0)
    lines = io.StringIO()
    pipeline.run(QUICK, tmp_path, Lines(lines))
    assert [line.rstrip("0123456789\n") for line in lines.getvalue().splitlines() if "goes on" in line] == [said]


def test_a_run_that_was_not_stopped_goes_on_from_nowhere(tmp_path):
    lines = io.StringIO()
    pipeline.run(QUICK, tmp_path, Lines(lines))
    assert "goes on" not in lines.getvalue()


def test_cells_share_the_dense_training(finished, monkeypatch):
    from tombola import training

    titles = []
    original = training.fit

    def watching(setup, start, until, entry, title, ticket=None):
        titles.append(title)
        return original(setup, start, until, entry, title, ticket)

    monkeypatch.setattr("tombola.training.trainer.fit", watching)
    other = run(changed(QUICK, finder="random"), finished.directory.parent)
    assert titles == ["ticket training"]
    assert other.values["dense_test_accuracy"] == finished.values["dense_test_accuracy"]
    assert other.values["seconds_by_stage"]["pretraining"] == finished.values["seconds_by_stage"]["pretraining"]


@pytest.mark.parametrize("at", ["init", "rewind", "trained"])
def test_where_a_ticket_is_drawn_and_where_it_starts(tmp_path, at):
    found = run(changed(QUICK, draw_at=at, steps=3), tmp_path)
    provenance = Ticket.load(found.values["ticket"]).provenance
    assert (provenance.at, provenance.epoch) == (at, {"init": 0, "rewind": 1, "trained": 4}[at])
    assert FINDERS.read(provenance.finder).objective.name == ("loss" if at == "init" else "reverse-kl")
    start = load_file(found.directory / "start.safetensors")
    rows = [json.loads(line) for line in (found.directory / "metrics.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows if row["stage"] == "ticket training"]
    assert epochs == ([1, 2, 3, 4] if at == "init" else [2, 3, 4])
    # The trained weights' cost covers all four epochs of 1,293 samples.
    before = {"init": 0, "rewind": 1, "trained": 4}[at] * 1293
    assert provenance.cost.backward == before + 3 * 64
    assert len(start) == 6


def test_every_setting_that_matters_is_part_of_the_identity():
    def name(config):
        return digest(Cell.prepare(resolve(config)).identity())

    base = name(QUICK)
    changes = [
        {"seed": 1}, {"density": 0.03}, {"steps": 31}, {"objective": "loss"}, {"controller": "gradbalance"},
        {"learning_rate": 0.2}, {"momentum": 0.8}, {"held_out": 0.2}, {"batch_size": 32}, {"epochs": 5},
        {"augmentation": "flip-crop"}, {"image_size": 4}, {"finder": "random"},
        {"search_batch_size": 100}, {"search_lr_schedule": "drop"},
    ]  # fmt: skip
    names = [name(changed(QUICK, **change)) for change in changes]
    assert len({base, *names}) == len(changes) + 1
    # A default written out, and how many cores there are.
    assert name(changed(QUICK, controller="proportional", threads=2)) == base


def test_the_code_of_ones_own_model_is_part_of_the_identity(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    identities = []
    for activation in ("ReLU", "Tanh"):
        code = "from torch import nn\ndef build(shape, classes):\n"
        code += f"    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.{activation}(), nn.Linear(8, classes))\n"
        (tmp_path / "own_tombola.py").write_text(code)
        sys.modules.pop("own_tombola", None)
        linecache.clearcache()
        cell = Cell.prepare(resolve(changed(QUICK, model="own_tombola:build", steps=2, density=0.5)))
        identities.append(cell.identity())
    assert differing_keys(*identities) == ["config.model.code", "model"]


def test_a_model_that_bf16_would_spoil_is_trained_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "has_bf16_instructions", lambda device: True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    code = "from torch import nn\ndef build(shape, classes):\n    layers = [nn.Conv2d(1, 4, 3, 2, 1)]\n"
    code += "    layers += [nn.Conv2d(4, 4, 3, 2, 1) for _ in range(3)]\n"
    code += "    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, classes))\n"
    (tmp_path / "small_images.py").write_text(code)
    small = changed(QUICK, model="small_images:build", steps=2, density=0.5)
    cell = Cell.prepare(resolve(small))
    assert (cell.config.precision, cell.config.search_precision) == ("32-true", "32-true")
    assert (cell.runtime.precision, cell.search_runtime.precision) == ("32-true", "32-true")
    for wrong in ({"precision": "bf16-mixed"}, {"search_precision": "bf16-mixed"}):
        with pytest.raises(UsageError, match="'bf16-mixed' gives wrong gradients"):
            Cell.prepare(resolve(changed(small, **wrong)))


def test_a_directory_of_another_configuration_is_refused(finished, tmp_path):
    found = run(changed(QUICK, steps=2, seed=1), tmp_path)
    identity = found.directory / "identity.json"
    identity.write_text(identity.read_text().replace('"seed": 1', '"seed": 9'))
    with pytest.raises(UsageError, match=r"differs in config\.seed"):
        run(changed(QUICK, steps=2, seed=1), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 0.0}, r"density must lie in \(0, 1\], got 0.0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"rewind_to": 4}, r"rewind_to must lie between 1 and 3"),
        ({"rewind_to": 0}, r"rewind_to must lie between 1 and 3"),
        ({"draw_at": "end"}, "draw_at must be one of init, rewind, trained, got 'end'"),
        ({"finder": "magic"}, "finder 'magic' is unknown; allowed are "),
        ({"finder": "random", "steps": 30}, "steps is not an option of the finder random"),
        ({"model": "vgg"}, "model 'vgg' is unknown; allowed are lenet-300-100"),
        ({"data": "cats"}, "data 'cats' is unknown; allowed are digits, mnist, fashion-mnist"),
        ({"objective": "best"}, "objective 'best' is unknown; allowed are loss, delta-loss, grad-norm"),
        ({"controller": "pid"}, "controller 'pid' is unknown; allowed are gradbalance, proportional, lagrangian"),
        (
            {"augmentation": "mixup"},
            "augmentation must be one of none, flip, flip-crop, resized-crop, randaugment, got 'mixup'",
        ),
        ({"augmentation": "flip-crop", "image_size": 4}, "augmentation flip-crop needs images of at least 5x5"),
        ({"precision": "fp4"}, "precision must be one of auto, 32-true, bf16-mixed, got 'fp4'"),
        ({"layout": "diagonal"}, "layout must be one of auto, contiguous, channels-last, got 'diagonal'"),
        ({"device": "tpu9"}, "device 'tpu9' is unknown"),
        ({"held_out": 1.0}, r"held_out must be a number in \[0, 1\)"),
        ({"seed": -1}, "seed must be a whole number that is not negative"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"learning_rate": 1e39}, r"learning_rate must be a number above 0, at most 1e\+30"),
        ({"weight_decay": float("inf")}, r"weight_decay must be a number between 0 and 1e\+30"),
        ({"density": 1e-9}, "smallest possible density"),
    ],
)
def test_bad_values_are_refused_and_nothing_is_written(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        run(changed(QUICK, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_out_must_be_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; it must be a directory"):
        run(QUICK, tmp_path / "file")


def test_densities_and_sparsities_are_read_exactly():
    assert parse_density("0.02") == 0.02
    assert parse_density(0.02) == 0.02
    assert parse_density("2%") == 0.02
    assert parse_density("0.8**22") == pytest.approx(0.8**22, rel=1e-15)
    assert parse_sparsity("98%") == 0.02
    assert parse_sparsity("0.98") == 0.02
    assert parse_sparsity(0) == 1
    for text in ("2", "-1%", "0", "abc", "1/0", "nan", "0.5**", "__import__('os')"):
        with pytest.raises(UsageError, match="density must"):
            parse_density(text)
    for text in ("100%", "1", "-0.1", "x"):
        with pytest.raises(UsageError, match="sparsity must"):
            parse_sparsity(text)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_whole_and_sensible(name):
    config = from_dict(load_preset(name))
    config.check()
    assert resolve(config).finder.name == ("joint" if name == "cifar10-resnet20-fast" else "cts")
    if name == "fashion-mnist-lenet":
        assert config.rewind_to == 1
        assert config.training.epochs >= 6


def test_unknown_keys_and_presets_are_refused():
    with pytest.raises(UsageError, match=r"config: unknown key 'stepz'; did you mean steps\?"):
        from_dict({"stepz": 1})
    with pytest.raises(UsageError, match="preset 'x' is unknown; allowed are cifar10-resnet20"):
        load_preset("x")


def test_an_objective_on_held_out_data_sees_classes_mixed_even_where_they_lie_sorted(monkeypatch):
    # The search normalises by the batch: statistics of one class are not those of the data.
    monkeypatch.setattr("tombola.data.arrays.Arrays.at_once", 20)
    cell = Cell.prepare(resolve(QUICK))
    held = cell.splits.held_out
    held = held.take(held.targets.argsort())
    cell = replace(cell, splits=replace(cell.splits, held_out=held))
    problem = cell.problem(State.of(cell.model), MemoryStore(), Silent(), None)
    targets = [item.batch[1] for item in problem.held_out.epoch(0)]
    assert sorted(torch.cat(targets).tolist()) == held.targets.tolist()
    assert all(len(part.unique()) > 4 for part in targets[:-1])


def test_tickets_of_all_finders_are_looked_at_on_the_same_batches():
    looks = []
    for finder, size in (("cts", 64), ("saliency", 512)):
        cell = Cell.prepare(resolve(changed(QUICK, finder=finder)))
        assert cell.config.finder.batch_size == size
        problem = cell.problem(State.of(cell.model), MemoryStore(), Silent(), None)
        looks.append([item.batch[0] for item in problem.probe_batches()])
    assert [len(batch) for batch in looks[0]] == [512, 512, 269]
    assert all(torch.equal(*pair) for pair in zip(*looks, strict=True))


@pytest.mark.parametrize(
    ("milestones", "said"),
    [((1,), []), ((1, 2, 40), ["no drop of the learning rate at milestones 2, 40: epochs is 2"]), ((), [])],
)
def test_milestones_beyond_the_last_epoch_are_named(tmp_path, milestones, said):
    listener = Listening()
    pipeline.draw(changed(QUICK, finder="random", epochs=2, milestones=milestones), tmp_path, listener)
    assert [line for line in listener.said if "at milestones" in line] == said
