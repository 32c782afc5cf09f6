import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.core.allocation import ALLOCATIONS, Uniform, erdos_renyi_kernel, round_to
from tombola.core.selection import Selection
from tombola.errors import UsageError

from .conftest import layout


def keep(scores, of, density, allocation="global"):
    return Selection(of, density, ALLOCATIONS.read(allocation)).keep(scores)


def test_uniform_shares_by_hand():
    # Shares 5 and 2.5 of 20 and 10: of 8 weights the larger remainder gets the one that is left.
    assert Uniform().counts(layout((4, 5), (2, 5)), 0.25, 8) == [5, 3]


def test_erk_by_hand():
    # Sums of dimensions: 10 + 20 = 30 for 200 weights, 5 + 10 = 15 for 50; a budget of 45 is shared 30 to 15.
    assert erdos_renyi_kernel(layout((10, 20), (5, 10)), 0.18) == pytest.approx([30.0, 15.0])
    # A convolution's kernel counts: 4 + 2 + 3 + 3 = 12.
    assert erdos_renyi_kernel(layout((4, 2, 3, 3), (6, 6)), 0.25) == pytest.approx([13.5, 13.5])


def test_erk_keeps_small_layers_whole_and_shares_the_rest():
    # Of 110 weights 66 are to be kept. Shares by sums 20 and 7 would give the second 17.1 of its 10.
    assert erdos_renyi_kernel(layout((10, 10), (2, 5)), 0.6) == pytest.approx([56.0, 10.0])


def test_rounding_by_largest_remainder():
    assert round_to([1.2, 2.7, 0.1], [5, 5, 5], 4) == [1, 3, 0]
    assert round_to([1.5, 1.5], [5, 5], 3) == [2, 1]
    assert round_to([2.9, 0.1], [2, 5], 3) == [2, 1]


def test_each_layer_is_ranked_on_its_own():
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0])
    found = keep(scores, layout((2, 2), (2, 2)), 0.5, "uniform")
    assert found.tolist() == [True, True, False, False, False, False, True, True]
    assert keep(scores, layout((2, 2), (2, 2)), 0.5).tolist() == [True] * 4 + [False] * 4


def test_unknown_allocations():
    with pytest.raises(
        UsageError, match="allocation 'fair' is unknown; allowed are global, uniform, erk, or MODULE:NAME"
    ):
        keep(torch.ones(4), layout((2, 2)), 0.5, "fair")


shapes = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple), min_size=1, max_size=5)


@given(shapes, st.floats(0.05, 1), st.sampled_from(sorted(ALLOCATIONS)), st.integers(0, 3))
def test_exactly_k_under_every_allocation(found, density, allocation, ties):
    of = layout(*found)
    if density * of.total + 0.5 < 1:
        return
    scores = torch.randint(0, 1 + ties, (of.total,), generator=torch.Generator().manual_seed(ties)).float()
    assert int(keep(scores, of, density, allocation).sum()) == int(density * of.total + 0.5)
