"""Compaction: smaller dense networks whose outputs are those of the masked ones."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola import UsageError
from tombola.networks.masking import survey
from tombola.networks.models.resnet import Block
from tombola.sparse.compaction import compact


class Residual(nn.Module):
    """A basic block as most write it, its shortcut the identity or a strided 1x1 convolution; in place."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride != 1:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


class Gated(nn.Module):
    """Squeeze-and-excitation on a depthwise and a pointwise convolution, and a concatenation."""

    def __init__(self):
        super().__init__()
        self.pre = nn.Conv2d(2, 6, 1)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)
        self.point = nn.Conv2d(6, 4, 1)
        self.prelu = nn.PReLU(4)
        self.fc = nn.Linear(10, 3)

    def forward(self, x):
        x = self.deep(F.relu(self.pre(x)))
        n, c, _, _ = x.size()
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        x = x * gate.view(n, c, 1, 1)
        y = self.prelu(self.point(x))
        both = torch.cat([x, y], 1)
        return self.fc(F.adaptive_avg_pool2d(both, 1).view(n, -1))


def resnet_with(block):
    stem = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    blocks = [block(4, 4, 1), block(4, 6, 2), block(6, 6, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def vgg():
    layers = []
    for inputs, outputs in ((2, 4), (4, 5), (5, 6)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    layers[3:3] = [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 9, 7), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(7, 3))


def mlp():
    layers = [nn.Linear(2 * 36, 5), nn.ReLU(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.BatchNorm1d(4)]
    return nn.Sequential(nn.Flatten(), *layers, nn.ReLU6(), nn.Linear(4, 3))


class Grouped(nn.Module):
    """One dimension, groups, normalisation over several channels, padding that is averaged in, an operand in place."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)
        self.pool, self.second = nn.AvgPool1d(2, padding=1), nn.Conv1d(4, 6, 1)
        self.groups, self.group_norm = nn.Conv1d(6, 4, 3, padding=1, groups=2), nn.GroupNorm(2, 4)
        self.scale = nn.Parameter(torch.randn(4, 1))
        self.third, self.fc = nn.Conv1d(4, 5, 3, padding="same"), nn.Linear(5, 3)

    def forward(self, x):
        x = self.pool(F.leaky_relu(self.norm(self.first(x.flatten(2)))))
        y = self.second(x)
        z = F.relu_(y)
        x = self.group_norm(self.groups(z + 2 * y)) * self.scale
        return self.fc(F.max_pool1d(self.third(x), 3, padding=1).mean(-1))


MODELS = {
    "grouped": Grouped,
    "resnet": lambda: resnet_with(Block),
    "resnet, 1x1": lambda: resnet_with(Residual),
    "vgg": vgg,
    "mlp": mlp,
    "gated": Gated,
}


def settled(build, seed):
    """A model in which every number differs from its default, in float64."""
    torch.manual_seed(seed)
    model = build().double()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.7)
    return model.eval()


def masks_of(model, density, empty=(), seed=0):
    torch.manual_seed(seed)
    layout = survey(model).layout
    return {
        name: (torch.rand(shape) < (0 if number in empty else density))
        for number, (name, shape) in enumerate(zip(layout.names, layout.shapes, strict=True))
    }


def masked(model, masks):
    for name, mask in masks.items():
        model.get_parameter(name).data.mul_(mask)
    return model


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from([0.03, 0.1, 0.2, 0.5, 1.0]),
    st.sets(st.integers(0, 8), max_size=3),
    st.integers(0, 10_000),
)
@settings(max_examples=30)
def test_outputs_are_the_masked_networks(name, density, empty, seed):
    model = settled(MODELS[name], seed)
    masks = masks_of(model, density, empty, seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    small = compact(model, masks, x)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    masked(model, masks)
    torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(small.float()(x.float()), model.float()(x.float()), rtol=1e-4, atol=1e-5)
    assert size(small) <= size(model) + 64
    assert type(small) is type(model)
    # What has been compacted has nothing left to remove, but what a removed layer's one channel leads to.
    again = compact(small, {}, x.float())
    torch.testing.assert_close(again(x.float()), model(x.float()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_dense_network_stays_as_it_is(name):
    model = settled(MODELS[name], 0)
    state = compact(model, {}, torch.randn(2, 2, 6, 6, dtype=torch.float64)).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_constants_become_biases_and_unread_units_go():
    """By hand: of four hidden units, one has no incoming weights, one no outgoing ones, one neither."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2], [0, 0], [3, 4], [0, 0]]))
        model[0].bias.copy_(torch.tensor([0.5, 2, 0.5, -1]))
        model[2].weight.copy_(torch.tensor([[3.0, 5, 0, 0]]))
    small = compact(model, {}, torch.zeros(1, 2))
    assert small[0].weight.tolist() == [[1, 2]]
    assert small[0].bias.tolist() == [0.5]
    assert small[2].weight.tolist() == [[3]]
    assert small[2].bias.tolist() == [10]
    assert (small[0].out_features, small[2].in_features) == (1, 1)


def test_death_spreads_both_ways():
    model = settled(mlp, 0)
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    masks["5.weight"][1:] = False  # three constant units, of which nobody reads one anyway
    masks["3.weight"][:, 2:] = False  # which leave three units of the first layer unread
    masks["3.weight"][3:] = False  # and of the second, three constant
    small = compact(model, masks, torch.randn(2, 2, 6, 6, dtype=torch.float64))
    assert [tuple(small[place].weight.shape) for place in (1, 3, 5, 8)] == [(2, 72), (3, 2), (1, 3), (3, 1)]


def test_a_constant_beside_padding_stays_unless_it_is_zero():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0, 0]).view(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.1, 0.3, -0.3]))
    small = compact(model, {}, torch.randn(1, 1, 5, 5))
    assert small[0].bias.tolist() == pytest.approx([0.1, 0.3])
    model[2].padding = (0, 0)
    assert compact(model, {}, torch.randn(1, 1, 5, 5))[0].out_channels == 1


def test_a_stream_loses_a_channel_only_where_all_of_its_members_do():
    model = settled(lambda: resnet_with(Residual), 0)
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.dim() > 1}
    masks["8.weight"][:, 0] = False
    masks["5.conv1.weight"][:, 0] = False
    small = compact(model, masks, torch.randn(2, 2, 6, 6, dtype=torch.float64))
    assert [small[4].conv2.out_channels, small[4].down[0].out_channels, small[5].conv2.out_channels] == [5, 5, 5]
    masks["5.conv1.weight"][0, 0] = True  # somebody reads it again
    again = compact(model, masks, torch.randn(2, 2, 6, 6, dtype=torch.float64))
    assert again[4].conv2.out_channels == 6


def test_batch_statistics_normalise_a_constant_to_the_shift():
    model = settled(vgg, 0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    masks = masks_of(model, 0.2)
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    small = compact(model, masks, x)
    assert size(small) < size(model)
    torch.testing.assert_close(small(x), masked(model, masks)(x), rtol=1e-10, atol=1e-10)


class InPlace(nn.Module):
    """Reads what an operation in place has changed under the name that it had before."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        y = self.a(x)
        z = F.relu_(y)
        return self.b(y + z)


class OwnScale(nn.Module):
    """Has a tensor with an entry for each channel, which no layer owns."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(2, 3), nn.Linear(3, 2), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.b(self.a(x) * self.scale)


def padded_pool():
    return nn.Sequential(nn.Conv1d(2, 3, 1), nn.AvgPool1d(3, 1, 1), nn.Flatten(), nn.Linear(3, 2))


def mean_of_itself():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.ReLU(), nn.Linear(3, 2))


def chain():
    return nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("build", "hidden"), [(InPlace, 2), (OwnScale, 3), (padded_pool, 3), (mean_of_itself, 3), (chain, 2)]
)
@pytest.mark.parametrize("dead", [[1], [0, 1, 2]])
def test_a_constant_is_followed_as_far_as_it_is_one(build, hidden, dead):
    """Units without incoming weights in the first layer; hidden: how many are left of three if one is such."""
    model = settled(build, 1)
    first = next(module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d))
    with torch.no_grad():
        first.weight[dead] = 0
        first.bias[dead] = -1.5
    x = torch.randn(5, 2, *[1] * (first.weight.dim() - 2), dtype=torch.float64)
    small = compact(model, {}, x)
    torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)
    kept = next(module for module in small.modules() if isinstance(module, nn.Linear | nn.Conv1d))
    assert len(kept.weight) == hidden if len(dead) == 1 else len(kept.weight) in {1, hidden}


def test_channels_beside_a_tensor_of_the_models_own_stay():
    model = settled(OwnScale, 0)
    masks = {"b.weight": torch.tensor([False, True, True]).repeat(2, 1)}
    assert compact(model, masks, torch.randn(2, 2, dtype=torch.float64)).a.out_features == 3


def test_a_layer_whose_inputs_are_all_constant_is_constant():
    model = settled(chain, 0)
    masks = {"0.weight": torch.zeros(3, 2, dtype=torch.bool)}
    small = compact(model, masks, torch.randn(2, 2, dtype=torch.float64))
    assert [tuple(small[place].weight.shape) for place in (0, 2, 4)] == [(1, 2), (1, 1), (2, 1)]
    x = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(small(x), masked(model, masks)(x), rtol=1e-12, atol=1e-12)


def test_what_is_used_twice_stays_as_it_is():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.fc(self.fc(x)))

    model = settled(Twice, 0)
    masks = masks_of(model, 0.1)
    x = torch.randn(3, 4, dtype=torch.float64)
    small = compact(model, masks, x)
    assert size(small) == size(model)
    torch.testing.assert_close(small(x), masked(model, masks)(x))


class Scaled(nn.Module):
    """Sizes used as numbers, and written out."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 1), nn.Linear(4 * 36, 3)

    def forward(self, x):
        x = self.a(x)
        x = self.b(x / x.size(1))
        return self.c(x.view(-1, 144))


def test_sizes_that_the_model_counts_with_keep_their_channels():
    model = settled(Scaled, 0)
    masks = masks_of(model, 0.1)
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    small = compact(model, masks, x)
    assert (small.a.out_channels, small.b.out_channels) == (6, 4)
    torch.testing.assert_close(small(x), masked(model, masks)(x))


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Branching(nn.Linear(4, 4)), "torch.fx cannot trace it"),
        (nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))), "what Unflatten does to channels is not known"),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 4)), "what Unflatten does"),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.LSTM(2, 2)), "what Unflatten does"),
        (nn.Sequential(nn.Linear(4, 6), nn.MaxPool1d(2), nn.Linear(3, 2)), "what MaxPool1d does"),
    ],
)
def test_what_cannot_be_compacted_is_refused_in_a_sentence(model, why):
    with pytest.raises(UsageError, match=f"^the model cannot be compacted: {why}"):
        compact(model, {}, torch.randn(2, 4))


class Remembering(nn.Linear):
    def forward(self, x):
        self.seen = super().forward(x)
        return self.seen


def test_what_cannot_be_compacted_at_all_is_refused_in_a_sentence_alone(capfd):
    model = Remembering(4, 4)
    model(torch.randn(2, 4))
    with pytest.raises(UsageError, match=r"^model cannot be copied"):
        compact(model, {}, torch.randn(2, 4))
    with pytest.raises(UsageError, match=r"^model must be a torch.nn.Module, got"):
        compact(model.state_dict(), {}, torch.randn(2, 4))
    with pytest.raises(UsageError, match="mat1 and mat2 shapes cannot be multiplied"):
        compact(nn.Sequential(nn.Linear(4, 4)), {}, torch.randn(2, 5))
    assert capfd.readouterr().err == ""


def test_linear_layers_of_sequences_and_functions_with_weights_are_refused():
    with pytest.raises(UsageError, match="Linear is called on 3 dimensions"):
        compact(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {}, torch.randn(2, 3, 4))

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return F.linear(x, self.weight)

    with pytest.raises(UsageError, match="what linear does to channels is not known"):
        compact(Functional(), {}, torch.randn(2, 4))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet"])
def test_networks_of_torchvision_are_compacted(name):
    from torchvision import models

    torch.manual_seed(0)
    small_ones = {"densenet": lambda: models.DenseNet(8, (3, 3), 16), "mobilenet_v3_small": models.mobilenet_v3_small}
    model = small_ones[name]()
    masks = masks_of(model, 0.001)
    x = torch.randn(2, 3, 32, 32)
    small = compact(model, masks, x)
    assert size(small) < 0.7 * size(model)
    torch.testing.assert_close(small(x), masked(model.eval(), masks)(x), rtol=1e-4, atol=1e-4)
