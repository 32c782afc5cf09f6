"""What users bring: a training function, a model, a recipe; in Python and on the command line."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import tombola
from tombola import CTS, Job, Random, Recipe, Ticket, UsageError
from tombola.cli.main import main
from tombola.cli.runs import read_config
from tombola.core.progress import Silent
from tombola.networks.models import build, publish_batch_norm_
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.runs.cell import Cell
from tombola.runs.config import from_dict, load_preset
from tombola.storage.store import MemoryStore
from tombola.training import SGD, State, TrainingSetup, fit

from .conftest import batches, mlp

MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, classes))

def numbers(count, seed):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(dim=1))

def datasets():
    return numbers(200, 0), numbers(60, 1)

def train(model, job):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    job.hold(model, optimizer)
    for epoch in job.epochs:
        for x, y in job.batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("brought", None)


OWN = ["--model", "brought:build", "--data", "brought:datasets", "--epochs", "4", "--rewind-to", "1", "--steps", "60",
       "--density", "0.3", "--threads", "2", "--batch-size", "20"]  # fmt: skip


def tombola_json(capsys, *arguments):
    status = main([str(argument) for argument in arguments] + ["--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_the_stages_one_by_one_end_where_a_run_ends(capsys, module, tmp_path):
    whole = tombola_json(capsys, "run", *OWN, "--out", tmp_path / "whole")
    drawn = tombola_json(capsys, "draw", *OWN, "--out", tmp_path / "parts")
    assert Ticket.load(drawn["ticket"]) == Ticket.load(whole["ticket"])
    assert not drawn["repeated"]
    assert tombola_json(capsys, "draw", *OWN, "--out", tmp_path / "parts")["repeated"]
    trained = tombola_json(capsys, "train", drawn["ticket"], "--out", tmp_path / "trained")
    expected, found = (load_file(f"{values['run_dir']}/weights.safetensors") for values in (whole, trained))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert trained["test_accuracy"] == whole["test_accuracy"]
    assert tombola_json(capsys, "train", drawn["ticket"], "--out", tmp_path / "trained")["repeated"]
    other = tombola_json(capsys, "train", drawn["run_dir"], "--seed", "1", "--out", tmp_path / "trained")
    assert other["run_dir"] != trained["run_dir"]
    # And `run` goes on from what `draw` left behind.
    finished = tombola_json(capsys, "run", *OWN, "--out", tmp_path / "parts")
    assert finished["run_dir"] == drawn["run_dir"]
    assert finished["test_accuracy"] == whole["test_accuracy"]
    assert main(["info", finished["run_dir"]]) == 0
    assert f"test accuracy (%): {whole['test_accuracy']:.2f}" in capsys.readouterr().out


def test_a_ticket_file_alone_with_ones_own_model_data_and_weights(capsys, module, tmp_path):
    whole = tombola_json(capsys, "run", *OWN, "--out", tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    ticket = tmp_path / "alone" / "ticket.safetensors"
    Ticket.load(whole["ticket"]).save(ticket)
    own = ["--model", "brought:build", "--data", "brought:datasets"]
    weights = f"{whole['run_dir']}/weights.safetensors"
    found = tombola_json(capsys, "evaluate", ticket, *own, "--weights", weights)
    assert found["accuracy"] == whole["test_accuracy"]
    start = f"{whole['run_dir']}/start.safetensors"
    trained = tombola_json(
        capsys, "train", ticket, *own, "--weights", start, "--epochs", "4", "--batch-size", "20",
        "--milestones", "[]", "--out", tmp_path / "o", "--threads", "2", "--learning-rate", "0.1",
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


def test_a_training_function_by_name(capsys, module, tmp_path):
    own = tombola_json(capsys, "run", *OWN, "--fit", "brought:train", "--out", tmp_path / "o")
    ours = tombola_json(capsys, "run", *OWN, "--out", tmp_path / "o")
    assert own["run_dir"] != ours["run_dir"]
    assert own["test_accuracy"] > 60
    weights = load_file(f"{own['run_dir']}/weights.safetensors")
    assert all((weights[name][~mask] == 0).all() for name, mask in Ticket.load(own["ticket"]).items())
    assert tombola_json(capsys, "run", *OWN, "--fit", "brought:train", "--out", tmp_path / "o")["repeated"]
    assert own["seconds_by_stage"]["pretraining"] > 0


def careful(model, job):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    job.hold(model, optimizer)
    for epoch in job.epochs:
        for x, y in job.batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def sparsify(function, **options):
    data = batches(8, size=64)
    return tombola.sparsify(
        mlp(hidden=32), data, batches(2, size=64, seed=1), density=0.4, fit=function,
        **{"recipe": Recipe(epochs=6), "finder": Random(), "progress": False, **options},
    )  # fmt: skip


def test_a_training_function_in_python():
    jobs: list[Job] = []

    def watched(model, job):
        jobs.append(job)
        careful(model, job)

    found = sparsify(watched, rewind_to=2)
    assert [(list(job.epochs), job.ticket is None) for job in jobs] == [([0, 1], True), ([2, 3, 4, 5], False)]
    assert found.held_out_metric > 0.6
    assert all((found.model.get_parameter(name)[~mask] == 0).all() for name, mask in found.ticket.items())
    again = sparsify(careful, rewind_to=2)
    assert again.ticket == found.ticket
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in found.model.state_dict().items())
    assert found.ticket.provenance.cost.backward == 2 * 8 * 64


def test_a_jobs_batches_depend_on_seed_and_epoch_alone():
    x, y = (torch.cat(parts) for parts in zip(*batches(4), strict=True))
    seen: list[list[list[float]]] = []

    def watching(model, job):
        seen.append([[float(inputs[0, 0]) for inputs, _ in job.batches(epoch)] for epoch in job.epochs])

    def run(seed):
        seen.clear()
        dataset = torch.utils.data.TensorDataset(x, y)
        with pytest.raises(UsageError, match=r"call job\.hold"):  # nothing holds the ticket
            tombola.sparsify(
                mlp(), dataset, dataset, density=0.5, fit=watching, recipe=Recipe(epochs=3), finder=Random(),
                batch_size=16, seed=seed, progress=False,
            )  # fmt: skip
        return [list(epochs) for epochs in seen]

    (first,), later = run(0)
    assert len({tuple(epoch) for epoch in (first, *later)}) == 3, "every epoch has an order of its own"
    assert run(0) == [[first], later]
    assert run(1)[0] != [first]


def test_training_functions_that_break_the_rules():
    def careless(model, job):
        copy.copy(job)
        with torch.no_grad():
            model[0].weight.fill_(1.0)

    with pytest.raises(UsageError, match=r"left \d+ pruned weights of 0\.weight that are not zero; call job\.hold"):
        sparsify(careless)

    def renaming(model, job):
        model.add_module("extra", nn.Linear(2, 2))

    with pytest.raises(UsageError, match="changed the names"):
        sparsify(renaming)
    with pytest.raises(UsageError, match=r"fit must be a function of \(model, job\), got 'train'"):
        sparsify("train")


def setup(model, data, **values):
    runtime = Runtime.choose(model, "cpu")
    feed = tombola.data.ListFeed(data)
    return TrainingSetup(model, Task(), feed, None, Recipe(**values), runtime, 7, Silent())


PUBLISHED = {"epochs": 1, "optimizer": SGD(momentum=0), "weight_decay": 0, "summed": True, "clip_norm": 2.0}


def test_the_published_step_is_a_clipped_gradient_of_the_summed_loss():
    model, data = mlp(), batches(1, size=16)
    found = fit(
        setup(model, data, learning_rate=0.5, **PUBLISHED),
        State.of(model), 1, MemoryStore().entry("s", {}), "training",
    )  # fmt: skip
    loss = nn.functional.cross_entropy(model(data[0][0]), data[0][1], reduction="sum")
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > 2
    for (name, before), gradient in zip(model.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(found.tensors[name], (before - 0.5 * gradient * 2 / norm).detach())


def test_pruned_weights_gradients_count_in_the_clipped_norm():
    model, data = mlp(), batches(1, size=16)
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    masks["2.weight"][0] = True
    start = Ticket(masks).apply_(copy.deepcopy(model))
    found = fit(
        setup(model, data, learning_rate=1.0, **PUBLISHED),
        State.of(model), 1, MemoryStore().entry("s", {}), "training", Ticket(masks),
    )  # fmt: skip
    loss = nn.functional.cross_entropy(start(data[0][0]), data[0][1], reduction="sum")
    gradients = dict(
        zip(dict(start.named_parameters()), torch.autograd.grad(loss, list(start.parameters())), strict=True)
    )
    norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
    moved = start[2].bias.detach() - gradients["2.bias"] * 2 / norm
    torch.testing.assert_close(found.tensors["2.bias"], moved)


def test_published_batch_norm_has_uniform_scales_and_no_running_statistics():
    torch.manual_seed(0)
    model = publish_batch_norm_(build("resnet20", (3, 32, 32), 10))
    scales = torch.cat([m.weight.detach() for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    assert scales.min() >= 0
    assert scales.max() <= 1
    assert abs(float(scales.mean()) - 0.5) < 0.03
    assert not list(model.buffers())
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("preset", ["cifar10-resnet20", "cifar10-vgg16"])
def test_the_published_recipe_is_the_papers(preset):
    config = from_dict(load_preset(preset, "published"))
    expected = {
        "held_out": 0, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010), "batch_norm": "published",
        "search_precision": "32-true", "augmentation": "flip-crop", "batch_size": 512,
        "rewind_to": 15 if preset.endswith("vgg16") else 9,
        "exclude": ("classifier.weight",) if preset.endswith("vgg16") else (),
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.finder == CTS.published(steps=1960) == CTS(
        steps=1960, controller="gradbalance", batch_size=512, epsilon=1e-10, learning_rate=0.1, lr_schedule="drop",
        teacher="batch",
    )  # fmt: skip
    assert config.training == Recipe(
        epochs=160, milestones=(80, 120), learning_rate=0.1, optimizer=SGD(momentum=0.9), weight_decay=1e-3,
        summed=True, clip_norm=2.0,
    )  # fmt: skip
    assert config.density == pytest.approx(0.8**22, rel=1e-15)
    standard = from_dict(load_preset(preset))
    assert (standard.training.summed, standard.training.clip_norm) == (False, None)
    assert (standard.batch_norm, standard.held_out) == ("standard", 0.1)


def test_recipes_are_for_the_presets_that_have_them():
    with pytest.raises(UsageError, match="recipe 'published' is not one of the preset digits; allowed are standard"):
        load_preset("digits", "published")


def write_images(root):
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 24), ("test", 12)):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                shade = torch.randint(0, 128, (8, 8, 3), generator=generator) + 100 * label
                Image.fromarray(shade.to(torch.uint8).numpy()).save(folder / f"{number}.png")


def test_a_published_run_holds_nothing_out_and_evaluates_on_mixed_batches(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "images")
    found = tombola_json(
        capsys, "run", "--preset", "cifar10-resnet20", "--recipe", "published", "--data", "folder", "--data-dir",
        tmp_path / "images", "--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--steps", "2", "--density",
        "0.1", "--batch-size", "16", "--search-batch-size", "16", "--threads", "2", "--out", tmp_path / "o",
    )  # fmt: skip
    assert (found["kept"], found["prunable"]) == (29086, 290864)  # two classes: 512 weights fewer in the linear layer
    assert "statistics of each batch" in found["teacher"]
    rows = [json.loads(line) for line in (Path(found["run_dir"]) / "metrics.jsonl").read_text().splitlines()]
    assert all(row["held_out_loss"] is None for row in rows if "epoch" in row)
    again = tombola_json(capsys, "evaluate", found["run_dir"])
    assert again["accuracy"] == found["test_accuracy"]
    cell = Cell.prepare(read_config(Path(found["run_dir"])))
    sizes = [(len(item.batch[1]), len(item.batch[1].unique())) for item in cell._feed(cell.splits.test).epoch(0)]
    assert sizes == [(16, 2), (8, 2)], "test images lie sorted by class; batches must mix them"
    assert main(["evaluate", found["run_dir"], "--split", "held-out"]) == 2
    assert "--split must be test: this run's training held nothing out" in capsys.readouterr().err


BROKEN = """
import torch
from torch import nn
from brought import build, datasets, numbers, train

def raises(shape, classes):
    raise ValueError("no such\\nmodel")

def narrow(shape, classes):
    return nn.Linear(10, classes)

def few(shape, classes):
    return nn.Linear(6, classes - 1)

def data_raises():
    raise OSError("no disk")

class Late(torch.utils.data.Dataset):
    targets = [0, 1, 2, 0]
    def __len__(self):
        return 4
    def __getitem__(self, row):
        raise RuntimeError("torn tape")

def data_late():
    return Late(), Late()

def data_shapes():
    return numbers(20, 0), torch.utils.data.TensorDataset(torch.zeros(4, 5), torch.zeros(4).long())

def fit_raises(model, job):
    raise ValueError("no optimiser")

def fit_one(model):
    pass

def fit_nan(model, job):
    job.hold(model)
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))

def fit_late(model, job):
    with torch.no_grad():
        model[1].weight.mul_(2)
    job.hold(model)

def fit_returns(model, job):
    return nn.Linear(2, 2)
"""


@pytest.mark.parametrize(
    ("option", "function", "message"),
    [
        ("model", "raises", "--model 'broken:raises' failed: ValueError: no such model (broken.py, line 7)"),
        ("model", "narrow", "--model broken:narrow cannot be run on inputs of [6]"),
        ("model", "few", "--model broken:few must give 3 outputs a sample, one a class, got [2]"),
        ("data", "data_raises", "--data 'broken:data_raises' failed: OSError: no disk"),
        ("data", "data_late", "--data 'broken:data_late' failed in the first sample of train: RuntimeError: torn tape"),
        ("data", "data_shapes", "--data broken:data_shapes: inputs of train are [6], of test [5]"),
        ("fit", "fit_raises", "--fit 'broken:fit_raises' failed: ValueError: no optimiser"),
        ("fit", "fit_one", "--fit 'broken:fit_one' failed: TypeError"),
        ("fit", "fit_late", "--fit: the training function must call job.hold before its first step, not after"),
        ("fit", "fit_returns", "--fit: the training function must train its model in place; it returned another one"),
    ],
)
def test_own_code_that_fails_is_named_in_one_sentence(module, capsys, tmp_path, option, function, message):
    (module / "broken.py").write_text(BROKEN)
    sys.modules.pop("broken", None)
    status = main(["run", *OWN, f"--{option}", f"broken:{function}", "--out", str(tmp_path / "o")])
    err = capsys.readouterr().err
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == (1 if option != "fit" else len(err.strip().splitlines()))
    if option != "fit":
        assert not (tmp_path / "o").exists()


def test_a_training_function_that_ends_in_nan(module, capsys, tmp_path):
    (module / "broken.py").write_text(BROKEN)
    sys.modules.pop("broken", None)
    assert main(["run", *OWN, "--fit", "broken:fit_nan", "--out", str(tmp_path / "o")]) == 1
    assert "1.weight is no longer finite" in capsys.readouterr().err


def test_code_that_cannot_be_imported(module, capsys, tmp_path):
    (module / "torn.py").write_text("def build(:\n")
    assert main(["run", "--model", "torn:build", "--out", str(tmp_path / "o")]) == 2
    assert "--model 'torn:build' cannot be imported: SyntaxError" in capsys.readouterr().err


def test_functions_of_one_module_do_not_share_results(module, capsys, tmp_path):
    (module / "broken.py").write_text(BROKEN)
    sys.modules.pop("broken", None)
    tombola_json(capsys, "draw", *OWN, "--fit", "broken:train", "--out", tmp_path / "o")
    assert main(["draw", *OWN, "--fit", "broken:fit_raises", "--out", str(tmp_path / "o")]) == 2
    assert "no optimiser" in capsys.readouterr().err


def test_export_never_writes_over_what_it_reads(module, capsys, tmp_path):
    drawn = tombola_json(capsys, "draw", *OWN, "--out", tmp_path / "o")
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


def test_lists_and_configuration_files_in_any_order(capsys, tmp_path):
    import yaml

    def printed(*arguments):
        with pytest.raises(SystemExit):
            main(["run", *arguments, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    for text in ("*.bias,fc1.*", "[*.bias,fc1.*]", "['*.bias', \"fc1.*\"]"):
        assert printed("--exclude", text)["exclude"] == ["*.bias", "fc1.*"]
    assert printed("--exclude", "[ab]*")["exclude"] == ["[ab]*"]
    assert printed("--milestones", "4,8", "--epochs", "9")["training"]["milestones"] == [4, 8]
    assert printed("--milestones=[]")["training"]["milestones"] == []
    (tmp_path / "c.yaml").write_text("seed: 5\nsteps: 7\n")
    found = printed("--seed", "3", "--config", str(tmp_path / "c.yaml"))
    assert (found["seed"], found["finder"]["steps"]) == (3, 7)


def test_python_arguments_of_the_wrong_kind_get_a_sentence():
    data = batches()
    for options, message in (
        ({"include": 3}, "include must be a glob pattern of parameter names or a list of them, got 3"),
        ({"exclude": 5}, "exclude must be a glob pattern"),
        ({"task": Task}, r"task must be a tombola\.Task, got"),
        ({"held_out": 3}, "held_out must be an iterable"),
        ({"held_out": []}, "held_out is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            tombola.draw(mlp(), data, density=0.5, progress=False, **options)
    with pytest.raises(UsageError, match=r"recipe must be a tombola\.Recipe, got \{\}"):
        tombola.sparsify(mlp(), data, data, density=0.5, recipe={}, progress=False)
    with pytest.raises(UsageError, match="data gives a batch without samples"):
        tombola.draw(mlp(), [(torch.zeros(0, 6), torch.zeros(0).long())], density=0.5, progress=False)
