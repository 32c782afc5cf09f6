"""The failure signatures: each provoked by a real search, and silent in healthy ones."""

from dataclasses import replace

import pytest
import torch

import tombola
from tombola import CTS, GradBalance, Lagrangian, ProportionalBalance, TicketWarning
from tombola.data import ListFeed
from tombola.finders import Magnitude, draw
from tombola.finders.diagnostics import SearchFindings, closed_gates, missed_density, search_signs
from tombola.finders.problem import Problem
from tombola.networks.masking import survey
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.training import State

from .conftest import Listening, batches, images, mlp, train
from .test_granularity import Residual
from .test_rivals import problem


def trained(hidden=64):
    return train(mlp(hidden=hidden), batches(8, size=64), epochs=10)


def warnings_of(finder, model=None, data=None, held_out=None, density=0.2):
    model = model or trained()
    problem = Problem(
        model=model, layout=survey(model).layout, task=Task(), feed=ListFeed(data or batches(4, size=64)),
        weights=State.of(model), seed=0, runtime=Runtime.choose(model, "cpu"),
        held_out=held_out and ListFeed(held_out),
    )  # fmt: skip
    return " ".join(draw(finder, problem, density).ticket.provenance.warnings)


@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance()])
def test_a_healthy_search_gives_no_warning(controller):
    assert warnings_of(CTS(steps=600, controller=controller), held_out=batches(4, size=64, seed=5)) == ""


@pytest.mark.hard
def test_an_unstable_balance():
    found = warnings_of(CTS(steps=600, controller=Lagrangian(rate=30.0), lr_schedule="drop"))
    assert "the balance is unstable: the expected density swung between" in found
    assert "the balance is unstable: λ pushed between" in warnings_of(
        CTS(steps=600, controller=Lagrangian(rate=0.2), lr_schedule="drop")
    )


def test_gates_that_did_not_get_where_they_should():
    assert closed_gates(0.011, 0.02) == []
    assert (
        "only 0.9000% of the gates were open at the end, under half of the wanted 2.0000%"
        in closed_gates(0.009, 0.02)[0]
    )
    assert missed_density(0.022, 0.02) == []
    assert "the expected density ended at 17.35 times the wanted one" in missed_density(0.347, 0.02)[0]
    assert "ended at 0.40 times" in missed_density(0.008, 0.02)[0]


def test_a_balance_that_does_not_hold():
    assert "the balance did not hold: the expected density ended at" in warnings_of(
        CTS(steps=600, controller=Lagrangian(rate=1e-6))
    )


def test_a_search_that_does_not_explore():
    finder = CTS(steps=400, learning_rate=30.0, lr_schedule="drop")
    assert "the search stopped exploring early" in warnings_of(finder)


def test_a_ticket_fitted_to_the_teacher_on_few_samples():
    model = trained()
    few, many = batches(1, size=6), batches(4, size=64, seed=5)
    finder = CTS(steps=600)
    assert "the ticket is fitted to the dense network's outputs" in warnings_of(finder, model, few, many, density=0.3)
    assert "fitted" not in warnings_of(finder, model, few, density=0.3)


def rows(count=20, **changes):
    row = {
        "expected_density": 0.1, "multiplier": 1.0, "density_norm": 0.1, "task_norm": 1.0, "entropy": 0.2,
        "turnover": 0.05, "objective": 1.0,
    }  # fmt: skip
    found = [dict(row) for _ in range(count)]
    found[0]["turnover"] = None
    for key, values in changes.items():
        for each, value in zip(found, values, strict=True):
            each[key] = value
    return found


FINE = SearchFindings("reverse-kl", 1.0, 0.5, 0.4, 0.5, 0.1, 0.1)


def signs(found, outcome=FINE):
    return " ".join(search_signs(outcome, 0.1, found))


def test_signs_by_hand():
    assert signs(rows()) == ""
    swinging = [0.1] * 10 + [0.1, 0.16] * 5
    assert "swung between 1.00 and 1.60 times" in signs(rows(expected_density=swinging))
    assert signs(rows(expected_density=[0.3] * 10 + [0.1] * 10)) == "", "the first half may be anything"
    assert "ended at 0.40 times" in signs(rows(expected_density=[0.04] * 20))
    moving = [0.1, 0.13] * 10
    assert "λ pushed between -0.50 and 0.50" in signs(rows(multiplier=[5, -5] * 10, expected_density=moving))
    assert signs(rows(multiplier=[5, -5] * 10)) == "", "a density that stays is balanced"
    assert signs(rows(expected_density=moving)) == ""
    still = {"entropy": [0.2] + [0.001] * 19, "turnover": [None] + [0.0] * 19}
    assert "stopped exploring early: after a quarter of it 0.50%" in signs(rows(**still))
    assert signs(rows(turnover=still["turnover"])) == "", "gates that are open to change are not decided"
    assert signs(rows(8, expected_density=[0.1, 0.3] * 4)) == "", "too short to tell"
    overfitted = replace(FINE, hard=0.1)
    assert "reverse-kl is 0.5 on held-out data and 0.1 on these" in signs(rows(), overfitted)
    assert signs(rows(), replace(overfitted, name="loss")) == ""


def test_draw_takes_held_out_data():
    model = trained()
    ticket = tombola.draw(
        model, batches(4, size=64), density=0.5, steps=300, held_out=batches(2, seed=9), progress=False
    )
    assert ticket.provenance.objective["held_out"] > 0
    with pytest.warns(TicketWarning, match="fitted to the dense network"):
        tombola.draw(
            model, batches(1, size=6), density=0.3, steps=600, objective="reverse-kl",
            held_out=batches(4, size=64, seed=5), progress=False,
        )  # fmt: skip


def test_the_held_out_value_is_the_objective_on_those_batches():
    torch.manual_seed(0)
    model, data = trained(8), batches(2)
    ticket = tombola.draw(
        model, data, density=0.5, steps=20, objective="reverse-kl", held_out=data, seed=1, progress=False
    )
    found = ticket.provenance.objective
    assert found["held_out"] == pytest.approx(found["hard"], rel=1e-5)


def test_a_layer_without_weights_cuts_the_network_unless_something_leads_around_it():
    def warned(model, weight, data):
        with torch.no_grad():
            weight(model).mul_(1e-9)
        progress = Listening()
        at = replace(problem(model, data), progress=progress)
        warnings = draw(Magnitude(), at, 0.5).ticket.provenance.warnings
        return warnings, progress.said

    found, said = warned(mlp(), lambda model: model[2].weight, batches())
    assert found[0] == "no weight is left in 2.weight"
    assert found[1].startswith("the ticket's output is the same for every input: every path through the network is cut")
    assert said == [f"warning: {found[1]}"]
    found, said = warned(Residual(), lambda model: model.narrow.weight, images())
    assert found == ("no weight is left in narrow.weight",)
    assert said == []
