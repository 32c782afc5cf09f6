"""The audit: alterations prove that they changed something, verdicts follow the statistics."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tombola import Ticket
from tombola.cli.main import main
from tombola.core.seeds import generator
from tombola.studies.audit import Check, Report
from tombola.studies.audit.alterations import Impossible, changed, inverted, inverted_by_layer, shared, shuffled
from tombola.studies.audit.connectivity import Connectivity, between, walk

from .conftest import BROUGHT, OWN, as_json, command


def ticket(scores=None, **masks):
    tensors = {name: torch.tensor(mask, dtype=torch.bool) for name, mask in masks.items()}
    return Ticket(tensors, None, scores and {name: torch.tensor(value) for name, value in scores.items()})


TWO = ticket({"a": [4.0, 3.0, 2.0, 1.0], "b": [9.0, 0.5]}, a=[1, 1, 0, 0], b=[1, 0])


def test_alterations_by_hand():
    chance = generator(0, "test")
    by_layer = inverted_by_layer(TWO, chance)
    assert {name: mask.tolist() for name, mask in by_layer.items()} == {
        "a": [False, False, True, True],
        "b": [False, True],
    }
    over_all = inverted(TWO, chance)
    assert {name: mask.tolist() for name, mask in over_all.items()} == {
        "a": [False, False, True, True],
        "b": [False, True],
    }
    uneven = ticket({"a": [4.0, 3.0, 2.0, 1.0], "b": [9.0, 8.0]}, a=[1, 0, 0, 0], b=[1, 0])
    assert inverted(uneven, chance).kept_by_layer == {"a": 2, "b": 0}
    assert changed(TWO, by_layer) == 1.0
    assert shared(TWO, TWO) == 1.0
    assert changed(TWO, ticket(a=[1, 0, 1, 0], b=[1, 0])) == pytest.approx(1 / 3)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=8), min_size=1, max_size=3), st.integers(0, 99))
def test_a_shuffle_keeps_every_layers_count_and_changes_something(masks, seed):
    before = ticket(**{f"layer{number}": mask for number, mask in enumerate(masks)})
    chance = generator(seed, "test")
    if all(len(set(mask)) == 1 for mask in masks):
        with pytest.raises(Impossible, match="every layer keeps all of its weights or none"):
            shuffled(before, chance)
        return
    assume(before.kept)
    after = shuffled(before, chance)
    assert after.kept_by_layer == before.kept_by_layer
    assert after != before
    assert changed(before, after) > 0


def test_a_shuffle_is_fair():
    lonely, chance = ticket(a=[1, 0, 0]), generator(0, "test")
    found = [shuffled(lonely, chance)["a"].tolist().index(True) for _ in range(400)]
    assert 0 not in found, "an unchanged mask is drawn again"
    assert 150 < found.count(1) < 250


def test_equal_scores_are_inverted_by_chance_not_by_their_place():
    flat = ticket({"a": [1.0] + [float("-inf")] * 40}, a=[1] + [0] * 40)
    places = {inverted(flat, generator(seed, "test"))["a"].tolist().index(True) for seed in range(20)}
    assert len(places) > 5
    assert 0 not in places


def test_scores_whose_order_is_lost_are_not_inverted():
    for alteration in (inverted, inverted_by_layer):
        with pytest.raises(Impossible, match="its largest scores are infinite"):
            alteration(ticket({"a": [math.inf, math.inf, 1.0]}, a=[1, 1, 0]), generator(0))
        pinned = ticket({"a": [math.inf, 3.0, 2.0, 1.0]}, a=[1, 0, 0, 0])
        assert alteration(pinned, generator(0))["a"].tolist() == [False, False, False, True]


def test_what_cannot_be_altered_says_why():
    with pytest.raises(Impossible, match="the ticket file alone has no scores"):
        inverted(ticket(a=[1, 0]), generator(0))
    whole = ticket({"a": [1.0, 2.0]}, a=[1, 1])
    with pytest.raises(Impossible, match="nothing would change: it keeps every weight"):
        inverted(whole, generator(0))
    with pytest.raises(Impossible, match="nothing would change: every layer"):
        inverted_by_layer(whole, generator(0))


OURS = (90.0, 91.0, 90.5, 90.2, 90.8)


def check(name, shift, spread=(0.0, 0.1, -0.1, 0.05, 0.0)):
    return Check.judged(name, 0.9, [value + shift + extra for value, extra in zip(OURS, spread, strict=True)], OURS)


def report(*checks):
    return Report((0, 1, 2, 3, 4), OURS, checks, (), {}, None)


def test_verdicts_and_the_exit_status():
    worse, better, equal = check("a", -5.0), check("b", 3.0), check("c", 0.0)
    unclear = check("d", -1.0, spread=(9.0, -9.0, 4.0, -4.0, 0.0))
    impossible = Check("e", why="it has no scores")
    assert [each.verdict for each in (worse, better, equal, unclear, impossible)] == [
        "informative", "not informative", "not informative", "undecided", "not possible",
    ]  # fmt: skip
    assert report(worse, impossible).status == 0
    assert report(worse, unclear).status == 3
    assert report(impossible, impossible).status == 3
    assert report(worse, unclear, better).status == 1
    assert report(equal, impossible).status == 1
    assert Check.judged("a", 0.5, [80.0], [90.0]).verdict == "undecided", "one seed proves nothing"


def test_the_way_between_two_networks_by_hand():
    first, last = {"w": torch.tensor([0.0]), "n": torch.tensor(3)}, {"w": torch.tensor([1.0]), "n": torch.tensor(7)}
    middle = between(first, last, 0.25)
    assert (middle["w"].item(), middle["n"].item()) == (0.25, 3)
    hill = walk(first, last, lambda tensors: 90 - 40 * tensors["w"].item() * (1 - tensors["w"].item()))
    assert len(hill.errors) == 11
    assert hill.barrier == pytest.approx(10.0)
    assert not hill.connected
    # Ends of 10 and 14, and 13.9 on the way: 1.9 above their mean counts as connected, 2 would not.
    assert Connectivity((10.0, 13.9, 13.0)).barrier == pytest.approx(2.4)
    assert Connectivity((10.0, 13.4, 13.0)).connected


QUICK = ["--preset", "digits", "--epochs", "4", "--milestones", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for at, steps in (("init", []), ("rewind", ["--rewind-to", "1"])):
        options = [*QUICK, *steps, "--draw-at", at, "--steps", "40", "--density", "0.1", "--out", str(out / at)]
        assert main(["run", *options, "--json"]) == 0
    return out


def run_of(directory):
    return next(path for path in directory.iterdir() if (path / "result.json").exists())


def test_an_audit_of_a_run(drawn, capsys, monkeypatch):
    run = run_of(drawn / "init")
    capsys.readouterr()
    status = main(["audit", str(run), "--seeds", "2", "--json"])
    first = capsys.readouterr()
    found = json.loads(first.out)
    assert status == found["status"]
    assert found["seeds"] == [0, 1]
    names = [each["name"] for each in found["checks"]]
    assert names == [
        "shuffled within layers", "scores inverted within layers", "scores inverted over the network", "re-initialised",
    ]  # fmt: skip
    assert all(each["changed"] > 0.4 for each in found["checks"])
    assert [len(each["test_accuracies"]) for each in found["checks"]] == [2] * 4
    # The first training of the ticket is the run's own.
    assert found["test_accuracies"][0] == json.loads((run / "result.json").read_text())["test_accuracy"]
    assert len(found["connectivity"]["errors"]) == 11
    assert found["connectivity"]["errors"][0] == pytest.approx(100 - found["test_accuracies"][0])
    assert found["overlap"]["random"]["by_chance"] == pytest.approx(0.1, abs=0.02)
    assert found["overlap"]["magnitude"]["shared"] > 0.1
    # A second time, nothing is trained.
    monkeypatch.setattr("tombola.training.trainer.fit", None)
    assert main(["audit", str(run), "--seeds", "2"]) == status
    text = capsys.readouterr().out
    assert "shuffled within layers" in text
    assert "Fewer than 5 seeds are indicative: they can seldom decide" in text


def test_a_random_ticket_is_not_compared_with_itself(tmp_path, capsys):
    assert (
        main(["run", *QUICK, "--rewind-to", "1", "--finder", "random", "--density", "0.5", "--out", str(tmp_path)]) == 0
    )
    capsys.readouterr()
    main(["audit", str(run_of(tmp_path)), "--seeds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["overlap"]["random"]["shared"] == pytest.approx(0.5, abs=0.02)
    assert found["other_weights"] is False


def test_a_ticket_of_2_4_beside_a_layer_kept_whole_is_audited(tmp_path, capsys):
    options = [*QUICK, "--finder", "random", "--granularity", "2:4", "--density", "fc3.weight=1; *=0.5"]
    assert main(["run", *options, "--rewind-to", "1", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    main(["audit", str(run_of(tmp_path)), "--seeds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["overlap"]["random"]["by_chance"] > 0.5
    # The layer that is kept whole is so in both, and half of what is left is shared by chance.
    assert found["overlap"]["random"]["shared"] == pytest.approx(found["overlap"]["random"]["by_chance"], abs=0.02)


def test_an_audit_at_other_weights_says_so(drawn, capsys):
    other = str(run_of(drawn / "rewind") / "weights.safetensors")
    capsys.readouterr()
    main(["audit", str(run_of(drawn / "init")), "--seeds", "1", "--weights", other])
    assert "The ticket was drawn at other weights than those that it is trained from" in capsys.readouterr().out


def test_an_audit_of_a_rewound_ticket_gives_it_no_new_weights(drawn, capsys):
    run = run_of(drawn / "rewind")
    capsys.readouterr()
    main(["audit", str(run), "--seeds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    last = found["checks"][-1]
    assert (last["verdict"], last["ticket_gains"]) == ("not possible", None)
    assert last["why"] == "only tickets of initial weights can be given new ones; it was drawn at: rewind"
    assert found["connectivity"] is None
    assert found["status"] == 3


NORMALISED = """
class Far(nn.Module):
    def forward(self, x):
        return x.flatten(1) + 10

def build(shape, classes):
    return nn.Sequential(Far(), nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))
"""


def test_networks_between_two_trainings_get_running_statistics_of_their_own(bring, capsys, tmp_path):
    bring("brought", BROUGHT + NORMALISED)
    run = as_json(capsys, "run", *OWN, "--out", tmp_path)["run_dir"]
    _, out, _ = command(capsys, "audit", run, "--seeds", "2", "--json")
    errors = json.loads(out)["connectivity"]["errors"]
    # At the ends lie the trained networks, estimated anew too: with no statistics they are wrong on 40 to 50 %.
    assert max(errors[0], errors[-1]) < 25


def test_an_audit_of_a_ticket_file(drawn, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.safetensors").write_bytes((run_of(drawn / "init") / "ticket.safetensors").read_bytes())
    capsys.readouterr()
    status = main(["audit", "alone.safetensors", "--model", "lenet-300-100", "--data", "digits", *QUICK[2:],
                   "--batch-size", "64", "--seeds", "1", "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert status == 3
    verdicts = {each["name"]: each["verdict"] for each in found["checks"]}
    assert verdicts == {
        "shuffled within layers": "undecided",
        "scores inverted within layers": "not possible",
        "scores inverted over the network": "not possible",
        "re-initialised": "undecided",
    }
    assert (tmp_path / "runs").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.safetensors"], "there is no ticket file nothing.safetensors"),
        (["RUN", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["RUN", "--seed", "many"], "--seed must be a whole number"),
    ],
)
def test_audits_that_cannot_be_made(drawn, capsys, arguments, message):
    run = str(run_of(drawn / "init"))
    before = sorted(path.name for path in (drawn / "init").iterdir())
    capsys.readouterr()
    assert main(["audit", *(argument.replace("RUN", run) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in (drawn / "init").iterdir()) == before


def test_a_check_in_plain_values():
    values = check("a", -5.0).to_dict()
    assert values["verdict"] == "informative"
    assert values["ticket_gains"]["mean"] == pytest.approx(5.0, abs=0.1)
    assert replace(check("a", -5.0), difference=None, why="no").to_dict()["ticket_gains"] is None
