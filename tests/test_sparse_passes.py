"""Links that are walked four at a time, because they share a channel and a window."""

import pytest

pytest.importorskip("numba")

import numpy as np
import torch
from torch import nn

from tests.sparse_checks import check, every_layer_sparse, masked
from tombola.sparse.links import Links, Window, together
from tombola.sparse.network import SparseNetwork

__all__ = ["every_layer_sparse"]  # a fixture
pytestmark = pytest.mark.usefixtures("every_layer_sparse")


def test_four_of_one_channel_and_one_window_go_together():
    channels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], np.int64)
    windows = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 3, 3, 3, 3], np.int64)
    assert together(channels, windows).tolist() == [4, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 1]
    assert together(channels[:0], windows[:0]).tolist() == []


def test_places_are_those_of_the_weights():
    mask = np.zeros((2, 3, 1, 2), bool)
    mask[0, 1, 0, 1] = mask[0, 2, 0, 0] = mask[1, :, 0, 1] = True
    links = Links(mask, Window())
    assert links.target.tolist() == [0, 0, 1, 1, 1]
    assert links.source.tolist() == [2, 1, 0, 1, 2]
    assert links.places.tolist() == [4, 3, 7, 9, 11]


def blocks(model, density=0.4):
    """Masks of whole windows: all channels of a place in the kernel, or none."""
    generator = torch.Generator().manual_seed(1)
    masks = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            chosen = torch.rand(parameter.shape[2:], generator=generator) < density if parameter.dim() == 4 else True
            masks[name] = torch.ones(parameter.shape, dtype=torch.bool) & chosen
            masks[name][0] = True
    return masks


@pytest.mark.parametrize("channels", [4, 6, 9])
@pytest.mark.parametrize(("strides", "dilations"), [(1, 1), (2, 1), ((1, 2), (2, 1))])
def test_passes_of_four(channels, strides, dilations):
    model = nn.Sequential(
        nn.Conv2d(channels, 9, 3, strides, 1, dilations),
        nn.BatchNorm2d(9),
        nn.ReLU(),
        nn.Conv2d(9, 6, (1, 3), padding=(0, 1), bias=False),
        nn.Flatten(),
        nn.LazyLinear(7),
        nn.ReLU(),
        nn.Linear(7, 5),
    )
    x = torch.randn(3, channels, 6, 7)
    model(x)
    check(model, x, blocks(model))


def test_one_of_four_is_a_number():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(54, 5))
    masks = blocks(model)
    masks["0.weight"][2] = False  # its channel is a bias, normalised
    check(model, torch.randn(3, 3, 7, 7), masks)


def test_features_of_which_one_is_a_number():
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8))
    masks = blocks(model)
    masks["0.weight"][[2, 7]] = False
    check(model, torch.randn(3, 6), masks)


@pytest.mark.parametrize("strides", [1, 2])
def test_weights_alone_get_the_gradients_that_they_get_beside_the_inputs(strides):
    model = nn.Sequential(nn.Conv2d(5, 9, 3, strides), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(3, 5, 7, 7)
    model(x)
    masks = blocks(model)
    network = SparseNetwork(masked(model, masks), masks, x[:2])
    found = []
    for wanted in (False, True):
        for parameter in network.trained_parameters():
            parameter.grad = None
        network(x.clone().requires_grad_(wanted)).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in network.trained_parameters()])
    for alone, beside in zip(*found, strict=True):
        torch.testing.assert_close(alone, beside, rtol=1e-5, atol=1e-5)
