"""HAM and Sign-In: steps by hand, under masks, and trainings that go on where they were halted."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola import Recipe, UsageError, sparsify
from tombola.core.progress import Silent
from tombola.data import ListFeed
from tombola.finders import ACDC, RigL, draw
from tombola.networks.task import Task
from tombola.runs.config import built
from tombola.storage.store import DiskStore, MemoryStore
from tombola.training import HAM, OPTIMIZERS, SGD, AdamW, SignIn, State, TrainingSetup, fit
from tombola.training.sign_in import split

from .conftest import CPU, Dying, Killed, TinyConv, batches, images, mlp
from .test_rivals import problem

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")
WRAPPERS = [HAM(), HAM(inner="adamw"), SignIn(every=2), SignIn(inner="adamw")]
of_each = pytest.mark.parametrize("optimizer", WRAPPERS, ids=lambda each: f"{each.name}-{each.inner.name}")


def given_gradients():
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.fill_(1.0)
    layer.weight.grad, layer.bias.grad = torch.tensor([[0.01, 0.02]]), torch.tensor([0.5])
    return layer


def test_ham_by_hand():
    layer = given_gradients()
    HAM(SGD(momentum=0.0)).build(list(layer.parameters()), 0.1, 0.0).step()
    # After the step 0.999 and -2.002; exponents -0.1 (200 * 0.01 + 0.001) and -0.1 (-200 * 0.02 + 0.001).
    expected = [0.999 * math.exp(-0.2001), -2.002 * math.exp(0.3999)]
    assert layer.weight.tolist()[0] == pytest.approx(expected)
    assert layer.bias.item() == pytest.approx(0.95), "what has one dimension takes no hyperbolic step"


def test_ham_goes_so_far_at_most():
    layer = given_gradients()
    HAM(SGD(momentum=0.0), alpha=1e6).build(list(layer.parameters()), 0.1, 0.0).step()
    assert layer.weight.tolist()[0] == pytest.approx([0.999 * math.exp(-5), -2.002 * math.exp(5)])


@given(st.floats(-50, 50), st.floats(0.1, 10))
def test_factors_have_the_product_and_the_difference_that_are_wanted(weight, scale):
    first, second = split(torch.tensor(weight, dtype=torch.float64), scale)
    assert float(first * second) == pytest.approx(weight, abs=1e-9)
    assert float(first**2 - second**2) == pytest.approx(scale, rel=1e-6, abs=1e-6)
    assert first > 0


def test_sign_in_by_hand():
    # θ = 0: m = 1, w = 0; with g = 3 and rate 0.1, m stays and w becomes -0.3.
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = SignIn(SGD(momentum=0.0)).build(list(layer.parameters()), 0.1, 0.0)
    layer.weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    assert layer.weight.item() == pytest.approx(-0.3)
    # Then m loses 0.1 * 3 * -0.3 and w 0.1 * 3 * 1.
    optimizer.step()
    assert layer.weight.item() == pytest.approx(1.09 * -0.6)


def test_sign_in_resets_the_difference_and_not_the_weight():
    layer = nn.Linear(1, 1, bias=False)
    optimizer = SignIn(SGD(momentum=0.0), every=2).build(list(layer.parameters()), 0.1, 0.5)
    for step in range(3):
        layer.weight.grad = torch.zeros(1, 1)
        before = layer.weight.item()
        optimizer.step()
        ((first, second),) = optimizer._factors
        # Weight decay alone shrinks both by 5 %, their squares' difference by nearly 10; the third step begins anew.
        assert float((first**2 - second**2).detach()) == pytest.approx(0.95 ** (2 * (step % 2 + 1)), rel=1e-5)
        assert layer.weight.item() == pytest.approx(0.95**2 * before, rel=1e-5)


def test_sign_in_leaves_frozen_weights_alone_to_the_bit():
    torch.manual_seed(0)
    frozen, trained = nn.Parameter(torch.randn(20, 20), requires_grad=False), nn.Parameter(torch.randn(2, 2))
    before = frozen.detach().clone()
    optimizer = SignIn(every=2).build([frozen, trained], 0.1, 0.1)
    for _ in range(5):
        trained.grad = torch.ones(2, 2)
        optimizer.step()
    assert torch.equal(frozen, before)


@dataclass(frozen=True)
class OfKind:
    """An optimiser of one's own."""

    kind: str = "LBFGS"

    def build(self, parameters, learning_rate, weight_decay):
        if self.kind == "none":
            return None
        if self.kind == "raising":
            raise KeyError("momentum")
        return getattr(torch.optim, self.kind)(parameters, lr=learning_rate)


@pytest.mark.parametrize("wrap", [lambda own: own, lambda own: HAM(own), lambda own: SignIn(own)])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("LBFGS", r"optimizer must build a torch.optim.Optimizer .* step\(\) needs no closure, got LBFGS of OfKind"),
        ("none", r"optimizer must build a torch.optim.Optimizer .* got NoneType of OfKind"),
        ("raising", r"'OfKind' failed to build: KeyError: 'momentum' \(test_wrapped_optimizers.py, line \d+\)"),
        ("SparseAdam", "failed in its step: RuntimeError: SparseAdam does not support dense gradients"),
    ],
)
def test_what_the_training_cannot_step_is_refused_in_one_sentence(wrap, kind, words):
    data, recipe = batches(2), Recipe(epochs=2, optimizer=wrap(OfKind(kind)))
    with pytest.raises(UsageError, match=words) as caught:
        sparsify(mlp(), data, data, density=0.3, recipe=recipe, finder="random", progress=False)
    assert caught.value.option == "optimizer"


def test_what_a_mask_sets_to_zero_may_come_back():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = SignIn(every=1000).build(list(layer.parameters()), 0.1, 0.0)
    for _ in range(2):
        layer.weight.grad = torch.ones(1, 1)
        optimizer.step()
    with torch.no_grad():
        layer.weight.zero_()
    optimizer.step()
    assert layer.weight.item() == pytest.approx(-0.1), "split anew, without the momentum of before"


@of_each
def test_a_ticket_holds_through_its_steps_and_trains(optimizer):
    of, data = mlp(hidden=40), batches(20)
    rate = 0.01 if optimizer.inner.name == "adamw" else 0.1
    alone = replace(optimizer, **({"alpha": 1.0} if isinstance(optimizer, HAM) else {"every": 400}))
    recipe = Recipe(epochs=8, learning_rate=rate, optimizer=alone)
    found = sparsify(of, data, data, density=0.3, recipe=recipe, finder="magnitude", progress=False)
    for name, mask in found.ticket.items():
        weight = dict(found.model.named_parameters())[name]
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != 0).all()
    assert found.held_out_metric > 0.7


@of_each
@pytest.mark.parametrize("finder", [RigL(updates=4), ACDC()], ids=lambda finder: finder.name)
def test_a_mask_may_move_under_it(optimizer, finder):
    of = problem(mlp(), batches(4), epochs=4)
    rate = 0.01 if optimizer.inner.name == "adamw" else 0.1
    of.trainer.setup = replace(of.trainer.setup, recipe=Recipe(epochs=4, learning_rate=rate, optimizer=optimizer))
    found = draw(finder, of, 0.3)
    mask, left = of.layout.flatten(found.ticket), of.layout.flatten(of.values_of(found.kept))
    assert (left[~mask] == 0).all()
    assert torch.isfinite(left).all()


@of_each
@pytest.mark.parametrize("after", [1, 4])
def test_a_training_halted_goes_on_to_the_same_bits(tmp_path, optimizer, after):
    def trained(where):
        recipe = Recipe(epochs=2, learning_rate=0.01, optimizer=optimizer)
        of = TrainingSetup(TinyConv(), Task(), ListFeed(data), None, recipe, CPU, 0, Silent())
        return fit(of, start, 2, where, "t")

    torch.manual_seed(0)
    start, data = State.of(TinyConv()), images(3)
    expected = trained(MemoryStore().entry("train", {}))
    with pytest.raises(Killed):
        trained(Dying(DiskStore(tmp_path).entry("train", {}), after))
    assert trained(DiskStore(tmp_path).entry("train", {})).digest == expected.digest


def test_they_are_written_like_any_optimiser():
    assert OPTIMIZERS.read("ham:inner=adamw:alpha=10") == HAM(AdamW(), alpha=10.0)
    config = built([{"optimizer": "sign-in:every=5", "momentum": 0.5}])
    assert config.training.optimizer == SignIn(SGD(momentum=0.5), every=5)
    with pytest.raises(UsageError, match="inner 'ham' is unknown; allowed are sgd, adamw"):
        HAM(inner="ham")


def test_kept_values_alone_have_no_shapes():
    pytest.importorskip("numba")
    data = batches(4)
    recipe = Recipe(epochs=2, optimizer=HAM())
    message = "execution cannot be sparse: the optimizer ham may tell weights by their shapes"
    with pytest.raises(UsageError, match=message):
        sparsify(mlp(), data, data, density=0.3, recipe=recipe, execution="sparse", finder="random", progress=False)
