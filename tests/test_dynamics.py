"""How a ticket's training follows the dense network's."""

import json
import math

import pytest
import torch

from tombola.cli.main import main
from tombola.core.progress import Silent
from tombola.data import Item
from tombola.networks.task import Task
from tombola.runs.pipeline import run
from tombola.studies.dynamics import _epochs, compare, follow
from tombola.training import State

from .conftest import TinyConv, batches, images, mlp
from .test_pipeline import QUICK, changed
from .test_rivals import Three, problem, three


def test_a_point_by_hand():
    # Dense f = 0.5 (2 x1 + x2), sparse the same without b. At x = (1, 2), y = 1: f = 2, e = 1 and f = 1, e = 0, so the
    # outputs lie 1 apart. A second point, y = 0: e = 2 and e = 1. Gradients 2 e (c x1, c x2, h) add up to
    # 2 (1 + 2) / 2 (0.5, 1, 4) dense and 2 (0 + 1) / 2 (0.5, 1, 2) sparse; of the kept a and c, the cosine is that of
    # (0.5, 4) and (0.5, 2).
    of = three(b=1.0)
    points = [Item((torch.tensor([[1.0, 2.0]]), torch.tensor([[target]]))) for target in (1.0, 0.0)]
    dense, sparse = State.of(Three(b=1.0)), State.of(Three(b=0.0))
    point = compare(of, dense, sparse, torch.tensor([True, False, True]), points, 7)
    assert point.epoch == 7
    assert point.kl == pytest.approx(1.0)
    assert point.cosine == pytest.approx(8.25 / math.sqrt(16.25 * 4.25))


def test_a_network_agrees_with_itself():
    torch.manual_seed(0)
    of = problem(TinyConv(), images(), Task())
    mask = torch.rand(of.layout.total) < 0.5
    same = compare(of, of.weights, of.weights, mask, list(of.feed.epoch(0)), 0)
    assert same.kl == pytest.approx(0.0, abs=1e-6)
    assert same.cosine == pytest.approx(1.0)


def test_the_divergence_is_that_of_the_sparse_outputs_from_the_dense_ones():
    of = problem(mlp(), batches(1))
    sparse = State.of(mlp(seed=1))
    (item,) = of.feed.epoch(0)
    found = compare(of, of.weights, sparse, torch.ones(of.layout.total, dtype=torch.bool), [item], 0)
    p, q = (model(item.batch[0]).softmax(dim=1) for model in (mlp(seed=1), mlp()))
    assert found.kl == pytest.approx((p * (p / q).log()).sum(dim=1).mean().item(), rel=1e-5)


def test_long_trainings_are_looked_at_twenty_times():
    assert _epochs(1, 4) == [1, 2, 3, 4]
    assert _epochs(0, 160) == list(range(0, 161, 8))
    assert _epochs(9, 160)[-2:] == [153, 160]
    assert len(_epochs(9, 160)) == 20


def test_the_course_of_a_run(tmp_path, monkeypatch):
    config = changed(QUICK, finder="magnitude", density=0.2)
    result = run(config, tmp_path, Silent())
    found = follow(config, result.directory, tmp_path, Silent())
    assert [point.epoch for point in found] == [1, 2, 3, 4]
    assert all(point.kl > 0 and -1 <= point.cosine <= 1 for point in found)
    monkeypatch.setattr("tombola.training.trainer.fit", None)
    assert follow(config, result.directory, tmp_path, Silent()) == found, "measured once"


def test_compare_with_dynamics(tmp_path, capsys):
    training = ["--epochs", "3", "--milestones", "2", "--rewind-to", "1", "--threads", "1"]
    finders = ["--density", "0.2", "--finders", "magnitude,random", "--seeds", "2", "--dynamics"]
    options = ["compare", "--preset", "digits", *training, *finders, "--out", str(tmp_path)]
    picture = tmp_path / "picture.svg"
    assert main([*options, "--json", "--plot", str(picture)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    for row in rows:
        assert [point["epoch"] for point in row["dynamics"]] == [1, 2, 3]
    magnitude, random = rows
    assert magnitude["dynamics"][0]["kl"] < random["dynamics"][0]["kl"]
    assert b"cosine" in picture.read_bytes() or picture.stat().st_size > 10_000
    assert main(options) == 0
    assert "the ticket's training beside the dense network's" in capsys.readouterr().out
