"""Models, data and training functions of the user's own that fail: one sentence says where."""

import json

import pytest
import torch

import tombola
from tombola import UsageError
from tombola.cli.main import main

from .conftest import OWN, as_json, batches, command, mlp

BROKEN = """
import torch
from torch import nn
from brought import build, datasets, numbers, train
import tombola

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

def task_raises():
    raise ValueError("no vocabulary")

def task_of_classes(classes):
    pass

def task_nan():
    no_number = lambda output, batch: output.sum() * float("nan")
    return tombola.Task(metric=tombola.task.Measured(no_number, tombola.task.Measure("correlation")))

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
        ("model", "raises", "--model 'broken:raises' failed: ValueError: no such model (broken.py, line 8)"),
        ("model", "narrow", "--model broken:narrow cannot be run on inputs of [6]"),
        ("model", "few", "--model broken:few must give 3 outputs a sample, one a class, got [2]"),
        ("data", "data_raises", "--data 'broken:data_raises' failed: OSError: no disk"),
        ("data", "data_late", "--data 'broken:data_late' failed in the first sample of train: RuntimeError: torn tape"),
        ("data", "data_shapes", "--data broken:data_shapes: inputs of train are [6], of test [5]"),
        ("task", "task_raises", "--task 'broken:task_raises' failed: ValueError: no vocabulary (broken.py, line 33)"),
        ("task", "task_of_classes", "--task 'broken:task_of_classes' failed: TypeError"),
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


def test_a_metric_that_is_no_number_is_no_result(brought, bring, capsys, tmp_path):
    bring("broken", BROKEN)
    asked = ["--task", "broken:task_nan", "--out", str(tmp_path / "o")]
    assert main(["run", *OWN, *asked]) == 1
    assert "the correlation on test data is nan" in capsys.readouterr().err
    assert not list((tmp_path / "o").glob("*/result.json"))


def test_code_that_cannot_be_imported(bring, capsys, tmp_path):
    bring("torn", "def build(:\n")
    assert main(["run", "--model", "torn:build", "--out", str(tmp_path / "o")]) == 2
    assert "--model 'torn:build' cannot be imported: SyntaxError" in capsys.readouterr().err


def test_functions_of_one_module_do_not_share_results(brought, bring, capsys, tmp_path):
    bring("broken", BROKEN)
    as_json(capsys, "draw", *OWN, "--fit", "broken:train", "--out", tmp_path / "o")
    assert main(["draw", *OWN, "--fit", "broken:fit_raises", "--out", str(tmp_path / "o")]) == 2
    assert "no optimiser" in capsys.readouterr().err


PARTS = """
import torch
import tombola
from dataclasses import dataclass
from tombola.core.cost import Cost
from tombola.finders import Finder, Needs, Ranked, drawn

@dataclass(frozen=True)
class Own(Ranked):
    what: str = tombola.option("", "which mistake")

    def needs(self):
        return 3 if self.what == "needs" else Needs()

    def scores(self, problem):
        total = problem.layout.total
        found = {
            "short": lambda: torch.ones(3),
            "list": lambda: [1.0] * total,
            "nan": lambda: torch.full((total,), float("nan")),
            "bug": lambda: unheard_of,
            "torch": lambda: torch.ones(3) + torch.ones(4),
        }
        return found[self.what]()

@dataclass(frozen=True)
class Masking(Finder):
    def draw(self, problem, density):
        total = problem.layout.total
        return drawn(self, problem, density, torch.ones(3).bool(), torch.ones(total), Cost())

class Plain:
    pass

class Bare:
    def draw(self, problem, density):
        pass

@dataclass(frozen=True)
class Raising:
    def __post_init__(self):
        raise ValueError("no such thing")
    def draw(self, problem, density):
        pass

def vector(masked):
    return masked.sparse.square().mean(dim=1)

def number(masked):
    return 3.0

def detached(masked):
    return masked.sparse.mean().detach()

def buggy(masked):
    return masked.sprse.mean()

@dataclass(frozen=True)
class Steering(tombola.Part):
    what: str = tombola.option("", "which mistake")

    def init(self, logits):
        return {}

    def update(self, logits, gradient, target, state):
        figures = {key: logits.sum() for key in ("multiplier", "error", "task_norm", "density_norm")}
        if self.what == "figures":
            return gradient, state, {"multiplier": 0, "error": 0, "density_norm": 0}
        if self.what == "two":
            return gradient, state
        if self.what == "shape":
            return gradient[:3], state, figures
        if self.what == "state":
            return gradient, 3, figures
        return gradient / unheard_of, state, figures
"""


@pytest.mark.parametrize(
    ("option", "part", "message"),
    [
        ("finder", "Own:what=short", ": scores must be a vector of 144 numbers, one a weight, got [3]"),
        ("finder", "Own:what=list", ": scores must be a vector of 144 numbers, one a weight, got list"),
        ("finder", "Own:what=nan", ": the score at index 0 is NaN (NaN scores: 144)"),
        ("finder", "Own:what=bug", " failed: NameError: name 'unheard_of' is not defined (slips.py, line 21)"),
        (
            "finder",
            "Own:what=torch",
            " failed: RuntimeError: The size of tensor a (3) must match the size of tensor b (4) at non-singleton "
            "dimension 0 (slips.py, line 22)",
        ),
        ("finder", "Own:what=needs", " must return tombola.finders.Needs from needs, got int"),
        ("finder", "Masking", ": the mask must be a vector of 144 numbers, one a weight, got [3]"),
        ("finder", "Plain", " is no finder: it lacks draw"),
        ("finder", "Bare", " is no finder: it must be a dataclass (@dataclass(frozen=True)), whose fields are"),
        ("finder", "Raising", " failed: ValueError: no such thing (slips.py, line 42)"),
        ("finder", "vector", " is no finder: it lacks draw"),
        (
            "objective",
            "vector",
            " must return a scalar, a tensor without dimensions such as .mean() gives, got one of shape [64]",
        ),
        ("objective", "number", " must return a scalar, a tensor without dimensions such as .mean() gives, got float"),
        ("objective", "detached", " must return what depends on the mask"),
        (
            "objective",
            "buggy",
            " failed: AttributeError: 'MaskedBatch' object has no attribute 'sprse' (slips.py, line 56)",
        ),
        ("objective", "Steering", " is no objective: it is no function, and must derive from Objective"),
        ("controller", "Plain", " is no controller: it lacks init and update"),
        (
            "controller",
            "Steering:what=figures",
            " must give the figures multiplier, error, task_norm, density_norm; task_norm is missing",
        ),
        ("controller", "Steering:what=two", " must return (gradient, state, figures) from update"),
        ("controller", "Steering:what=shape", " must return a gradient of shape [144], got [3]"),
        ("controller", "Steering:what=state", " must return state by name, got int"),
        ("controller", "Steering", " failed: NameError: name 'unheard_of' is not defined (slips.py, line 75)"),
    ],
)  # fmt: skip
def test_own_parts_that_break_their_contract_are_named_in_one_sentence(
    brought, bring, capsys, tmp_path, option, part, message
):
    bring("slips", PARTS)
    options = OWN[:8] + OWN[10:]  # without the steps of a search
    status = main(["draw", *options, f"--{option}", f"slips:{part}", "--out", str(tmp_path / "o")])
    name = part.partition(":")[0]
    assert f"tombola draw: --{option} 'slips:{name}'{message}" in capsys.readouterr().err
    assert status == 2


def test_a_comparison_says_where_an_own_part_failed(brought, bring, capsys, tmp_path):
    bring("slips", PARTS)
    options = [
        *OWN[:4],
        "--epochs",
        "2",
        "--rewind-to",
        "1",
        "--milestones",
        "[]",
        "--finders",
        "random,slips:Own:what=bug",
        "--seeds",
        "1",
    ]
    assert main(["compare", *options, "--density", "0.3", "--out", str(tmp_path / "o")]) == 1
    assert "NameError: name 'unheard_of' is not defined (slips.py, line 21)" in capsys.readouterr().out
    (failure,) = json.loads((tmp_path / "o" / "failures.json").read_text())
    assert 'slips.py", line 21, in <lambda>' in failure["traceback"]


def test_help_lists_the_settings_of_parts_of_ones_own(bring, capsys):
    bring("slips", PARTS)
    text = " ".join(command(capsys, "run", "--finder", "slips:Own:what=bug", "--help")[1].split())
    assert "settings of slips:Own, behind colons: allocation=global: how kept weights are spread" in text
    assert "what=: which mistake" in text
    err = command(capsys, "run", "--finder", "slips:Own", "--steps", "3")[2]
    has = "--allocation, --granularity and behind colons what"
    assert f"--steps is not an option of the finder slips:Own, which has {has}\n" in err


def test_an_own_part_that_fails_in_python_keeps_its_traceback(bring):
    bring("slips", PARTS)
    import slips

    with pytest.raises(UsageError, match=r"finder 'slips:Own' failed: NameError") as caught:
        tombola.draw(mlp(), batches(), density=0.5, finder=slips.Own(what="bug"), progress=False)
    assert isinstance(caught.value.__cause__, NameError)


def test_a_finder_of_ours_is_named_where_its_scores_are_nan():
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 1] = float("nan")
    with pytest.raises(UsageError, match="finder 'magnitude': the score at index 1 is NaN"):
        tombola.draw(model, batches(), density=0.5, finder="magnitude", progress=False)


LOOSE = """
import torch
import tombola
from dataclasses import dataclass
from pathlib import Path
from tombola.finders import Ranked

@dataclass(frozen=True)
class Rated(Ranked):
    rate: int = 1
    path: Path | None = None
    def __post_init__(self):
        super().__post_init__()
        if self.rate > 1:
            raise ValueError("rate too big")
    def scores(self, problem):
        return torch.ones(problem.layout.total)

PLACED = Rated(path=Path("x"))

@dataclass
class Loose:
    rate: int = 1
    def draw(self, problem, density):
        raise AssertionError

@dataclass(frozen=True)
class Nothing(tombola.objectives.Objective):
    def __call__(self, masked):
        return masked.sparse.mean() * float("nan")
"""


@pytest.mark.parametrize(
    ("command", "part", "status", "message"),
    [
        (
            "draw",
            "--finder loose:Rated:rate=2",
            2,
            "'loose:Rated' failed: ValueError: rate too big (loose.py, line 15)",
        ),
        ("draw", "--finder loose:PLACED", 2, "options of parts must be numbers, texts, or lists and mappings of these"),
        ("compare", "--finders loose:Loose", 2, "--finders: finder loose:Loose: all parts must be frozen"),
        ("draw", "--objective loose:Nothing", 1, "the gradient of loose:Nothing is nan"),
    ],
)
def test_parts_that_no_file_or_study_can_hold_are_refused(
    brought, bring, capsys, tmp_path, command, part, status, message
):
    bring("loose", LOOSE)
    options = [*OWN[:8], *OWN[12:], *({"draw": ["--density", "0.3"], "compare": ["--density", "0.3"]}[command])]
    assert main([command, *options, *part.split(), "--out", str(tmp_path / "o")]) == status
    assert message in capsys.readouterr().err
    assert status == 1 or not (tmp_path / "o").exists()
