"""Models, data and training functions of the user's own that fail: one sentence says where."""

import pytest

from tombola.cli.main import main

from .conftest import OWN, as_json

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
def test_own_code_that_fails_is_named_in_one_sentence(brought, bring, capsys, tmp_path, option, function, message):
    bring("broken", BROKEN)
    status = main(["run", *OWN, f"--{option}", f"broken:{function}", "--out", str(tmp_path / "o")])
    err = capsys.readouterr().err
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == (1 if option != "fit" else len(err.strip().splitlines()))
    if option != "fit":
        assert not (tmp_path / "o").exists()


def test_a_training_function_that_ends_in_nan(brought, bring, capsys, tmp_path):
    bring("broken", BROKEN)
    assert main(["run", *OWN, "--fit", "broken:fit_nan", "--out", str(tmp_path / "o")]) == 1
    assert "1.weight is no longer finite" in capsys.readouterr().err


def test_code_that_cannot_be_imported(bring, capsys, tmp_path):
    bring("torn", "def build(:\n")
    assert main(["run", "--model", "torn:build", "--out", str(tmp_path / "o")]) == 2
    assert "--model 'torn:build' cannot be imported: SyntaxError" in capsys.readouterr().err


def test_functions_of_one_module_do_not_share_results(brought, bring, capsys, tmp_path):
    bring("broken", BROKEN)
    as_json(capsys, "draw", *OWN, "--fit", "broken:train", "--out", tmp_path / "o")
    assert main(["draw", *OWN, "--fit", "broken:fit_raises", "--out", str(tmp_path / "o")]) == 2
    assert "no optimiser" in capsys.readouterr().err
