import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tombola.studies.statistics import compare_paired, holm, summarise, verdict


def test_a_summary_by_hand_and_by_scipy():
    # 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.303, so 2 ± 2.484.
    found = summarise([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.std) == (3, 2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((-0.4841377118, 4.4841377118))
    assert found.indicative
    values = [91.2, 90.7, 92.1, 91.5, 90.9]
    found = summarise(values)
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    )
    assert not found.indicative
    assert str(found) == "91.28 ± 0.55"


def test_one_seed_has_no_interval():
    found = summarise([5.0])
    assert (found.std, found.low, found.high, str(found)) == (None, None, None, "5.00")
    assert compare_paired([5.0], [1.0]).verdict == "undecided"
    assert compare_paired([5.0], [1.0]).p is None
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])


def test_several_comparisons_widen_the_interval():
    values = [1.0, 2.0, 4.0, 3.0]
    widened = summarise(values, comparisons=5)
    expected = stats.t.interval(0.99, 3, loc=2.5, scale=stats.sem(values))
    assert (widened.low, widened.high) == pytest.approx(expected)


def test_differences_are_paired():
    ours, theirs = [90.0, 80.0, 70.0, 85.0, 75.0], [89.0, 79.2, 68.9, 84.1, 73.8]
    found = compare_paired(ours, theirs)
    assert found.summary.mean == pytest.approx(1.0)
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert found.verdict == "better"
    assert compare_paired(theirs, ours).verdict == "worse"
    with pytest.raises(ValueError, match="equally many figures"):
        compare_paired([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.1, -0.1, 0.2, -0.2, 0.0], "not worse"),
        ([-3.0, 3.0, 1.0, -1.0, 0.5], "undecided"),
        ([0.0, 0.0, 0.0, 0.0, 0.0], "not worse"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "better"),
        ([1.0, 1.0], "undecided"),
        ([0.0, 0.0, 0.0], "undecided"),
        ([-1.0, -1.1, -0.9], "worse"),
        ([-0.4, -0.41, -0.39, -0.4], "worse"),
    ],
)
def test_verdicts(gains, expected):
    assert compare_paired(gains, [0.0] * len(gains)).verdict == expected


def test_nothing_that_varies():
    assert compare_paired([1.0] * 5, [1.0] * 5).p == 1.0
    assert compare_paired([2.0] * 5, [1.0] * 5).p == 0.0


def test_few_seeds_that_agree_decide_nothing():
    few = compare_paired([2.0, 2.0], [1.0, 1.0])
    assert (few.summary.mean, few.summary.std, few.summary.low, few.summary.high, few.p) == (1.0, 0.0, None, None, None)
    assert summarise([97.5, 97.5 + 1e-12]).low is None, "the same but for rounding"


def test_small_figures_are_told_apart_by_their_own_size():
    ours, theirs = [1.0e-10, 1.2e-10, 1.1e-10, 1.3e-10, 1.05e-10], [9e-11, 8e-11, 8.5e-11, 9.5e-11, 9.1e-11]
    found = compare_paired(ours, theirs)
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert found.verdict == "better"
    few = compare_paired(ours[:3], theirs[:3])
    assert few.summary.std == pytest.approx(np.std(np.subtract(ours[:3], theirs[:3]), ddof=1))
    assert few.p == pytest.approx(stats.ttest_rel(ours[:3], theirs[:3]).pvalue)
    assert summarise(ours[:3]).low is not None
    # What is left of large figures is their rounding.
    assert compare_paired([1e6 + 1e-9, 1e6], [1e6, 1e6]).p is None
    assert compare_paired([0.3e6 + 1e-9] * 5, [0.1e6 + 0.2e6] * 5).p == 1.0


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1: 0.03, 0.04, 0.04.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values):
    found = holm(p_values)
    assert all(new >= old for new, old in zip(found, p_values, strict=True))
    assert all(value <= 1 for value in found)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(found[a] <= found[b] + 1e-12 for a, b in pairwise(order))


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_verdicts_do_not_contradict_each_other(gains):
    summary = summarise(gains)
    if verdict(summary) == "better":
        assert summary.mean > 0
    assert verdict(summarise([-g for g in gains])) != "better" or verdict(summary) == "worse"
    assert math.isfinite(summary.mean)
