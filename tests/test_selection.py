"""Selection: exactly k of every pool, however it is allocated; and every finder through this one door."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tombola import CTS, Random, UsageError
from tombola.core.allocation import ALLOCATIONS, Uniform
from tombola.core.parts import Part
from tombola.core.ranking import count_kept
from tombola.core.selection import Selection, parse_densities
from tombola.finders import FINDERS, Joint, Magnitude, draw
from tombola.finders.joint import JointSearch, reach

from .conftest import batches, layout, mlp
from .test_rivals import problem

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")

SHAPES = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple), min_size=1, max_size=5)
SHORT = {
    "cts": {"steps": 5}, "edge-popup": {"steps": 5}, "synflow": {"rounds": 3}, "force": {"rounds": 3},
    "gradual": {"rounds": 5}, "ltr": {"rate": 0.5}, "imp": {"rate": 0.5}, "gem-miner": {"steps": 5},
}  # fmt: skip


def scores_of(total, seed, distinct=4):
    return torch.randint(0, distinct, (total,), generator=torch.Generator().manual_seed(seed)).float()


def by_layer(mask, of):
    return [int(part.sum()) for part in mask.split(list(of.counts))]


@given(SHAPES, st.floats(0.05, 1), st.sampled_from(sorted(ALLOCATIONS)), st.integers(0, 9))
def test_every_pool_keeps_exactly_what_it_says(shapes, density, allocation, seed):
    of = layout(*shapes)
    assume(density * of.total + 0.5 >= 1)
    selection = Selection(of, density, ALLOCATIONS.known[allocation])
    mask = selection.keep(scores_of(of.total, seed))
    assert int(mask.sum()) == selection.kept == count_kept(density, of.total)
    kept = by_layer(mask, of)
    for pool in selection.pools:
        assert sum(kept[layer] for layer in pool.layers) == pool.kept
        assert pool.total == sum(of.counts[layer] for layer in pool.layers)
        assert 0 <= pool.kept <= pool.total
    assert sorted(layer for pool in selection.pools for layer in pool.layers) == list(range(len(shapes)))


@given(SHAPES, st.data(), st.integers(0, 9))
def test_every_pattern_keeps_exactly_its_density(shapes, data, seed):
    of = layout(*shapes)
    own = data.draw(st.dictionaries(st.sampled_from(of.names), st.floats(0.3, 1) | st.just(1.0)))
    rest = data.draw(st.floats(0.3, 1))
    density = own if len(own) == len(of.names) else {**own, "*": rest}
    others = sum(count for name, count in zip(of.names, of.counts, strict=True) if name not in own)
    assume(all(value * of.counts[of.names.index(name)] + 0.5 >= 1 for name, value in own.items()))
    assume(not others or rest * others + 0.5 >= 1)
    for allocation in ALLOCATIONS.known.values():
        mask = Selection(of, density, allocation).keep(scores_of(of.total, seed))
        kept = dict(zip(of.names, by_layer(mask, of), strict=True))
        counts = dict(zip(of.names, of.counts, strict=True))
        for name, value in own.items():
            assert kept[name] == count_kept(value, counts[name])
        if others:
            assert sum(kept[name] for name in of.names if name not in own) == count_kept(rest, others)


def test_the_first_pattern_that_matches_counts_and_1_keeps_a_layer_whole():
    of = layout((2, 2), (4, 5), (10, 2))
    selection = Selection(of, {"0.*": 1.0, "2.*": 0.25, "*": 0.5})
    assert [(pool.layers, pool.kept, pool.decided) for pool in selection.pools] == [
        ((0,), 4, True), ((2,), 5, False), ((1,), 10, False),
    ]  # fmt: skip
    assert by_layer(selection.keep(torch.arange(44.0)), of) == [4, 10, 5]
    same = Selection(of, {"*": 0.25})
    assert torch.equal(same.keep(scores_of(44, 1)), Selection(of, 0.25).keep(scores_of(44, 1)))
    # Within a pattern's layers the allocation counts: 0.5 of 40 by sums 9 and 12 of dimensions, 8.57 and 11.43.
    shared = Selection(of, {"0.*": 1.0, "*": 0.5}, ALLOCATIONS.known["erk"])
    assert by_layer(shared.keep(torch.arange(44.0)), of) == [4, 9, 11]


def test_the_order_of_patterns_is_said_where_it_counts_and_is_not_the_sorted_one():
    of = layout((3, 3), (3, 3), (3, 3))  # 0.weight, 1.weight, 2.weight

    def turned(*patterns):
        return Selection(of, dict.fromkeys(patterns, 0.5)).turned

    assert turned("[12].*", "[01].*") == [["[12].*", "[01].*"]]
    assert turned("[01].*", "[12].*") == []
    # The other order would leave one without a layer, or gives every layer the same.
    assert turned("2.*", "*") == turned("2.*", "0.*", "1.*") == turned("1.*", "[12].*", "*") == []
    assert Selection(of, 0.5).turned == []


@pytest.mark.parametrize(
    ("density", "message"),
    [
        ({"0.*": 0.5}, r"density: no pattern matches 1\.weight; end with '\*' for all the rest"),
        ({"*": 0.5, "0.*": 1.0}, r"density: the pattern '0\.\*' decides about no prunable layer"),
        ({"2.*": 0.5, "*": 0.5}, r"density: the pattern '2\.\*' decides about no prunable layer"),
        ({"0.*": 0.01, "*": 0.5}, "density: 0.01 keeps none of the 4 prunable weights; .* is 0.25"),
        ({"0.*": 0.0, "*": 0.5}, r"density must lie in \(0, 1\], got 0.0"),
        ({"0.*": "5%", "*": 0.5}, r"density must be a number in \(0, 1\], such as 0\.02, got '5%'"),
        (0.001, "density: 0.001 keeps none of the 24 prunable weights"),
        (True, r"density must be a number in \(0, 1\], such as 0\.02, got True"),
    ],
)
def test_densities_that_mean_nothing_are_refused(density, message):
    with pytest.raises(UsageError, match=message):
        _ = Selection(layout((2, 2), (4, 5)), density).pools


def test_densities_are_checked_where_they_come_in():
    assert parse_densities({"*": 1}) == {"*": 1.0}
    with pytest.raises(UsageError, match="density must hold patterns with their densities, got none"):
        parse_densities({})


@given(SHAPES, st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 9))
def test_selections_of_one_ranking_are_nested(shapes, one, other, seed):
    of = layout(*shapes)
    few, many = sorted((one, other))
    assume(few * of.total + 0.5 >= 1)
    scores = scores_of(of.total, seed)
    small, large = (Selection(of, density).keep(scores) for density in (few, many))
    assert not (small & ~large).any()


@given(SHAPES, st.floats(0.05, 0.95), st.sampled_from(sorted(ALLOCATIONS)), st.integers(2, 30), st.integers(0, 9))
@example([(3, 3), (5, 3), (5, 5), (2, 5)], 0.1, "uniform", 25, 0)
@example([(2, 8), (9, 2), (5, 9), (8, 5)], 0.3, "erk", 60, 0)
def test_on_the_way_nothing_comes_back_and_the_end_is_exact(shapes, density, allocation, rounds, seed):
    # Largest remainders may give a layer more weights of a smaller total.
    of = layout(*shapes)
    assume(density * of.total + 0.5 >= 1)
    final = Selection(of, density, ALLOCATIONS.known[allocation])
    alive = torch.ones(of.total, dtype=torch.bool)
    for number in range(1, rounds + 1):
        now = final.at(lambda wanted, share=number / rounds: wanted**share)
        scores = scores_of(of.total, seed + number).masked_fill(~alive, -torch.inf)
        alive = alive & now.keep(scores)
        counts = by_layer(alive, of)
        for pool in final.pools:
            assert sum(counts[layer] for layer in pool.layers) >= pool.kept
    assert int(alive.sum()) == final.kept


def test_a_selection_on_the_way_changes_every_density():
    of = layout((2, 5), (4, 5))
    halfway = Selection(of, {"0.*": 1.0, "*": 0.25}, Uniform()).at(lambda density: density**0.5)
    assert [pool.kept for pool in halfway.pools] == [10, 10]
    assert halfway.allocation == Uniform()


def test_nan_scores_are_refused():
    with pytest.raises(UsageError, match="is NaN"):
        Selection(layout((2, 2)), 0.5).keep(torch.tensor([1.0, float("nan"), 0.0, 0.0]))


# Of weights (8, 6) and (3, 8), 48 and 24.
DENSITIES = {
    "uniform": ("uniform", 0.3, [14, 8]),  # of 22: shares 14.4 and 7.2, and the larger remainder gets one
    "erk": ("erk", 0.3, [12, 10]),  # 21.6 by sums 14 and 11: 12.1 and 9.5
    "whole": ("global", {"2.*": 1.0, "*": 0.25}, [12, 24]),
    "patterns": ("global", {"0.*": 0.125, "2.*": 0.5}, [6, 12]),
    "both": ("uniform", {"0.*": 0.5, "*": 0.25}, [24, 6]),
}


@pytest.mark.parametrize("case", DENSITIES)
@pytest.mark.parametrize("name", sorted(FINDERS))
def test_every_finder_allocates_as_asked(name, case):
    allocation, density, expected = DENSITIES[case]
    if case == "uniform":
        expected = Uniform().counts(layout((8, 6), (3, 8)), 0.3, 22)
    finder = replace(FINDERS.known[name], allocation=ALLOCATIONS.read(allocation), **SHORT.get(name, {}))
    ticket = draw(finder, problem(mlp(), batches()), density).ticket
    assert list(ticket.kept_by_layer.values()) == expected
    assert ticket.provenance.density == density


def test_layers_kept_whole_take_no_part_in_a_search():
    of = problem(mlp(), batches())
    found = draw(CTS(objective="loss", steps=30), of, {"2.*": 1.0, "*": 0.25})
    assert found.ticket["2.weight"].all()
    assert (found.ticket.scores["2.weight"] == found.ticket.scores["2.weight"][0, 0]).all(), "nothing moved them"
    assert found.ticket.scores["0.weight"].unique().numel() > 20


def test_each_pool_is_held_at_its_own_density():
    data = batches(8, size=64)
    of = problem(mlp(hidden=64), data)
    search = CTS(objective="loss", steps=400)
    scores = draw(search, of, {"0.*": 0.1, "2.*": 0.6}).ticket.scores
    assert torch.sigmoid(scores["0.weight"]).mean().item() == pytest.approx(0.1, rel=0.1)
    assert torch.sigmoid(scores["2.weight"]).mean().item() == pytest.approx(0.6, rel=0.1)


def test_the_joint_search_holds_each_pool_within_bounds_of_its_own():
    of = problem(mlp(hidden=40), batches(20), epochs=30)
    density = {"0.*": 0.02, "2.*": 0.6}
    gates = JointSearch(Joint(learning_rate=1.0), of, Selection(of.layout, density))
    of.fit_with(gates, of.entry, "joint")
    for wanted, logits in zip(density.values(), gates.logits.split(list(of.layout.counts)), strict=True):
        low, high = reach(count_kept(wanted, len(logits)) / len(logits))
        assert low - 1e-5 <= logits.min() < logits.max() <= high + 1e-5
        assert torch.sigmoid(logits).mean().item() == pytest.approx(wanted, rel=0.25)


@pytest.mark.parametrize("name", ["cts", "joint", "magnitude"])
def test_where_there_is_nothing_to_choose_there_is_no_search(name):
    # One weight of two layers of one each: uniform gives it to the first.
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    data = [(torch.ones(4, 1), torch.zeros(4, 1))]
    finder = replace(FINDERS.known[name], allocation=Uniform())
    from tombola.networks.task import Task

    ticket = draw(finder, problem(model, data, Task.regression()), 0.5).ticket
    assert ticket.kept_by_layer == {"0.weight": 1, "1.weight": 0}


@dataclass(frozen=True)
class Straying(Part):
    """Keeps as many weights as asked, wherever they lie."""

    name = "straying"

    def draw(self, problem, density):
        of = Selection(problem.layout, sum(count_kept(v, 24) for v in density.values()) / 72)
        found = Magnitude().draw(problem, 0.5)
        from tombola.finders import drawn

        scores = torch.arange(72.0)
        return drawn(self, problem, density, of.keep(scores), scores, found.ticket.provenance.cost)


def test_finders_of_ones_own_are_held_to_densities_by_pattern():
    of = problem(mlp(), batches())
    with pytest.raises(UsageError, match=r"finder: .*Straying returned a ticket of 0 weights; the density asks for 12"):
        draw(Straying(), of, {"0.*": 0.25, "*": 0.25})
    assert draw(Random(), of, {"0.*": 0.25, "*": 0.25}).ticket.kept == 18
