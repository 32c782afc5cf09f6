import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pytest
import torch

from tombola import CTS
from tombola.core.controllers import CONTROLLERS, GradBalance, Lagrangian, ProportionalBalance, Target, norm, settled
from tombola.core.flat import PIECE
from tombola.core.parts import POSITIVE, Part, describe, option
from tombola.finders import Joint, draw
from tombola.storage.store import DiskStore

from .conftest import DyingStore, Killed, batches, mlp, train
from .test_rivals import problem

HALF = torch.zeros(4)  # four gates at 1/2


class Found(NamedTuple):
    gradient: torch.Tensor
    multiplier: float
    error: float
    task_norm: float
    density_norm: float


def steer(controller, logits, task, density, multiplier=0.0, learning_rate=0.1):
    """One step from a λ, as numbers."""
    state = {"multiplier": torch.tensor(multiplier, dtype=torch.float64)}
    gradient, after, figures = controller.update(logits, task, Target(density, learning_rate, 0.5), state)
    found = {key: float(value) for key, value in figures.items()}
    assert float(after["multiplier"]) == found["multiplier"] or math.isnan(found["multiplier"])
    return Found(gradient, **found)


def test_gradbalance_by_hand_above_the_aim():
    # kappa 0.4: aim 0.44, e = 0.5/0.44 - 1 > 0; g_density = 0.25/(0.44*4) each, norm twice that.
    task = torch.tensor([3.0, 0.0, 0.0, 4.0])
    each = 0.25 / (0.44 * 4)
    found = steer(GradBalance(), HALF, task, 0.4, 10.0, 0.1)
    target = 5.0 / (2 * each)
    assert found.error == pytest.approx(0.5 / 0.44 - 1)
    assert found.task_norm == pytest.approx(5.0)
    assert found.density_norm == pytest.approx(2 * each)
    assert found.multiplier == pytest.approx(0.99 * 10 + 0.01 * target)
    assert found.gradient.tolist() == pytest.approx([g + found.multiplier * each for g in (3, 0, 0, 4)])


def test_gradbalance_by_hand_below_the_aim():
    task = torch.tensor([3.0, 0.0, 0.0, 4.0])
    found = steer(GradBalance(), HALF, task.clone(), 0.5, 10.0, 0.1)  # aim 0.55 > 0.5
    assert found.multiplier == pytest.approx(9.9)
    first = steer(GradBalance(), HALF, task, 0.5, 0.0, 0.1)
    assert first.multiplier == 0
    assert first.gradient.tolist() == task.tolist()


def test_gradbalance_never_aims_where_no_gate_can_be():
    assert GradBalance().aim(0.5) == pytest.approx(0.55)
    assert GradBalance().aim(0.95) == pytest.approx(0.975)


def test_proportional_by_hand_pulls_from_both_sides():
    task, each = torch.tensor([3.0, 0.0, 0.0, 4.0]), 0.25 / (0.49 * 4)
    above = steer(ProportionalBalance(), HALF, task.clone(), 0.49, 123.0, 0.1)
    assert above.multiplier == pytest.approx(5 / (2 * each) * math.tanh((0.5 / 0.49 - 1) / 0.05))
    assert above.gradient.tolist() == pytest.approx([g + above.multiplier * each for g in (3, 0, 0, 4)])
    below = steer(ProportionalBalance(), HALF, task, 0.51, 123.0, 0.1)
    assert below.multiplier < 0


@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance()])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e30])
def test_tiny_and_huge_gradients_neither_vanish_nor_overflow(controller, size):
    task = torch.tensor([3.0, 0.0, 0.0, 4.0])
    plain = steer(controller, HALF, task.clone(), 0.3, 0.0, 0.1)
    scaled = steer(controller, HALF, task * size, 0.3, 0.0, 0.1)
    assert scaled.task_norm == pytest.approx(5 * size)
    assert (scaled.gradient.double() / size).tolist() == pytest.approx(plain.gradient.tolist(), rel=1e-5)


@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance()])
def test_saturated_gates_leave_the_task_gradient_alone(controller):
    found = steer(controller, torch.full((4,), 1e4), torch.ones(4), 0.3, 0.0, 0.1)
    assert found.gradient.tolist() == [1, 1, 1, 1]


def test_nearly_saturated_gates_stay_finite():
    logits = torch.full((4,), 60.0, dtype=torch.float64).float() * -1
    logits[0] = 20.0  # mean of the gates is 1/4, far above the density
    found = steer(ProportionalBalance(), logits, torch.full((4,), 1e30), 0.01, 0.0, 0.1)
    assert torch.isfinite(found.gradient).all()


def test_norm_of_many_small_numbers():
    assert float(norm(torch.full((10_000,), 1e-25))) == pytest.approx(1e-23)


def test_lagrangian_by_hand_uses_the_multiplier_of_before_and_is_not_clamped():
    task, each = torch.tensor([3.0, 0.0, 0.0, 4.0]), 0.25 / (0.4 * 4)
    found = steer(Lagrangian(rate=0.5), HALF, task, 0.4, 2.0, learning_rate=0.1)
    assert found.gradient.tolist() == pytest.approx([g + 2.0 * each for g in (3, 0, 0, 4)])
    assert found.multiplier == pytest.approx(2.0 + 0.5 * 0.1 * (0.5 / 0.4 - 1))
    below = steer(Lagrangian(rate=0.5), HALF, task, 0.8, 0.0, learning_rate=0.1)
    assert below.multiplier == pytest.approx(-0.5 * 0.1 * 0.375)


@pytest.mark.parametrize(("objective", "scale", "rate"), [
    ("loss", 100, 0.01), ("delta-loss", 10_000, 0.01), ("grad-norm", 1, 0.01), ("feature-mse", 100, 0.001),
])  # fmt: skip
def test_published_rates_are_the_published_scales_in_plain_units(objective, scale, rate):
    # The published step: gradient s g + lambda 100 g_e, lambda += rate lr 100 e; here divided by s.
    task, learning_rate = torch.tensor([3.0, 0.0, 0.0, 4.0]), 0.1
    controller = Lagrangian.published(objective)
    published = ours = 0.0
    for density in (0.4, 0.3, 0.6):
        error, each = 0.5 / density - 1, 0.25 / (density * 4)
        expected = [(scale * g + published * 100 * each) / scale for g in (3, 0, 0, 4)]
        published += rate * learning_rate * 100 * error
        found = steer(controller, HALF, task.clone(), density, ours, learning_rate)
        assert found.gradient.tolist() == pytest.approx(expected, rel=1e-5)
        ours = found.multiplier


@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance(), Lagrangian()])
def test_long_vectors_are_steered_as_short_ones_are(controller):
    # More than one piece, the last of them short.
    total = 2 * PIECE + 77
    logits = torch.randn(total, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    task = torch.randn(total, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = steer(controller, logits, task.clone(), 0.3, 2.0, 0.1)
    gates = torch.sigmoid(logits)
    slopes = gates * (1 - gates)
    aim = controller.aim(0.3) if isinstance(controller, GradBalance) else 0.3
    assert found.error == pytest.approx(float(gates.mean()) / aim - 1)
    assert found.task_norm == pytest.approx(float(task.norm()))
    assert found.density_norm == pytest.approx(float((slopes / (aim * total)).norm()))
    used = 2.0 if isinstance(controller, Lagrangian) else found.multiplier
    assert torch.allclose(found.gradient, task + used * slopes / (aim * total), rtol=1e-9)


def test_a_gradient_that_is_no_number_stays_where_it_was():
    task = torch.tensor([1.0, math.nan, 2.0, 3.0])
    found = steer(GradBalance(), HALF, task, 0.3, 1.0, 0.1)
    assert math.isnan(found.task_norm)
    assert torch.isnan(found.gradient).tolist() == [False, True, False, False]


@dataclass(frozen=True)
class Integrating(Part):
    """A proportional and integral controller, as a user might write one."""

    name: ClassVar[str] = "integrating"
    gain: float = option(4.0, must=POSITIVE)

    def init(self, logits):
        """Return no error so far."""
        return {"sum": torch.zeros((), dtype=torch.float64, device=logits.device)}

    def update(self, logits, task_gradient, target, state):
        """Push by the error and by its sum, as a multiple of the task's gradient."""
        gates = torch.sigmoid(logits)
        error = gates.double().mean() / target.density - 1
        total = (state["sum"] + 0.02 * error).clamp(-1, 1)
        slopes = gates * (1 - gates)
        unit = slopes / slopes.norm().clamp(min=1e-30)
        multiplier = self.gain * (error + total)
        combined = task_gradient + (multiplier * task_gradient.norm()).to(logits.dtype) * unit
        figures = {
            "multiplier": multiplier,
            "error": error,
            "task_norm": norm(task_gradient),
            "density_norm": norm(unit),
        }
        return combined, {"sum": total}, figures


EVERY = [*CONTROLLERS.known.values(), Integrating()]
every_controller = pytest.mark.parametrize("controller", EVERY, ids=lambda controller: controller.name)


@every_controller
def test_a_controller_changes_nothing_that_it_is_given(controller):
    logits, task = torch.randn(2, 500, generator=torch.Generator().manual_seed(0)).unbind()
    before, after = (logits.clone(), task.clone()), controller.init(logits)
    assert all(isinstance(value, torch.Tensor) for value in after.values())
    assert torch.equal(logits, before[0])
    for share in (0.0, 0.5, 1.0):
        state = after
        kept = {key: value.clone() for key, value in state.items()}
        combined, after, figures = controller.update(logits, task, Target(0.3, 0.1, share), state)
        again, same, _ = controller.update(logits, task, Target(0.3, 0.1, share), state)
        assert torch.equal(combined, again), "nothing is remembered between the calls"
        assert all(torch.equal(after[key], same[key]) for key in after)
        assert all(torch.equal(state[key], kept[key]) for key in kept)
        assert after.keys() == state.keys()
        assert torch.equal(logits, before[0])
        assert torch.equal(task, before[1])
        assert combined.shape == task.shape
        assert combined.dtype == task.dtype
        assert {"multiplier", "error", "task_norm", "density_norm"} <= figures.keys()
        assert all(value.dim() == 0 and torch.isfinite(value) for value in figures.values())


@every_controller
def test_a_controller_pushes_against_the_error(controller):
    # Gates far too open: whatever the task wants, after some steps the density is pushed down.
    logits, task = torch.full((100,), 2.0), torch.zeros(100)
    task[0] = 1.0
    state = controller.init(logits)
    for _ in range(5):
        combined, state, figures = controller.update(logits, task, Target(0.1, 0.1, 0.5), state)
    assert float(figures["error"]) > 0
    assert (combined[1:] > 0).all()


@every_controller
@pytest.mark.filterwarnings("ignore::tombola.TicketWarning")
def test_every_controller_works_in_both_searches(controller):
    data = batches(8, size=64)
    model = train(mlp(hidden=32), data, epochs=10)
    found = draw(CTS(objective="reverse-kl", steps=400, controller=controller), problem(model, data), 0.3).ticket
    reached = found.provenance.objective["expected_density"]
    assert found.kept == round(0.3 * found.prunable)
    joint = draw(Joint(controller=controller), problem(mlp(hidden=32), data, epochs=12), 0.3)
    last = joint.rows[-1]["expected_density"]
    if controller.name in {"proportional", "integrating"}:
        assert reached == pytest.approx(0.3, rel=0.1)
        assert last == pytest.approx(0.3, rel=0.2)
    else:
        assert 0 < reached < 1, "the published ones take longer"
        assert 0 < last < 1
    assert found.provenance.finder["controller"] == describe(settled(controller, "reverse-kl"))


@every_controller
def test_a_search_with_any_controller_is_resumed_to_the_same_bits(tmp_path, controller):
    finder = CTS(objective="loss", steps=30, controller=controller)
    expected = draw(finder, problem(mlp(), batches()), {"0.*": 0.2, "*": 0.5}).ticket

    with pytest.raises(Killed):
        draw(finder, problem(mlp(), batches(), store=DyingStore(tmp_path, 11)), {"0.*": 0.2, "*": 0.5})
    resumed = draw(finder, problem(mlp(), batches(), store=DiskStore(tmp_path)), {"0.*": 0.2, "*": 0.5}).ticket
    assert all(torch.equal(resumed.scores[name], scores) for name, scores in expected.scores.items())


def test_what_a_controller_leaves_to_the_objective_is_written_out():
    assert settled(Lagrangian(), "grad-norm") == Lagrangian(100.0)
    assert settled(Lagrangian(0.5), "grad-norm") == Lagrangian(0.5)
    assert settled(Lagrangian(), "loss") == Lagrangian(1.0)
    assert settled(Integrating(), "loss") == Integrating()
    ticket = draw(CTS(objective="feature-mse", steps=3, controller="lagrangian"), problem(mlp(), batches()), 0.3).ticket
    assert ticket.provenance.finder["controller"] == {"name": "lagrangian", "rate": 0.1}
