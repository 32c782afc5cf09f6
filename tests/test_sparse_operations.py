"""Every operation of the sparse engine against PyTorch in float64, over shapes, strides, groups and masks."""

import copy

import pytest

pytest.importorskip("numba")

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.sparse_checks import agree, check, every_layer_sparse, masked, masks_of
from tombola.sparse.network import SparseNetwork
from tombola.sparse.tracing import Untraceable

__all__ = ["every_layer_sparse"]  # a fixture
pytestmark = pytest.mark.usefixtures("every_layer_sparse")


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60)
@given(
    st.data(),
    st.integers(1, 3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.0, 0.15, 0.6, 1.0]),
)
def test_convolutions_of_any_window(data, samples, kernel, strides, dilations, groups, density):
    paddings = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    spans = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    size = [data.draw(st.integers(max(1, span - 2 * pad), 8)) for span, pad in zip(spans, paddings, strict=True)]
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, kernel, strides, paddings, dilations, groups, bias=data.draw(st.booleans()))
    model = nn.Sequential(layer, nn.Conv2d(8, 3, 1))
    masks = masks_of(model, density, data.draw(st.integers(0, 3)))
    if not density:
        masks["0.weight"].view(-1)[data.draw(st.integers(0, layer.weight.numel() - 1))] = True
    check(model, torch.randn(samples, 4, *size), masks)


@pytest.mark.parametrize(("kernel", "padding", "dilation"), [((2, 1), (1, 0), (2, 1)), (3, 1, 1), (1, 0, 1)])
def test_images_of_one_pixel(kernel, padding, dilation):
    model = nn.Sequential(nn.Conv2d(4, 8, kernel, padding=padding, dilation=dilation), nn.Conv2d(8, 3, 1))
    check(model, torch.randn(2, 4, 1, 1), masks_of(model, 0.5))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding):
    model = nn.Sequential(nn.Conv2d(2, 4, (4, 3), padding=padding, dilation=(1, 2)))
    check(model, torch.randn(3, 2, 7, 6), masks_of(model, 0.4))


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([0.0, 0.1, 1.0]))
def test_linear_layers(samples, hidden, density):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, hidden), nn.ReLU(), nn.Linear(hidden, 3, bias=False))
    check(model, torch.randn(samples, 7), masks_of(model, density))


class Block(nn.Module):
    """What residual networks do, with a shortcut that is younger than what it is added to."""

    def __init__(self, shortcut):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False, momentum=None)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)) if shortcut else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class PreActivation(nn.Module):
    """BatchNorm and ReLU before the convolution, of what others read too."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class Gate(nn.Module):
    """Squeeze and excitation, and sums with numbers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return (x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True))) + 0.5) * 2 - x


def statistics_of_batches(layer):
    layer.track_running_stats, layer.running_mean, layer.running_var, layer.num_batches_tracked = (
        False,
        None,
        None,
        None,
    )
    return layer


MIDDLES = {
    "norm and relu": lambda: nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()),
    "statistics of the batch": lambda: statistics_of_batches(nn.BatchNorm2d(6)),
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky relu": lambda: nn.LeakyReLU(0.2, inplace=True),
    "gelu": nn.GELU,
    "silu": lambda: nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish,
    "residual": lambda: Block(shortcut=False),
    "residual with a shortcut": lambda: Block(shortcut=True),
    "pre-activation and concatenation": PreActivation,
    "squeeze and excitation": Gate,
    "max pooling": lambda: nn.MaxPool2d(3, 2, padding=1),
    "average pooling": lambda: nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
    "adaptive pooling": lambda: nn.AdaptiveAvgPool2d((2, 3)),
    "dropout of nothing": lambda: nn.Dropout(0.0),
}


@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_what_stands_between_layers(middle, density):
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), MIDDLES[middle]())
    features = body(torch.zeros(2, 2, 7, 6)).flatten(1).shape[1]
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(features, 4))
    check(model, torch.randn(5, 2, 7, 6), masks_of(model, density, 3))


def test_statistics_of_planes_in_several_pieces():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    # Rows of more numbers than are worked on together, whose means differ.
    x = torch.randn(130, 2, 5, 9) + torch.linspace(-3, 3, 5)[:, None]
    check(model, x, masks_of(model, 0.4))


def test_signals_of_one_dimension():
    model = nn.Sequential(
        nn.Conv1d(2, 6, 3, stride=2, padding=1, dilation=2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2),
        nn.Flatten(), nn.Linear(18, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2),
    )  # fmt: skip
    check(model, torch.randn(6, 2, 15), masks_of(model, 0.4))


class Written(nn.Module):
    """Everything by functions and methods, and one layer twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 3 * 3, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = F.leaky_relu(self.conv(x), 0.1, inplace=True).relu()
        return self.head(F.dropout(x, 0.0, self.training).view(x.size(0), -1))


def test_functions_and_a_layer_that_runs_twice():
    model = Written()
    check(model, torch.randn(4, 4, 6, 6), masks_of(model, 0.3))


def test_dead_units_are_skipped_and_cost_nothing():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    masks = {"0.weight": torch.ones(4, 2, 3, 3, dtype=torch.bool), "3.weight": torch.zeros(2, 4, 3, 3).bool()}
    masks["3.weight"][:, 1] = True
    network = SparseNetwork(masked(model, masks), masks, torch.randn(2, 2, 8, 8))
    unit = network._programs[True].steps[0]
    assert unit.needed.tolist() == [1]  # the one channel that the next layer reads
    x = torch.randn(3, 2, 8, 8)
    wanted = copy.deepcopy(network.dense)
    agree(network(x), wanted(x))
    # Running statistics of what nothing reads stay where they were.
    assert network.dense[1].running_mean[[0, 2, 3]].eq(0).all()
    assert network.dense[1].running_mean[1] == pytest.approx(float(wanted[1].running_mean[1]), abs=1e-6)


class Fork(nn.Module):
    """Two convolutions that read one value, and a linear layer behind a hidden one."""

    def __init__(self, norm, cuts):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3), norm(6), nn.ReLU() if cuts else nn.Identity())
        self.left, self.right = nn.Conv2d(6, 4, 3, stride=2, padding=1), nn.Conv2d(6, 4, 1, stride=2)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        x = self.first(x)
        return self.head(self.left(x) + self.right(x))


NORMS = {
    "none": lambda count: nn.Identity(),
    "affine": nn.BatchNorm2d,
    "plain": lambda c: nn.BatchNorm2d(c, affine=False),
}


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(NORMS)),
    st.booleans(),
    st.sets(st.integers(0, 5), min_size=1),
    st.sets(st.integers(0, 7), min_size=1),
    st.sampled_from([-1.0, 1.0]),
)
def test_channels_without_links_are_numbers(norm, cuts, channels, features, sign):
    torch.manual_seed(0)
    model = Fork(NORMS[norm], cuts)
    masks = masks_of(model, 0.5)
    masks["first.0.weight"][list(channels)] = False
    masks["head.1.weight"][list(features)] = False
    if norm == "affine":
        with torch.no_grad():
            model.first[1].bias.copy_(torch.linspace(-1, 0.5, 6) * sign)
    check(model, torch.randn(3, 2, 7, 7), masks)


def test_channels_without_links_cost_nothing():
    torch.manual_seed(0)
    model = Fork(nn.BatchNorm2d, True)
    masks = masks_of(model, 0.5)
    masks["first.0.weight"][[1, 4]] = False
    masks["head.1.weight"][2:] = False
    network = SparseNetwork(masked(model, masks), masks, torch.randn(2, 2, 7, 7))
    first, *_, hidden, _ = (step for step in network._programs[True].steps if hasattr(step, "links"))
    assert first.folded.tolist() == [1, 4]
    assert not set(first.needed) & {1, 4}
    assert set(hidden.needed) <= {0, 1}
    assert set(hidden.folded) <= set(range(2, 8))


def test_the_same_bits_every_time_on_any_number_of_threads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), Block16())
    masks = masks_of(model, 0.1)
    network, x = SparseNetwork(masked(model, masks), masks, torch.randn(2, 3, 9, 9)), torch.randn(7, 3, 9, 9)
    found = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        for parameter in network.trained_parameters():
            parameter.grad = None
        network(x).square().sum().backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in network.trained_parameters()]))
    assert found[0].equal(found[1])
    assert found[1].equal(found[2])


class Block16(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + x)


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm2d(6)])
def test_what_is_no_number_is_not_hidden(norm):
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), norm(), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 2))
    masks = masks_of(model, 0.3)
    network = SparseNetwork(masked(model, masks), masks, torch.randn(2, 2, 4, 4))
    x = torch.randn(3, 2, 4, 4)
    x[1, :, 2, 2] = float("nan")
    assert not network(x).isfinite().all()
    assert not network.eval()(x).isfinite().all()


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda *_: None)
    return layer


class Forgets(nn.Module):
    """Skips a layer now and then while it trains, and counts."""

    def __init__(self, how):
        super().__init__()
        self.first, self.last, self.how, self.seen = nn.Linear(4, 4), nn.Linear(4, 4), how, {"calls": [0]}
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training and self.how == "draws" and torch.rand(()).item() < 0.5:
            return self.first(x)
        if self.training and self.how == "buffer":
            self.count += 1
        if self.training and self.how == "attribute":
            self.seen["calls"][0] += 1
        return self.last(torch.relu(self.first(x)))


class Shared(nn.Module):
    """One BatchNorm behind two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.last(torch.relu(self.norm(self.first(x)))))


class Deeper(nn.Module):
    """Has a layer more in evaluation."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return x if self.training else self.last(x)


@pytest.mark.parametrize(
    ("model", "x", "reason"),
    [
        (Forgets("draws"), torch.randn(2, 4), "draws random numbers"),
        (Forgets("buffer"), torch.randn(2, 4), "changes something of its own"),
        (Forgets("attribute"), torch.randn(2, 4), "changes something of its own"),
        (Shared(), torch.randn(2, 4), "a BatchNorm with running statistics is used more than once"),
        (Deeper(), torch.randn(2, 4), "last.weight runs otherwise in training than in evaluation"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), torch.randn(2, 4), "no sparse form: LayerNorm"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), torch.randn(2, 1, 5, 5), "Conv2d"),
        (nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 3, 4), "Linear"),
        (Branches(), torch.randn(2, 4), "torch.fx cannot follow it"),
        (TwoInputs(), torch.randn(2, 4), "torch.fx cannot follow it"),
        (hooked(), torch.randn(2, 4), "hooks"),
        (nn.Linear(4, 4).double(), torch.randn(2, 4), "float64"),
        (nn.Linear(4, 4), torch.zeros(2, 4, dtype=torch.long), "not images or features"),
    ],
)
def test_what_cannot_run_sparse_says_why(model, x, reason):
    random, held = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    with pytest.raises(Untraceable, match=reason):
        SparseNetwork(model, masks_of(model, 0.5), x)
    assert torch.get_rng_state().equal(random)
    assert all(value.equal(held[name]) for name, value in model.state_dict().items())
    assert getattr(model, "seen", {"calls": [0]}) == {"calls": [0]}


def test_what_a_graph_shows_of_drawing_and_keeping_runs_sparse():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 4))
    assert len(SparseNetwork(model, masks_of(model, 0.5), torch.randn(2, 4)).costs) == 2


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.first(x).add_(0.5).relu_())


def test_methods_in_place():
    model = InPlace()
    check(model, torch.randn(4, 6), masks_of(model, 0.5))


def test_a_sparse_network_gives_its_models_settings_and_no_weights():
    model = nn.Sequential(nn.Linear(4, 4))
    model.temperature = 2.0
    network = SparseNetwork(model, masks_of(model, 0.5), torch.randn(2, 4))
    assert network.temperature == copy.deepcopy(network).temperature == 2.0
    model.alias = model[0].weight
    for name in ("0", "forward_hook", "alias", "append"):
        with pytest.raises(AttributeError):
            getattr(network, name)


def test_gradients_of_gradients_are_refused():
    model = nn.Sequential(nn.Linear(4, 2))
    network = SparseNetwork(model, masks_of(model, 1.0), torch.randn(2, 4))
    x = torch.randn(2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
