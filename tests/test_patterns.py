"""Patterns without effect, and recurrent layers, which they went unnoticed with."""

import copy

import pytest
import torch
from torch import nn

import tombola
from tombola import TicketWarning, UsageError, finders
from tombola.networks.masking import survey
from tombola.networks.network import FrozenNetwork
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task

RECURRENT = {
    "lstm": lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(4, 5, proj_size=3, batch_first=True),
    "gru": lambda: nn.GRU(4, 5, batch_first=True),
    "rnn": lambda: nn.RNN(4, 5, batch_first=True, bias=False),
}
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}


class Reader(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = layer
        self.head = nn.LazyLinear(3)
        self(torch.zeros(2, 6).long())

    def forward(self, words):
        x = self.embed(words)
        if isinstance(self.layer, nn.RNNBase):
            return self.head(self.layer(x)[0].mean(dim=1))
        state = None
        for step in range(x.shape[1]):
            state = self.layer(x[:, step], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def readers():
    torch.manual_seed(0)
    whole = {name: Reader(make()) for name, make in RECURRENT.items()}
    return whole | {f"{name} cell": Reader(kind(4, 5)) for name, kind in CELLS.items()}


READERS = readers()
WORDS = torch.randint(7, (8, 6), generator=torch.Generator().manual_seed(0))
DATA = [(WORDS, WORDS[:, 0] % 3)]


def prunable(model, **patterns):
    return list(survey(model, **patterns).layout.names)


def test_recurrent_weights_are_prunable():
    for name, model in READERS.items():
        expected = [key for key, p in model.layer.named_parameters() if key.startswith("weight")]
        assert prunable(model) == [*(f"layer.{key}" for key in expected), "head.weight"], name
    assert "layer.weight_hr_l0" in prunable(READERS["projected"])


@pytest.mark.parametrize("name", READERS)
def test_a_mask_on_recurrent_weights_acts_as_zeros_and_gradients_arrive(name):
    model = READERS[name]
    layout = survey(model).layout
    network = FrozenNetwork(model, layout, Task(), Runtime(torch.device("cpu")))
    mask = (torch.rand(layout.total, generator=torch.Generator().manual_seed(1)) < 0.5).float().requires_grad_()
    pruned = tombola.Ticket({key: view.bool() for key, view in layout.views(mask.detach()).items()}).apply_(
        copy.deepcopy(model)
    )
    output = network.under(mask * network.weights, DATA[0])
    assert torch.allclose(output, pruned(WORDS), atol=1e-6)
    assert not torch.allclose(output, network.dense(DATA[0]), atol=1e-3)
    assert torch.allclose(network.dense(DATA[0]), model(WORDS), atol=1e-6)
    (gradient,) = torch.autograd.grad(output.square().sum(), mask)
    pruned(WORDS).square().sum().backward()
    expected = layout.flatten({key: p.grad for key, p in pruned.named_parameters() if key in layout.names})
    assert torch.allclose(gradient, expected * network.weights, atol=1e-5)
    assert all(part.any() for part in layout.views(gradient).values())


@pytest.mark.filterwarnings("ignore::tombola.errors.TicketWarning")
@pytest.mark.parametrize("name", READERS)
def test_finders_draw_from_recurrent_layers(name):
    for finder in (finders.CTS(objective="grad-match", steps=3), finders.SNIP()):
        assert tombola.draw(READERS[name], DATA, density=0.5, finder=finder, progress=False).density < 0.51
    recipe = tombola.Recipe(epochs=2)
    found = tombola.sparsify(
        READERS[name], DATA, DATA, density=0.5, finder=finders.Joint(), recipe=recipe, rewind_to=0, progress=False
    )
    for key, mask in found.ticket.items():
        assert not found.model.get_parameter(key)[~mask].any()


def mixed():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Embedding(2, 2), nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("2.*", "2.weight is not pruned, since Embedding's weight is no weight of a convolution"),
        ("*.bias", "0.bias is not pruned, since biases and normalisation parameters are never pruned"),
        ("1.*", "1.weight is not pruned, since biases"),
    ],
)
def test_a_pattern_that_takes_nothing_in_is_refused_beside_one_that_does(pattern, reason):
    for include in (["0.*", pattern], ["*", pattern], [pattern]):
        with pytest.raises(UsageError) as error:
            survey(mixed(), include=include)
        assert f"include {pattern!r} takes in nothing: {reason}" in str(error.value)


def test_a_pattern_whose_matches_are_all_excluded_is_refused():
    with pytest.raises(UsageError, match=r"takes in nothing: 3\.weight is not pruned, since it is excluded by name"):
        survey(mixed(), include=["0.*", "3.*"], exclude="3.weight")


def test_a_pattern_that_leaves_nothing_out_is_said():
    for pattern in ("2.*", "*.bias"):
        with pytest.warns(TicketWarning, match="leaves nothing out"):
            assert prunable(mixed(), exclude=["0.*", pattern]) == ["3.weight"]
    assert prunable(mixed(), exclude=["0.*"]) == ["3.weight"]
    assert prunable(mixed(), include=["*", "2.weight"]) == ["0.weight", "2.weight", "3.weight"]
