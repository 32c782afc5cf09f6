"""Networks that draw random numbers in every mode, from torch's, numpy's and Python's generators alike."""

import random

import numpy
import pytest
import torch
from torch import nn

from tombola import CTS, draw
from tombola.core.seeds import GlobalState, fill_uniform, seeded
from tombola.finders import SNIP, EdgePopup
from tombola.storage.store import DiskStore
from tombola.training import State, fit

from .conftest import Dying, DyingStore, Killed, batches, default_dtype
from .conftest import draw as draw_from
from .test_cts import problem
from .test_training import entry, setup


class Restless(nn.Module):
    """A linear layer behind noise of three kinds, also in eval mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lin = nn.Linear(6, 3)

    def forward(self, x):
        noise = numpy.random.randn(*x.shape).astype("float32") * random.random()
        return self.lin(nn.functional.dropout(x + torch.from_numpy(noise), 0.2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_lie_on_their_grid_and_follow_seed_and_purpose(dtype):
    def filled(seed, *purpose, count=100_001):
        out = torch.full((count,), -1.0, dtype=dtype)
        fill_uniform(out, seed, *purpose)
        return out

    found = filled(3, "a", 1)
    assert found.dtype == dtype
    assert found.min() >= 0
    assert found.max() < 1
    assert torch.equal(found * 2**24, (found * 2**24).round())
    # Of 100,001 numbers, each tenth of [0, 1) holds 10,000 give or take a few hundred.
    assert (torch.histc(found.float(), 10, 0, 1) - 10_000).abs().max() < 500
    assert (found[::2][:-1] * found[1::2]).mean().item() == pytest.approx(0.25, abs=0.005), "neighbours are independent"
    assert torch.equal(filled(3, "a", 1), found)
    assert torch.equal(filled(3, "a", 1, count=1), found[:1])
    for other in ((4, "a", 1), (3, "b", 1), (3, "a", 2)):
        assert not torch.equal(filled(*other), found)


def callers_generators():
    state = GlobalState.now()
    return state.cpu.tolist(), state.numpy[1].tolist(), state.python


def test_generators_go_on_where_a_checkpoint_left_them():
    def numbers():
        return torch.rand(3).tolist(), numpy.random.randn(), random.random()

    with seeded(1, "here"):
        numbers()
        kept = GlobalState.now().to_dict()
        expected = numbers()
        numbers()
        GlobalState.from_dict(kept).restore()
        assert numbers() == expected


@pytest.mark.parametrize("finder", [CTS(steps=20), CTS(objective="grad-norm", steps=20), SNIP(), EdgePopup(steps=20)])
def test_a_seed_decides_a_draw_and_the_callers_generators_stand_still(finder):
    model, before = Restless(), callers_generators()
    first = draw_from(finder, problem(model, batches()))
    assert callers_generators() == before
    torch.rand(1), numpy.random.rand(), random.random()
    again = draw_from(finder, problem(model, batches()))
    assert again == first
    assert all(torch.equal(again.scores[name], first.scores[name]) for name in first)


@pytest.mark.filterwarnings("ignore::tombola.errors.TicketWarning")  # five steps are few
def test_a_draw_in_python_leaves_the_callers_generators_alone():
    model, data, before = Restless(), batches(), callers_generators()
    draw(model, data, density=0.5, steps=5, progress=False)
    assert callers_generators() == before


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    model, data = Restless(), batches()
    expected = fit(setup(model, data), State.of(model), 3, entry(), "t")
    with pytest.raises(Killed):
        fit(setup(model, data), State.of(model), 3, Dying(entry(DiskStore(tmp_path)), 4), "t")
    resumed = fit(setup(model, data), State.of(model), 3, entry(DiskStore(tmp_path)), "t")
    assert resumed.digest == expected.digest


@pytest.mark.parametrize("finder", [CTS(steps=20), EdgePopup(steps=20)])
def test_a_killed_search_goes_on_to_the_same_bits(tmp_path, finder):
    expected = draw_from(finder, problem(Restless(), batches()))
    with pytest.raises(Killed):
        draw_from(finder, problem(Restless(), batches(), store=DyingStore(tmp_path, 7)))
    resumed = draw_from(finder, problem(Restless(), batches(), store=DiskStore(tmp_path)))
    assert all(torch.equal(resumed.scores[name], expected.scores[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_uniform_noise_does_not_depend_on_torchs_default_dtype(dtype):
    expected, found = torch.empty(1000), torch.empty(1000)
    fill_uniform(expected, 0, "noise")
    with default_dtype(dtype):
        fill_uniform(found, 0, "noise")
    assert torch.equal(found, expected)
