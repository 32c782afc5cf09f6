import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.core.ranking import SAMPLE, count_kept, keep_top
from tombola.errors import UsageError


def test_k_is_density_times_weights_rounded_half_up():
    assert count_kept(0.02, 50_200) == 1004
    assert count_kept(0.25, 10) == 3  # 2.5 rounds up
    assert count_kept(1.0, 7) == 7
    assert count_kept(0.8**22, 291_376) == 2150
    assert count_kept(0.8**22, 14_710_464) == 108_544


def test_no_weight_left_names_the_smallest_density():
    with pytest.raises(UsageError, match=r"smallest possible density is 0\.01"):
        count_kept(0.001, 100)
    assert count_kept(0.01, 100) == 1


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, math.nan])
def test_density_outside_its_range(density):
    with pytest.raises(UsageError, match=r"must lie in \(0, 1\]"):
        count_kept(density, 100)


def test_largest_scores_win_and_ties_go_to_the_lower_index():
    assert keep_top(torch.tensor([0.1, 0.9, 0.5, 0.7]), 2).tolist() == [False, True, False, True]
    assert keep_top(torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0]), 2).tolist() == [False, True, True, False, False]
    assert keep_top(torch.zeros(4), 3).tolist() == [True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16])
def test_many_scores_of_any_type_are_ranked(dtype):
    scores = torch.arange(300_000).remainder(200).to(dtype)
    mask = keep_top(scores, 100)
    assert int(mask.sum()) == 100
    assert mask[199:20_000:200].all()


def test_infinities_are_ranked():
    scores = torch.tensor([-math.inf, math.inf, 0.0, -math.inf, math.inf])
    assert keep_top(scores, 1).tolist() == [False, True, False, False, False]
    assert keep_top(scores, 4).tolist() == [True, True, True, False, True]


def test_nan_is_refused():
    with pytest.raises(UsageError, match="index 1 is NaN"):
        keep_top(torch.tensor([0.0, math.nan]), 1)


def test_impossible_counts_are_refused():
    with pytest.raises(UsageError, match="cannot keep 3 of 2"):
        keep_top(torch.zeros(2), 3)


# Few distinct values, so that ties are the rule.
SCORES = st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1e-38, 2.0, math.inf]), min_size=1, max_size=40)


@given(scores=SCORES, share=st.floats(0, 1))
def test_exactly_k_and_the_order_of_a_stable_sort(scores, share):
    kept = round(share * len(scores))
    mask = keep_top(torch.tensor(scores), kept)
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:kept]
    assert mask.nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("kind", ["normal", "rounded", "mostly pruned", "sorted", "equal", "two blocks"])
@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.1, 0.5, 0.999, 1.0])
def test_many_scores_are_ranked_as_few_are(kind, share):
    total = 4 * SAMPLE + 1234
    scores = torch.randn(total, generator=torch.Generator().manual_seed(len(kind)))
    if kind == "rounded":
        scores = scores.round()
    elif kind == "mostly pruned":
        scores[torch.arange(total) % 3 > 0] = -math.inf
    elif kind == "sorted":
        scores = scores.sort().values
    elif kind == "equal":
        scores = torch.zeros(total)
    elif kind == "two blocks":  # an evenly spaced sample sees one value only
        scores = torch.zeros(total)
        scores[:: total // SAMPLE] = 1.0
        scores[1] = 2.0
    kept = round(share * total)
    order = torch.sort(scores, descending=True, stable=True).indices
    expected = torch.zeros(total, dtype=torch.bool)
    expected[order[:kept]] = True
    assert torch.equal(keep_top(scores, kept), expected)
