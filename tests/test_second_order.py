"""Fisher's and Hutchinson's saliencies: by hand on three weights, and the warm-up of running statistics."""

import pytest
import torch
from torch import nn

from tombola.core.cost import Meter
from tombola.finders import Fisher, FisherTaylor, Hutchinson, HutchinsonTaylor
from tombola.finders.second_order import warmed_up
from tombola.networks.task import Task

from .conftest import TinyConv, images
from .test_rivals import problem, scores, three


def test_fisher_by_hand():
    # With b = 1: gradients 1, 2, 8 at the weights 2, 1, 0.5 (see test_rivals), one batch of one sample.
    assert scores(Fisher(), three(b=1.0)) == pytest.approx([0.5 * 4 * 1, 0.5 * 1 * 4, 0.5 * 0.25 * 64])
    assert scores(FisherTaylor(), three(b=1.0)) == pytest.approx([2 + 2, 2 + 2, 4 + 8])
    # The sign of θ g counts: at b = -1 the gradients are -1, -2, 0.
    assert scores(FisherTaylor(), three()) == pytest.approx([abs(-2 + 2), abs(2 + 2), 0.0])


def test_fisher_takes_squares_of_batches_times_their_size():
    # f = w x, y = 0: of two batches of two samples, x = 1 and x = 2, the gradients are 2 and 8 at w = 1.
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    data = [(torch.full((2, 1), x), torch.zeros(2, 1)) for x in (1.0, 2.0)]
    of = problem(model, data, Task.regression())
    assert scores(Fisher(batches=2), of) == pytest.approx([0.5 * 2 * (4 + 64) / 2])
    assert scores(FisherTaylor(batches=2), of) == pytest.approx([5 + 34])


def test_hutchinson_by_hand():
    # f_i = w_i x, y = 0, the mean of three squares: the Hessian is diagonal, 2 x² / 3 = 8 / 3 at x = 2, whatever the
    # signs. With outputs divided by 2 it is a quarter of that.
    model = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [2.0], [-3.0]]))
    of = problem(model, [(torch.full((1, 1), 2.0), torch.zeros(1, 3))], Task.regression())
    found = scores(Hutchinson(probes=3, temperature=1.0), of)
    assert found == pytest.approx([w * w * 4 / 3 for w in (1, 2, 3)])
    assert scores(Hutchinson(temperature=2.0), of) == pytest.approx([w * w / 3 for w in (1, 2, 3)])
    # θ g is 8/3 w² too, its sign always up.
    assert scores(HutchinsonTaylor(temperature=1.0), of) == pytest.approx([w * w * (8 / 3 + 4 / 3) for w in (1, 2, 3)])


def test_hutchinson_finds_the_diagonal_of_a_full_hessian_on_average():
    # H of the three weights at b = 1 is 2 (df df^T + e d2f) with diagonal 2 (1/4, 1, 16); ½ h θ² = 1, 1, 4.
    found = torch.tensor(scores(Hutchinson(probes=800, temperature=1.0), three(b=1.0)))
    assert (found - torch.tensor([1.0, 1.0, 4.0])).abs().max() < 1.2


def test_the_warm_up_moves_running_statistics_and_nothing_else():
    torch.manual_seed(0)
    of = problem(TinyConv(), images(3))
    model, meter = TinyConv(), Meter()
    model.load_state_dict(of.model.state_dict())
    warm = warmed_up(of.network(), of, 1, meter)
    first = of.model.conv(of.feed.batches[0][0]).mean(dim=(0, 2, 3))
    assert torch.allclose(warm.norm.running_mean, 0.1 * first.detach(), atol=1e-6)
    assert meter.read().forward == 12
    assert all(torch.equal(a, b) for a, b in zip(warm.parameters(), of.model.parameters(), strict=True))
    assert not warm.training
    assert (of.model.norm.running_mean == 0).all()


def test_scores_see_the_warm_statistics_or_each_batchs_own():
    of = problem(TinyConv(), images(3))
    warm, own = (
        Fisher(warm_up_batches=30).context(of, Meter()).network,
        Fisher(warm_up_batches=0).context(of, Meter()).network,
    )
    assert warm.model.norm.running_mean.abs().max() > 0
    assert own.model.norm.running_mean is None
    assert scores(Fisher(warm_up_batches=30), of) != scores(Fisher(warm_up_batches=0), of)


def test_a_network_without_statistics_needs_no_warm_up():
    meter = Meter()
    Fisher().context(three(), meter)
    assert meter.read().forward == 0
