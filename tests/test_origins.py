"""The axes of a comparison: from which weights a ticket is trained, and what a finder's own training leaves."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tombola import Recipe, UsageError, sparsify
from tombola.finders import LTR, Gradual, Magnitude, RigL, draw, origin, origins
from tombola.networks.models import read_weights
from tombola.runs import cell
from tombola.runs.config import RunConfig, load_preset
from tombola.studies import read
from tombola.studies.graph import basis_of, graph_of
from tombola.studies.planning import Asked, expand
from tombola.training import State

from .conftest import as_json, batches, mlp
from .test_rivals import problem

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def origin_of(kind, finder, of):
    found = draw(finder, of, 0.3)
    state, further = origin(kind, finder, of, found, found.start or of.weights, of.trainer.start, lambda: mlp(seed=5))
    return found, state, further


def test_every_origin_trains_the_same_epochs_from_its_own_weights():
    of, finder = problem(mlp(), batches(), at="rewind", epochs=4, rewind=1), Gradual(rounds=4)
    states = {kind: origin_of(kind, finder, of)[1] for kind in ("rewind", "init", "final", "signs")}
    assert {state.epoch for state in states.values()} == {1}
    assert states["rewind"].digest == of.weights.digest
    assert states["init"].digest == of.trainer.start.digest
    found = draw(finder, of, 0.3)
    assert states["final"].digest == found.kept.digest
    mask = of.layout.flatten(found.ticket)
    signs, final = (of.layout.flatten(of.values_of(state)) for state in (states["signs"], found.kept))
    assert torch.equal(signs[mask].sign(), final[mask].sign())
    assert torch.equal(signs.abs(), of.layout.flatten(of.values_of(State.of(mlp(seed=5)))).abs())


@pytest.mark.parametrize(("finder", "paid"), [(Magnitude(), False), (LTR(rate=0.5), True), (Gradual(rounds=4), True)])
def test_the_dense_trainings_end_is_paid_for_where_the_draw_did_not(finder, paid):
    of = problem(mlp(), batches(), at="rewind", epochs=4, rewind=1)
    _, state, further = origin_of("final", finder, of)
    assert further.backward == (0 if paid else 3 * 48)
    assert state.cost == of.weights.cost


def test_from_python():
    data = batches(10)
    recipe = Recipe(epochs=4, learning_rate=0.2)
    common = dict(density=0.3, recipe=recipe, progress=False)
    found = sparsify(mlp(), data, data, finder=RigL(updates=3), **common)
    for name, mask in found.ticket.items():
        assert (dict(found.kept_weights.named_parameters())[name][~mask] == 0).all()
    assert 0.3 < found.kept_metric <= 1
    plain = sparsify(mlp(), data, data, finder="magnitude", **common)
    assert plain.kept_weights is None
    signs = sparsify(mlp(), data, data, finder="magnitude", train_from="signs", **common)
    assert signs.ticket == plain.ticket
    assert not torch.equal(signs.model[0].weight, plain.model[0].weight)
    with pytest.raises(UsageError, match="train_from must be one of rewind, init, final, signs, got 'best'"):
        sparsify(mlp(), data, data, train_from="best", **common)


QUICK = ["--preset", "digits", "--epochs", "3", "--rewind-to", "1", "--milestones", "[]", "--threads", "1"]


def test_kept_weights_have_a_column_of_their_own(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    compare = ["--finders", "set:updates=3,random", "--density", "0.1", "--seeds", "1"]
    rows = as_json(capsys, "compare", *QUICK, *compare, *out)["rows"]
    assert rows[0]["kept_weights"]["test_accuracy_mean"] != rows[0]["test_accuracy_mean"]
    assert rows[0]["kept_weights"]["dense_equivalents"] == pytest.approx(1.0)
    assert rows[1]["kept_weights"] is None
    assert (rows[0]["trained_from"], rows[0]["optimizer"]) == ("rewind", "sgd")
    study = read(tmp_path)
    assert study.rows[0].kept_weights.scores == (rows[0]["kept_weights"]["test_accuracies"][0],)
    assert study.summary("random")["kept_weights_mean"].notna().tolist() == [True, False]
    assert study.cells["log_paths"].notna().all()
    again = as_json(capsys, "run", *QUICK, "--finder", "set:updates=3", "--density", "0.1", *out)
    assert again["repeated"]
    assert again["kept_weights"]["test_accuracy"] == rows[0]["kept_weights"]["test_accuracy_mean"]
    assert again["paths"]["nodes"] <= again["paths"]["of"] == 410
    text = json.dumps(again)
    assert "NaN" not in text


def test_a_run_from_other_weights_is_another_run(tmp_path, capsys):
    out = ["--finder", "random", "--density", "0.1", "--out", str(tmp_path)]
    usual, signs = (as_json(capsys, "run", *QUICK, "--train-from", kind, *out) for kind in ("rewind", "signs"))
    assert usual["run_dir"] != signs["run_dir"]
    assert signs["trained_from"] == "signs"
    starts = [read_weights(tmp_path / each["run_dir"] / "start.safetensors") for each in (usual, signs)]
    assert not torch.equal(starts[0]["fc1.weight"], starts[1]["fc1.weight"])
    assert signs["dense_equivalents"] > usual["dense_equivalents"], "the dense training's end is paid for"


def test_a_study_trains_the_dense_network_once_whatever_tickets_are_trained_from(tmp_path):
    asked = [Asked("random", kind, {"train_from": kind}) for kind in ("rewind", "final")]
    cells = expand([load_preset("digits"), {}], asked, [0.1], [0])
    graph = graph_of(cells, basis_of(cells), tmp_path)
    dense = [name for name in graph.tasks if name.startswith("dense")]
    assert len(dense) == 2, "to the rewind point, and to the end"
    usual, final = (task for name, task in graph.tasks.items() if name.startswith("ticket"))
    assert set(final.needs) - set(usual.needs) == {dense[1]}, "whose end the other ticket starts from"


def test_weights_drawn_anew_come_from_the_generator_of_where_they_lie(monkeypatch):
    where, seeded = [], origins.seeded
    monkeypatch.setattr(origins, "seeded", lambda *given, device=None: where.append(device) or seeded(*given))
    with pytest.raises(NotImplementedError):  # no digest is made of what has no values
        origins.redrawn(mlp().to("meta"), 0)
    assert where == [torch.device("meta")]


def test_models_are_built_under_the_generator_of_the_device(monkeypatch):
    where, seeded = [], cell.seeded
    monkeypatch.setattr(cell, "seeded", lambda *given, device=None: where.append(device) or seeded(*given))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    splits = SimpleNamespace(shape=(1, 8, 8), classes=10, padding=None)
    for device in ("cpu", "cuda:1"):
        cell._initial_model(replace(RunConfig(), device=device), splits, 0, "model")
    assert where == [torch.device("cpu"), torch.device("cuda:1")]
