import math

import pytest
import torch

from tombola.controllers import GradBalance, ProportionalBalance, norm

HALF = torch.zeros(4)  # four gates at 1/2


def test_gradbalance_by_hand_above_the_aim():
    # kappa 0.4: aim 0.44, e = 0.5/0.44 - 1 > 0; g_density = 0.25/(0.44*4) each, norm twice that.
    task = torch.tensor([3.0, 0.0, 0.0, 4.0])
    each = 0.25 / (0.44 * 4)
    found = GradBalance().steer(HALF, task, 0.4, multiplier=10.0)
    target = 5.0 / (2 * each)
    assert found.error == pytest.approx(0.5 / 0.44 - 1)
    assert found.task_norm == pytest.approx(5.0)
    assert found.density_norm == pytest.approx(2 * each)
    assert found.multiplier == pytest.approx(0.99 * 10 + 0.01 * target)
    assert found.gradient.tolist() == pytest.approx([g + found.multiplier * each for g in (3, 0, 0, 4)])


def test_gradbalance_by_hand_below_the_aim():
    task = torch.tensor([3.0, 0.0, 0.0, 4.0])
    found = GradBalance().steer(HALF, task, 0.5, multiplier=10.0)  # aim 0.55 > 0.5
    assert found.multiplier == pytest.approx(9.9)
    first = GradBalance().steer(HALF, task, 0.5, multiplier=0.0)
    assert first.multiplier == 0
    assert first.gradient.tolist() == task.tolist()


def test_gradbalance_never_aims_where_no_gate_can_be():
    assert GradBalance().aim(0.5) == pytest.approx(0.55)
    assert GradBalance().aim(0.95) == pytest.approx(0.975)


def test_proportional_by_hand_pulls_from_both_sides():
    task, each = torch.tensor([3.0, 0.0, 0.0, 4.0]), 0.25 / (0.49 * 4)
    above = ProportionalBalance().steer(HALF, task, 0.49, multiplier=123.0)
    assert above.multiplier == pytest.approx(5 / (2 * each) * math.tanh((0.5 / 0.49 - 1) / 0.05))
    assert above.gradient.tolist() == pytest.approx([g + above.multiplier * each for g in (3, 0, 0, 4)])
    below = ProportionalBalance().steer(HALF, task, 0.51, multiplier=123.0)
    assert below.multiplier < 0


@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance()])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e30])
def test_tiny_and_huge_gradients_neither_vanish_nor_overflow(controller, size):
    task = torch.tensor([3.0, 0.0, 0.0, 4.0])
    plain = controller.steer(HALF, task, 0.3, 0.0)
    scaled = controller.steer(HALF, task * size, 0.3, 0.0)
    assert scaled.task_norm == pytest.approx(5 * size)
    assert (scaled.gradient.double() / size).tolist() == pytest.approx(plain.gradient.tolist(), rel=1e-5)


@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance()])
def test_saturated_gates_leave_the_task_gradient_alone(controller):
    found = controller.steer(torch.full((4,), 1e4), torch.ones(4), 0.3, 0.0)
    assert found.gradient.tolist() == [1, 1, 1, 1]


def test_nearly_saturated_gates_stay_finite():
    logits = torch.full((4,), 60.0, dtype=torch.float64).float() * -1
    logits[0] = 20.0  # mean of the gates is 1/4, far above the density
    found = ProportionalBalance().steer(logits, torch.full((4,), 1e30), 0.01, 0.0)
    assert torch.isfinite(found.gradient).all()


def test_norm_of_many_small_numbers():
    assert norm(torch.full((10_000,), 1e-25)) == pytest.approx(1e-23)
