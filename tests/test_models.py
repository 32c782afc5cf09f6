import copy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tombola import UsageError
from tombola.core.plugins import source
from tombola.networks.masking import survey
from tombola.networks.models import MODELS, build, load_into, read_weights

CIFAR = (3, 32, 32)


def test_the_published_counts():
    assert survey(build("resnet20", CIFAR, 10)).prunable == 291_376
    # Half as wide: a quarter of every layer between hidden channels, half of the first and the last.
    assert survey(build("resnet20-w8", CIFAR, 10)).prunable == (291_376 - 432 - 640) // 4 + 216 + 320
    assert survey(build("vgg16", CIFAR, 10), exclude="classifier.weight").prunable == 14_710_464
    assert survey(build("lenet-300-100", (1, 28, 28), 10)).prunable == 266_200


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("shape", [CIFAR, (1, 28, 28)])
def test_shipped_models_run_and_use_relu_modules(name, shape):
    model = build(name, shape, 7)
    with torch.no_grad():
        assert model(torch.randn(2, *shape)).shape == (2, 7)
    assert any(isinstance(module, nn.ReLU) for module in model.modules())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.bias is None for module in convolutions)


@pytest.mark.parametrize(("name", "layers"), [("resnet20", 20), ("resnet32", 32), ("resnet56", 56), ("vgg16", 14)])
def test_depths(name, layers):
    model = build(name, CIFAR, 10)
    weighted = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in path
    ]
    assert len(weighted) == layers


def test_weights_are_kaiming_normal():
    torch.manual_seed(0)
    weight = build("resnet20", CIFAR, 10).get_parameter("stage3_2.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_models_of_torchvision():
    model = build("resnet18", CIFAR, 5)
    assert model.fc.out_features == 5
    for other in ("fasterrcnn_resnet50_fpn", "r3d_18"):  # some of these fetch pretrained weights
        with pytest.raises(UsageError, match="one of torchvision"):
            build(other, CIFAR, 5)


def test_a_state_dict_with_other_values_than_tensors_says_which(tmp_path):
    model = nn.Linear(2, 2)
    for tensors, message in (
        ({"weight": None, "bias": torch.zeros(2)}, r"weights w\.pt has no tensor for weight$"),
        ({"weight": [1.0], "bias": 3}, r"weights w\.pt has no tensor for weight, bias$"),
    ):
        with pytest.raises(UsageError, match=message):
            load_into(model, tensors, Path("w.pt"))
    torch.save({**model.state_dict(), 7: torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"w\.pt must hold tensors by name, got the key 7$"):
        read_weights(tmp_path / "w.pt")


WRAPPED = {
    "averaged": AveragedModel,
    "compiled": partial(torch.compile, backend="eager"),
    "averaged, then compiled": lambda model: torch.compile(AveragedModel(model), backend="eager"),
    "in part": lambda model: nn.Sequential(torch.compile(model[0], backend="eager"), model[1]),
    "parallel": nn.DataParallel,
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_of_a_wrapped_model_are_those_of_the_model(wrap):
    given, model = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2))
    load_into(model, wrap(given).state_dict(), Path("w.pt"))
    assert all(value.equal(model.state_dict()[name]) for name, value in given.state_dict().items())


def test_what_lies_beside_a_wrapper_is_beyond_the_model():
    model = nn.Linear(3, 2)
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(UsageError, match=r"has beyond the model head\.weight"):
        load_into(model, wrapped | {"head.weight": torch.zeros(1)}, Path("w.pt"))


def test_weights_whose_names_begin_like_a_wrappers_are_taken_as_they_are():
    model = nn.ModuleDict({"module": nn.Linear(3, 2)})
    load_into(model, copy.deepcopy(model).state_dict(), Path("w.pt"))
    for change, message in (
        ({"more": torch.zeros(1)}, "has beyond the model more"),
        ({"_orig_mod.more": torch.zeros(1)}, "has beyond the model more"),
    ):
        with pytest.raises(UsageError, match=message):
            load_into(model, model.state_dict() | change, Path("w.pt"))
    with pytest.raises(UsageError, match=r"lacks module\.bias$"):
        load_into(model, {"module.weight": torch.zeros(2, 3)}, Path("w.pt"))


def test_ones_own_models(tmp_path, monkeypatch):
    (tmp_path / "mine_tombola.py").write_text(
        "from torch import nn\n"
        "def build(shape, classes): return nn.Linear(shape[0], classes)\n"
        "def fixed(): return nn.Linear(2, 2)\n"
        "def wrong(): return 3\n"
        "number = 3\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert build("mine_tombola:build", (4,), 3).out_features == 3
    assert build("mine_tombola:fixed", (4,), 3).out_features == 2
    assert "def fixed" in source("mine_tombola:build")
    assert source("resnet20") == ""
    text = (
        "import functools\nfrom mine_tombola import build\nclass Other: pass\npart = functools.partial(build, (4,))\n"
    )
    (tmp_path / "shown_tombola.py").write_text(text + "from numpy.random._generator import default_rng\n")
    for name in ("build", "part"):
        assert "def fixed" in source(f"shown_tombola:{name}"), "the module that defines it counts too"
    assert "def fixed" not in source("shown_tombola:Other")
    assert source("shown_tombola:default_rng") == source("shown_tombola:Other").replace("Other", "default_rng", 1)
    for name, message in (
        ("mine_tombola:wrong", "must return a torch.nn.Module, got int"),
        ("mine_tombola:none", "cannot be imported: mine_tombola has no none"),
        ("mine_tombola:number", "MODULE:NAME, or such an object, got"),
        ("nowhere_tombola:build", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_tombola'$"),
        ("imagenet-net", "is unknown; allowed are lenet-300-100, resnet20"),
    ):
        with pytest.raises(UsageError, match=message):
            build(name, (4,), 3)
