"""Effective nodes and paths, counted by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola import Ticket, UsageError
from tombola.networks.models import build

from .conftest import TinyConv, mlp


def test_an_mlp_by_hand():
    # Two inputs, three hidden units, two outputs. The first unit has both inputs and one output: two paths. The second
    # has no input, the third no output; the second output reads the second unit alone.
    first = torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    second = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    found = Ticket({"0.weight": first, "2.weight": second}).paths(mlp(2, 3, 2), torch.zeros(4, 2))
    assert (found.nodes, found.of, found.weights) == (2, 5, 3)
    assert found.log_paths == pytest.approx(math.log(2))
    assert found.to_dict()["log_paths"] == found.log_paths


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 20))
def test_paths_are_the_sum_of_the_masks_product(sizes, seed):
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    draws = torch.Generator().manual_seed(seed)
    masks = {f"{n}.weight": torch.rand(layer.weight.shape, generator=draws) < 0.6 for n, layer in enumerate(layers)}
    found = Ticket(masks).paths(nn.Sequential(*layers), torch.zeros(1, sizes[0]))
    product = torch.ones(sizes[0], dtype=torch.float64)
    for mask in masks.values():
        product = mask.double() @ product
    number = float(product.sum())
    assert found.log_paths == (pytest.approx(math.log(number), abs=1e-9) if number else -math.inf)
    assert (found.nodes > 0) == (number > 0)
    # A weight counts if paths are lost without it.
    counts = 0
    for name, mask in masks.items():
        for place in mask.nonzero().tolist():
            without = {**masks, name: mask.clone()}
            without[name][tuple(place)] = False
            left = torch.ones(sizes[0], dtype=torch.float64)
            for each in without.values():
                left = each.double() @ left
            counts += float(left.sum()) < number
    assert found.weights == counts


def test_a_cut_network_has_none():
    masks = {"0.weight": torch.ones(3, 2).bool(), "2.weight": torch.zeros(2, 3).bool()}
    found = Ticket(masks).paths(mlp(2, 3, 2), torch.zeros(1, 2))
    assert (found.nodes, found.of, found.weights, found.to_dict()["log_paths"]) == (0, 5, 0, None)


def test_a_convolution_with_normalisation_by_hand():
    # One channel in, four out, whose tap in the middle alone is kept in two of them; each is read at its 16 pixels.
    model = TinyConv()
    with torch.no_grad():
        model.norm.running_mean.fill_(7.0)
        model.norm.weight.fill_(-3.0)
    conv, head = torch.zeros(4, 1, 3, 3).bool(), torch.zeros(3, 64).bool()
    conv[:2, :, 1, 1] = True
    head[0, :32] = head[1, 63] = True
    found = Ticket({"conv.weight": conv, "head.weight": head}).paths(model, torch.zeros(2, 1, 4, 4))
    assert (found.nodes, found.of, found.weights) == (3, 7, 34)
    assert found.log_paths == pytest.approx(math.log(32))
    assert float(model.norm.running_mean[0]) == 7.0, "the model is left alone"


def test_of_an_example_only_the_shape_counts_not_where_it_lies():
    model, masks = mlp(2, 3, 2), {"0.weight": torch.ones(3, 2, dtype=bool), "2.weight": torch.ones(2, 3, dtype=bool)}
    here, elsewhere = torch.zeros(4, 2), torch.full((4, 2), torch.nan, device="meta")
    assert Ticket(masks).paths(model, elsewhere) == Ticket(masks).paths(model, here)


def test_residual_paths_add_up():
    model = build("resnet20:width=4", (3, 8, 8), 10)
    masks = {name: torch.ones_like(p).bool() for name, p in model.named_parameters() if p.dim() > 1}
    found = Ticket(masks).paths(model, torch.zeros(1, 3, 8, 8))
    assert found.nodes == found.of
    assert found.log_paths > 0
    empty = {name: mask & ("stage" not in name) for name, mask in masks.items()}
    assert Ticket(empty).paths(model, torch.zeros(1, 3, 8, 8)).nodes < found.nodes


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), "whose output doubles with their input"),
        (nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2)), "whose output doubles with their input"),
    ],
)
def test_networks_without_paths_to_count_are_refused(model, message):
    masks = {name: torch.ones_like(p).bool() for name, p in model.named_parameters() if p.dim() > 1}
    with pytest.raises(UsageError, match=message):
        Ticket(masks).paths(model, torch.zeros(1, 2))
    lstm = nn.LSTM(2, 3)
    with pytest.raises(UsageError, match="weight_ih_l0 is of another"):
        Ticket({"weight_ih_l0": torch.ones(12, 2).bool()}).paths(lstm, torch.zeros(1, 2))
