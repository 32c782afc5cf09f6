"""Layers that compute the weights which they use from those that they hold."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tombola
from tombola import UsageError
from tombola.networks.masking import survey


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, self.stride, self.padding)


class Normed(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.normalize(self.weight), self.bias)


class NormedByHand(nn.Linear):
    def forward(self, x):
        return x @ F.normalize(self.weight).t() + self.bias


class Scaled(nn.Linear):
    """Quantises between the least and the largest weight, so that zero need not be a step."""

    def forward(self, x):
        low, high = self.weight.min(), self.weight.max()
        return F.linear(x, (low + (self.weight - low).div(high - low).mul(7).round() * (high - low) / 7), self.bias)


class NormedLSTM(nn.LSTM):
    def forward(self, x, state=None):
        own = self.weight_hh_l0
        self._parameters["weight_hh_l0"] = nn.Parameter(F.normalize(own))
        try:
            return super().forward(x, state)
        finally:
            self._parameters["weight_hh_l0"] = own


class Padding(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 0, 1, 0)))


class Activated(nn.Linear):
    def forward(self, x):
        return F.gelu(super().forward(x))


class ByHand(nn.Linear):
    def forward(self, x):
        return x @ self.weight.t() + self.bias


class Adapted(nn.Linear):
    """Adds a small layer beside its own."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


class Asking(nn.Linear):
    """Asks for more than one input."""

    def forward(self, x, scale):
        return super().forward(x) * scale


COMPUTED = {
    "weight": [Standardised(3, 4, 3), Standardised(4, 4, 3, stride=2, padding=1), Normed(5, 4), NormedByHand(5, 4)],
    "more": [Scaled(5, 4)],
}


def why(layer, name="0.weight"):
    model = nn.Sequential(layer, nn.Linear(3, 3))
    return next(entry.why for entry in survey(model).entries if entry.name == name)


@pytest.mark.parametrize("layer", [*COMPUTED["weight"], *COMPUTED["more"]], ids=lambda layer: type(layer).__name__)
def test_they_are_left_out_and_said(layer):
    kind = type(layer).__name__
    assert why(layer) == f"{kind} computes other weights from its own in forward, so that zeros would not stay zeros"
    with pytest.raises(UsageError, match=rf"no prunable weights: .*; {kind} computes other weights"):
        survey(nn.Sequential(layer))
    with pytest.raises(UsageError, match=rf"include: 0.weight cannot be pruned: {kind} computes other weights"):
        survey(nn.Sequential(layer, nn.Linear(3, 3)), include=["*", "0.weight"])


def test_recurrent_ones_too():
    layer = NormedLSTM(3, 4)
    assert why(layer, "0.weight_hh_l0").startswith("NormedLSTM computes")
    assert why(layer, "0.weight_ih_l0") == ""


@pytest.mark.parametrize(
    "layer",
    [Padding(3, 4, 3), Activated(5, 4), ByHand(5, 4), Adapted(5, 4), Asking(5, 4)],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_use_their_weights_as_they_are_stay_prunable(layer):
    assert why(layer) == ""


def test_the_layers_of_timm_and_transformers():
    layers = pytest.importorskip("timm.layers")
    from transformers.pytorch_utils import Conv1D

    assert why(layers.StdConv2d(4, 4, 3)).startswith("StdConv2d computes")
    assert why(layers.ScaledStdConv2d(4, 4, 3)).startswith("ScaledStdConv2d computes")
    assert why(layers.ScaledStdConv2dSame(4, 4, 3)).startswith("ScaledStdConv2dSame computes")
    for layer in (layers.Conv2dSame(4, 4, 3, stride=2), layers.Linear(4, 3), Conv1D(4, 3)):
        assert why(layer) == ""


class Noisy(Normed):
    def __init__(self):
        super().__init__(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(F.dropout(x))


def test_the_probe_changes_nothing():
    model, seen = nn.Sequential(Noisy(), nn.Linear(4, 4)), []
    model[0].register_forward_hook(lambda *given: seen.append(given))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    parameters = dict(model.named_parameters())
    assert survey(model).layout.names == ("1.weight",)
    assert torch.equal(torch.get_rng_state(), state)
    assert not seen
    assert model[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


def test_a_ticket_of_the_rest():
    model = nn.Sequential(Normed(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = [(torch.randn(8, 6), torch.randint(3, (8,)))]
    ticket = tombola.draw(model, data, density=0.5, finder=tombola.Random(), progress=False)
    assert list(ticket) == ["2.weight"]
    assert "0.weight" in str(tombola.preview(model))
