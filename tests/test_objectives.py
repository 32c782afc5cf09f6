import math

import pytest
import torch
from torch import nn

from tombola import concrete
from tombola.masking import survey
from tombola.network import FrozenNetwork
from tombola.objectives import OBJECTIVES, View, objective_named
from tombola.runtime import Runtime
from tombola.task import Task, softmax_divergence

from .conftest import batches, mlp

CPU = Runtime(torch.device("cpu"))


def logits_of(*probabilities):
    return torch.tensor([[math.log(p) for p in row] for row in probabilities])


def test_divergence_by_hand():
    p, q = logits_of([0.5, 0.5], [0.9, 0.1]), logits_of([0.25, 0.75], [0.9, 0.1])
    by_hand = (0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)) / 2
    assert softmax_divergence(p, q, None).item() == pytest.approx(by_hand, rel=1e-5)
    assert softmax_divergence(q, q, None).item() == 0


def test_divergence_over_pixels_is_a_mean_too():
    p, q = logits_of([0.5, 0.5]), logits_of([0.25, 0.75])
    one = softmax_divergence(p, q, None)
    spread = softmax_divergence(p[:, :, None].expand(1, 2, 7), q[:, :, None].expand(1, 2, 7), None)
    assert spread.item() == pytest.approx(one.item())


class Fixed(nn.Module):
    """One weight; its outputs are (w x, 0)."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.lin.weight, math.log(3.0))

    def forward(self, x):
        return torch.cat([self.lin(x), torch.zeros_like(x)], dim=1)


def view_of(model, mask, batch):
    network = FrozenNetwork(model, survey(model).layout, Task(), CPU)
    return View(network, Task(), mask, batch, lambda: network.dense(batch))


def test_objectives_by_hand_on_one_weight():
    # Dense probabilities (3/4, 1/4); pruned ones (1/2, 1/2).
    batch = (torch.ones(1, 1), torch.tensor([0]))
    view = view_of(Fixed(), torch.zeros(1), batch)
    assert OBJECTIVES["loss"](view).item() == pytest.approx(math.log(2), rel=1e-5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    forward = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert OBJECTIVES["reverse-kl"](view).item() == pytest.approx(reverse, rel=1e-5)
    assert OBJECTIVES["forward-kl"](view).item() == pytest.approx(forward, rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_of_the_logits_against_finite_differences(name):
    model = mlp().double()

    # Float64 in the divergence too: the task's own casts to float32 would blur the differences.
    def kl(p, q, batch):
        p, q = p.log_softmax(1), q.log_softmax(1)
        return (p.exp() * (p - q)).sum(1).mean()

    task = Task(loss=lambda output, batch: nn.functional.cross_entropy(output, batch[1]), divergence=kl)
    x, y = batches(1)[0]
    batch = (x.double(), y)
    network = FrozenNetwork(model, survey(model).layout, task, CPU)
    noise = torch.rand(network.weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value(logits):
        mask = concrete.sample(logits, noise)
        return OBJECTIVES[name](View(network, task, mask, batch, lambda: network.dense(batch)))

    logits = torch.randn(network.weights.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (logits,), eps=1e-6, atol=1e-7)


def test_no_gradient_is_ever_stored_for_the_weights():
    model = mlp()
    logits = torch.zeros(survey(model).prunable, requires_grad=True)
    view = view_of(model, torch.sigmoid(logits), batches(1)[0])
    (gradient,) = torch.autograd.grad(OBJECTIVES["reverse-kl"](view), logits)
    assert gradient.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in view.network.model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_unknown_objectives_are_refused():
    with pytest.raises(ValueError, match="allowed are loss, reverse-kl, forward-kl"):
        objective_named("accuracy")
