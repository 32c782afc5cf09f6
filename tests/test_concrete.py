import math

import pytest
import torch

from tombola.core import concrete
from tombola.core.concrete import RELAXATIONS, Concrete, Deterministic, StraightThrough, logit
from tombola.core.flat import PIECE, Layout
from tombola.core.granularity import Weight
from tombola.core.selection import Selection
from tombola.finders.balance import far, start_logits
from tombola.finders.gates import Gates, Sampled


def test_sample_is_the_sigmoid_of_tempered_noise_plus_logit():
    logits, noise = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.5, 0.75, 0.2])
    expected = [1 / (1 + math.exp(-(math.log(u / (1 - u)) / (2 / 3) + a))) for a, u in [(0, 0.5), (1, 0.75), (-2, 0.2)]]
    assert concrete.sample(logits, noise).tolist() == pytest.approx(expected, abs=1e-6)


def test_extreme_noise_stays_finite_and_differentiable():
    logits = torch.zeros(2, requires_grad=True)
    mask = concrete.sample(logits, torch.tensor([0.0, 1.0]))
    mask.sum().backward()
    assert torch.isfinite(mask).all()
    assert torch.isfinite(logits.grad).all()


def test_search_starts_at_the_wanted_density():
    selection = Selection(Layout(("a", "b"), ((25, 30), (250,))), 0.02)
    logits = start_logits(selection, logit, torch.zeros(1))
    assert logits.shape == (1000,)
    assert logits[0].item() == pytest.approx(math.log(0.02 / 0.98), rel=1e-6)
    assert concrete.expected_density(logits) == pytest.approx(0.02, rel=1e-6)


@pytest.mark.parametrize("temperature", [1e30, 2 / 3, 0.3, 0.01, 1e-12, 1e-40])
def test_no_noise_reaches_what_is_decided(temperature):
    relaxation, noise = Concrete(temperature), torch.tensor([0.0, 0.5, 1.0])
    for end in (far(relaxation), -far(relaxation)):
        mask = relaxation.mask(torch.full((3,), end), noise)
        assert mask.tolist() == pytest.approx([float(end > 0)] * 3, abs=1e-9)
        assert relaxation.slope(mask, mask).tolist() == pytest.approx([0.0] * 3, abs=1e-9)


def test_temperatures_at_which_100_is_far_enough_keep_it():
    assert {far(Concrete(temperature)) for temperature in (0.32, 2 / 3, 9.0)} == {100.0}
    assert far(Concrete(0.1)) == pytest.approx(270.0)


def test_a_gate_is_open_with_the_probability_of_its_logit():
    # z > 1/2 exactly when logit(u)/tau + a > 0, so P = sigmoid(tau a).
    logits = torch.full((200_000,), 1.5)
    noise = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    share = (concrete.sample(logits, noise) > 0.5).double().mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.005)


def test_densities_and_entropy_by_hand():
    logits = torch.tensor([0.0, math.log(3.0)])  # gates 1/2 and 3/4
    assert concrete.expected_density(logits) == pytest.approx(0.625)
    assert concrete.hard_density(logits) == 0.5
    half, quarter = math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert concrete.mean_entropy(logits) == pytest.approx((half + quarter) / 2, rel=1e-6)
    assert concrete.mean_entropy(torch.tensor([200.0, -200.0])) == pytest.approx(0, abs=1e-6)


def test_straight_through_is_hard_forward_and_smooth_backward():
    logits = torch.tensor([0.0, 0.0, 2.0])
    mask = StraightThrough().mask(logits, torch.tensor([0.4, 0.6, 0.5]))
    assert mask.tolist() == [1.0, 0.0, 1.0]
    gates = torch.sigmoid(logits)
    assert StraightThrough().slope(mask, logits).tolist() == pytest.approx((gates * (1 - gates)).tolist())


def test_the_deterministic_relaxation_has_no_noise():
    logits = torch.tensor([0.0, 1.0])
    found = Deterministic().mask(logits, torch.rand(2))
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-1))])


@pytest.mark.parametrize("relaxation", [Concrete(temperature=0.5), Deterministic()])
def test_the_slope_is_the_gradient_of_the_mask(relaxation):
    logits, noise, pull = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).unbind()
    logits.requires_grad_()
    mask = relaxation.mask(logits, noise.sigmoid())
    (gradient,) = torch.autograd.grad(mask, logits, pull)
    assert torch.allclose(relaxation.slope(mask, logits) * pull, gradient, rtol=1e-5, atol=1e-8)


def sampled(logits, seed=7):
    layout = Layout(("weight",), ((len(logits), 1),))
    forming = Sampled(Concrete(temperature=0.5), seed)
    return Gates(logits, Weight().groups(layout), forming, lambda parameters: torch.optim.SGD(parameters, lr=1.0))


def test_sampling_in_pieces_depends_on_seed_step_and_place_alone():
    logits = torch.zeros(2 * PIECE + 77)
    mask = sampled(logits).mask(3)
    assert mask.requires_grad
    assert mask.is_leaf
    first = mask.detach()
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.equal(sampled(logits).mask(3), first)
    torch.set_num_threads(before)
    assert not torch.equal(sampled(logits).mask(4), first)
    assert not torch.equal(sampled(logits, seed=8).mask(3), first)
    assert not torch.equal(first[:PIECE], first[PIECE : 2 * PIECE]), "pieces have noise of their own"
    # At logit 0 half of the masks lie above 1/2, and ln(u/(1 - u))/τ has the standard deviation π/√3/τ.
    assert (first > 0.5).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.logit(first.double(), eps=1e-9).std().item() == pytest.approx(math.pi / math.sqrt(3) / 0.5, rel=0.02)


def test_gradients_of_masks_are_pulled_back_to_the_logits():
    logits = torch.randn(2 * PIECE + 77, generator=torch.Generator().manual_seed(0))
    of = sampled(logits)
    mask = of.mask(0)
    (gradient,) = torch.autograd.grad((mask * logits).sum(), mask)
    kept = gradient.clone()
    found = of.pull(gradient)
    assert torch.allclose(found, logits * (mask * (1 - mask)).detach(), rtol=1e-5)
    assert torch.equal(gradient, kept), "what an objective returned stays as it was"


@pytest.mark.parametrize("relaxation", list(RELAXATIONS))
def test_every_relaxation_finds_a_ticket(relaxation):
    from tombola import CTS, draw

    from .conftest import batches, mlp, train

    model = train(mlp(hidden=32), batches(4, size=64), epochs=10)
    ticket = draw(model, batches(4, size=64), density=0.3, finder=CTS(steps=300, relaxation=relaxation), progress=False)
    outcome = ticket.provenance.objective
    assert outcome["soft"] < outcome["first"]
