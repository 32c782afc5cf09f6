import math
from typing import NamedTuple

import pytest
import torch

from tombola.controllers import GradBalance, Lagrangian, ProportionalBalance, Target, norm
from tombola.flat import PIECE

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
