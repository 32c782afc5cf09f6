import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tombola import UsageError
from tombola.core import concrete
from tombola.data import Item, OutputTable
from tombola.networks.masking import survey
from tombola.networks.network import FrozenNetwork
from tombola.networks.task import Task, softmax_divergence
from tombola.networks.teacher import Teacher
from tombola.objectives import OBJECTIVES, FeatureMSE, MaskedBatch

from .conftest import CPU, batches, mlp


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


def masked_of(model, mask, batch, task=None):
    task = task or Task()
    network = FrozenNetwork(model, survey(model).layout, task, CPU)
    return MaskedBatch(network, task, mask, Item(batch), batch, Teacher(network, None, ""))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objective_costs_the_passes_it_is_counted_with(name):
    model = nn.Sequential(nn.Linear(2, 64), *(nn.Sequential(nn.ReLU(), nn.Linear(64, 64)) for _ in range(6)))
    objective, batch = OBJECTIVES.known[name], (torch.randn(32, 2), torch.randint(64, (32,)))
    masked = masked_of(model, torch.rand(survey(model).layout.total).requires_grad_(), batch)
    with FlopCounterMode(display=False) as one:
        masked.network.dense(batch)
    teacher = Teacher(masked.network, OutputTable([masked.network.dense(batch)]), "")
    masked = MaskedBatch(masked.network, masked.task, masked.mask, Item(batch, 0), batch, teacher)
    with FlopCounterMode(display=False) as all_of_it:
        torch.autograd.grad(objective(masked), masked.mask)
    passes = objective.forward + 2 * objective.backward
    assert all_of_it.get_total_flops() / one.get_total_flops() == pytest.approx(passes, rel=0.05)


def test_objectives_by_hand_on_one_weight():
    # Dense probabilities (3/4, 1/4); pruned ones (1/2, 1/2).
    batch = (torch.ones(1, 1), torch.tensor([0]))
    masked = masked_of(Fixed(), torch.zeros(1), batch)
    assert OBJECTIVES.known["loss"](masked).item() == pytest.approx(math.log(2), rel=1e-5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    forward = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert OBJECTIVES.known["reverse-kl"](masked).item() == pytest.approx(reverse, rel=1e-5)
    assert OBJECTIVES.known["forward-kl"](masked).item() == pytest.approx(forward, rel=1e-5)


def test_delta_loss_by_hand():
    batch = (torch.ones(1, 1), torch.tensor([0]))
    found = OBJECTIVES.known["delta-loss"](masked_of(Fixed(), torch.zeros(1), batch)).item()
    assert found == pytest.approx(abs(math.log(2) / math.log(4 / 3) - 1), rel=1e-5)


def test_grad_norm_by_hand_carries_the_mask_and_counts_every_parameter():
    # Squared error of one linear unit: loss (z w x + b - y)^2, with z = 1/2, w = 2, x = 3, b = 1, y = 2.
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(1.0)
    task = Task(loss=lambda output, batch: ((output - batch[1]) ** 2).mean())
    masked = masked_of(model, torch.tensor([0.5]), (torch.tensor([[3.0]]), torch.tensor([[2.0]])), task)
    residual = 2 * (0.5 * 2 * 3 + 1 - 2)
    assert OBJECTIVES.known["grad-norm"](masked).item() == pytest.approx(-math.hypot(residual * 0.5 * 3, residual))


def test_grad_match_by_hand():
    # Outputs w x with squared error to 0: gradients 2 w x^2 per weight, for f_z with z^2 in front of it.
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 4.0]]))
    task = Task(forward=lambda model, batch: batch[0] * model.weight, loss=lambda output, batch: (output**2).sum())
    mask = torch.tensor([1.0, 0.0, 0.5])
    masked = masked_of(model, mask, (torch.ones(1, 3), None), task)
    sparse, dense = torch.tensor([2.0, 0.0, 2.0]), torch.tensor([2.0, 4.0, 8.0])
    by_hand = ((sparse - sparse.mean()) / sparse.std() - (dense - dense.mean()) / dense.std()).square().mean()
    assert OBJECTIVES.known["grad-match"](masked).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert OBJECTIVES.known["grad-match"](masked_of(model, torch.ones(3), masked.batch, task)).item() == pytest.approx(
        0, abs=1e-6
    )


def test_feature_mse_by_hand():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    mask = torch.ones(12)
    mask[2:4] = 0  # the second hidden unit
    masked = masked_of(model, mask, (torch.tensor([[1.0, 2.0]]), None))
    sparse, dense = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])

    def standard(x):
        return (x - x.mean()) / x.std()

    hidden = (standard(sparse) - standard(dense)).square().mean()
    # The outputs (1, 3) are the same, so the softmax's share is 0, and there are two layers.
    assert OBJECTIVES.known["feature-mse"](masked).item() == pytest.approx(hidden.item() / 2, rel=1e-5)


def test_features_can_be_named_and_having_none_is_an_error():
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = batches(1)[0]
    with pytest.raises(UsageError, match=r"the model has no nn\.ReLU module; give patterns"):
        OBJECTIVES.known["feature-mse"](masked_of(model, torch.ones(36), (x, y)))
    with pytest.raises(UsageError, match="no module's name matches act"):
        FeatureMSE(("act*",))(masked_of(model, torch.ones(36), (x, y)))
    mask = torch.ones(36)
    mask[:12] = 0
    assert FeatureMSE(("1",))(masked_of(model, mask, (x, y))).item() > 0.01


class Around(nn.Module):
    """Modules of which some are held and never called, and one returns more than a tensor."""

    def __init__(self):
        super().__init__()
        self.layers, self.idle = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 4)]), nn.ReLU()
        self.lstm, self.head = nn.LSTM(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ((), r"features: the network calls none of the modules to compare, idle; give patterns"),
        (("layers",), r"features: the network calls none of the modules to compare, layers; give patterns"),
        (("lstm",), r"features: module lstm returns no tensor but a tuple; give patterns"),
    ],
)
def test_modules_that_give_no_features_are_refused(features, message):
    masked = masked_of(Around(), torch.ones(survey(Around()).prunable), batches(1)[0])
    for ask in (FeatureMSE(features), lambda masked: FeatureMSE(features).check(masked.network, masked.batch)):
        with pytest.raises(UsageError, match=message):
            ask(masked)
    assert FeatureMSE(("layers.*",))(masked).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("features", [("1", "4"), ("2", "5"), ("0",), ()])
def test_features_are_what_modules_gave_whatever_changes_it_in_place(features):
    def found(in_place):
        torch.manual_seed(0)
        blocks = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(in_place)) for a, b in ((6, 8), (8, 5))]
        model = nn.Sequential(*blocks[0], *blocks[1], nn.Linear(5, 3))
        mask = torch.full((survey(model).prunable,), 0.5)
        mask[::3] = 1
        mask.requires_grad_()
        objective, masked = FeatureMSE(features), masked_of(model, mask, batches(1)[0])
        values = [objective(masked) for _ in range(2)]
        assert values[0] == values[1]
        return values[0], torch.autograd.grad(values[0], mask)[0]

    for plain, in_place in zip(found(False), found(True), strict=True):
        assert torch.equal(plain, in_place)


def test_a_relu_used_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.relu = nn.Linear(6, 6), nn.Linear(6, 3), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.b(self.relu(self.a(x))))

    network = FrozenNetwork(Twice(), survey(Twice()).layout, Task(), CPU)
    with network.capture() as found:
        network.dense(batches(1)[0])
    assert [tuple(f.shape) for f in found] == [(16, 6), (16, 3)]


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("with_norm", [False, True])
def test_gradients_of_the_logits_against_finite_differences(name, with_norm):
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(5)] if with_norm else []
    model = nn.Sequential(nn.Linear(6, 5), *norm, nn.Softplus(), nn.Linear(5, 3)).double()
    x, y = batches(1)[0]
    batch = (x.double(), y)
    network = FrozenNetwork(model, survey(model).layout, Task(), CPU)
    network.use_batch_statistics()
    teacher = Teacher(FrozenNetwork(model, survey(model).layout, Task(), CPU), None, "")
    objective = FeatureMSE(("1", "2")) if name == "feature-mse" else OBJECTIVES.known[name]
    noise = torch.rand(network.weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value(logits):
        mask = concrete.sample(logits, noise)
        return objective(MaskedBatch(network, Task(), mask, Item(batch), batch, teacher))

    logits = torch.randn(network.weights.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (logits,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["grad-norm", "grad-match", "feature-mse"])
def test_an_empty_mask_gives_finite_values_and_gradients(name):
    model = mlp()
    mask = torch.zeros(72, requires_grad=True)
    value = OBJECTIVES.known[name](masked_of(model, mask, batches(1)[0]))
    (gradient,) = torch.autograd.grad(value, mask)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_no_gradient_is_ever_stored_for_the_weights():
    model = mlp()
    logits = torch.zeros(survey(model).prunable, requires_grad=True)
    masked = masked_of(model, torch.sigmoid(logits), batches(1)[0])
    (gradient,) = torch.autograd.grad(OBJECTIVES.known["reverse-kl"](masked), logits)
    assert gradient.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in masked.network.model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_unknown_objectives_are_refused():
    with pytest.raises(ValueError, match="allowed are loss, delta-loss, grad-norm, reverse-kl"):
        OBJECTIVES.read("accuracy")
