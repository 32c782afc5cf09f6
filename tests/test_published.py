"""The recipe that the paper published: its training step, its BatchNorm, its presets, and a run by it."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tombola import CTS, Recipe, Ticket, UsageError
from tombola.cli.main import main
from tombola.cli.runs import read_config
from tombola.networks.models import build, publish_batch_norm_
from tombola.runs.cell import Cell
from tombola.runs.config import built, from_dict, load_preset
from tombola.training import SGD, State, fit

from .conftest import as_json, batches, mlp
from .test_training import entry, setup

PUBLISHED = {"epochs": 1, "optimizer": SGD(momentum=0), "weight_decay": 0, "summed": True, "clip_norm": 2.0}


def test_the_published_step_is_a_clipped_gradient_of_the_summed_loss():
    model, data = mlp(), batches(1, size=16)
    found = fit(
        setup(model, data, learning_rate=0.5, **PUBLISHED),
        State.of(model), 1, entry(), "training",
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
        State.of(model), 1, entry(), "training", Ticket(masks),
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
    files = built([load_preset(preset, "published"), {"search": "published-files"}])
    assert files.finder == replace(config.finder, lr_schedule="constant", learning_rate=0.15)
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


def test_a_published_run_holds_nothing_out_and_evaluates_on_mixed_batches(capsys, tmp_path, cache):
    write_images(tmp_path / "images")
    found = as_json(
        capsys, "run", "--preset", "cifar10-resnet20", "--recipe", "published", "--data", "folder", "--data-dir",
        tmp_path / "images", "--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--steps", "2", "--density",
        "0.1", "--batch-size", "16", "--search-batch-size", "16", "--threads", "1", "--out", tmp_path / "o",
    )  # fmt: skip
    assert (found["kept"], found["prunable"]) == (29086, 290864)  # two classes: 512 weights fewer in the linear layer
    assert "statistics of each batch" in found["teacher"]
    rows = [json.loads(line) for line in (Path(found["run_dir"]) / "metrics.jsonl").read_text().splitlines()]
    assert all(row["held_out_loss"] is None for row in rows if "epoch" in row)
    again = as_json(capsys, "evaluate", found["run_dir"])
    assert again["accuracy"] == found["test_accuracy"]
    cell = Cell.prepare(read_config(Path(found["run_dir"])))
    sizes = [(len(item.batch[1]), len(item.batch[1].unique())) for item in cell._feed(cell.splits.test).epoch(0)]
    assert sizes == [(16, 2), (8, 2)], "test images lie sorted by class; batches must mix them"
    assert main(["evaluate", found["run_dir"], "--split", "held-out"]) == 2
    assert "--split must be test: this run's training held nothing out" in capsys.readouterr().err
