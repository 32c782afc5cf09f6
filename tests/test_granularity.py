"""Granularity: groups that share one score, one logit and one gate, chosen whole, and n of every m exactly."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import tombola
from tombola import UsageError
from tombola.cli.main import main
from tombola.core.allocation import ALLOCATIONS
from tombola.core.controllers import CONTROLLERS, Target
from tombola.core.flat import Layout, Wiring
from tombola.core.granularity import GRANULARITIES
from tombola.core.parts import describe, identify
from tombola.core.ranking import count_kept, fill_top
from tombola.core.seeds import generator
from tombola.core.selection import Selection
from tombola.finders import FINDERS, LTR, Magnitude, draw, following, grouping_of
from tombola.networks.masking import survey
from tombola.runs.deployment.two_of_four import lies_two_of_four, semi_structured
from tombola.sparse.channels import follow
from tombola.studies.audit.alterations import inverted, inverted_by_layer, shuffled
from tombola.ticket import Ticket

from .conftest import TinyConv, as_json, batches, images, layout, mlp, train
from .test_finders import SHORT, OwnFinder
from .test_rivals import problem

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")

SHAPES = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple), min_size=1, max_size=4)
STRUCTURED = ("channel", "input-channel", "filter-row", "block:2x3", "block:1x4", "channel:by=sum", "block:by=norm")


def groups_of(text, *shapes, **wirings):
    of = layout(*shapes)
    of = Layout(of.names, of.shapes, {f"{name[1:]}.weight": wiring for name, wiring in wirings.items()})
    return GRANULARITIES.read(text).groups(of)


def numbers(groups, place=0):
    """The numbers of the groups of a layer's weights, from 0 on."""
    shape = groups.weights.shapes[place]
    found = groups.labels.split(list(groups.weights.counts))[place].view(shape)
    return (found - found.min()).tolist()


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ("channel", (2, 3), [[0, 0, 0], [1, 1, 1]]),
        ("input-channel", (2, 3), [[0, 1, 2], [0, 1, 2]]),
        ("filter-row", (2, 3), [[0, 1, 2], [3, 4, 5]]),
        ("block:2x2", (3, 3), [[0, 0, 1], [0, 0, 1], [2, 2, 3]]),
        ("channel", (2, 1, 1, 2), [[[[0, 0]]], [[[1, 1]]]]),
        ("input-channel", (1, 2, 1, 2), [[[[0, 0]], [[1, 1]]]]),
        ("filter-row", (1, 2, 2, 2), [[[[0, 0], [1, 1]], [[2, 2], [3, 3]]]]),
        # A block lies at one place of the kernel.
        ("block:2x2", (2, 2, 1, 2), [[[[0, 1]], [[0, 1]]], [[[0, 1]], [[0, 1]]]]),
    ],
)
def test_which_weights_share_a_group(text, shape, expected):
    assert numbers(groups_of(text, shape)) == expected


def test_dimensions_mean_what_the_layer_says():
    """Transposed convolutions and transformers' Conv1D have their inputs first; groups read inputs of their own."""
    first = {"_0": Wiring(inputs_first=True)}
    assert numbers(groups_of("channel", (2, 3), **first)) == [[0, 1, 2], [0, 1, 2]]
    assert numbers(groups_of("block:2x1", (2, 3), **first)) == [[0, 0, 1], [2, 2, 3]]
    depthwise = {"_0": Wiring(groups=3)}
    assert numbers(groups_of("input-channel", (3, 1, 1, 2), **depthwise)) == [[[[0, 0]]], [[[1, 1]]], [[[2, 2]]]]
    both = {"_0": Wiring(inputs_first=True, groups=2)}
    assert numbers(groups_of("channel", (4, 1), **both)) == [[0], [0], [1], [1]]
    of = survey(
        torch.nn.Sequential(
            torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.ConvTranspose2d(4, 2, 3), torch.nn.Conv2d(2, 2, 1)
        )
    ).layout
    assert of.wirings == {"0.weight": Wiring(groups=4), "1.weight": Wiring(inputs_first=True)}


@given(SHAPES, st.sampled_from(STRUCTURED), st.integers(0, 9))
@settings(max_examples=50)
def test_expanding_reducing_and_picking_belong_together(shapes, text, seed):
    groups = groups_of(text, *shapes)
    count = sum(groups.layout().counts)
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expanded = groups.expand(values)
    assert expanded.shape == (groups.weights.total,)
    assert torch.equal(groups.pick(expanded), values)
    assert torch.allclose(groups.reduce(expanded), values * groups.sizes)
    assert torch.equal(groups.sizes, groups.labels.bincount())
    assert sorted(layer for part in groups.parts for layer in part) == list(range(len(shapes)))


def test_groups_are_scored_by_mean_sum_or_norm():
    scores = torch.tensor([3.0, 4.0, 0.0, 5.0])
    found = {by: groups_of(f"channel:by={by}", (2, 2)).score(scores).tolist() for by in ("mean", "sum", "norm")}
    assert found == {"mean": [3.5, 2.5], "sum": [7.0, 5.0], "norm": [5.0, 5.0]}
    dead = torch.tensor([-torch.inf, -torch.inf, 1.0, 1.0])
    assert groups_of("channel:by=norm", (2, 2)).score(dead).tolist() == [-torch.inf, pytest.approx(2**0.5)]
    with pytest.raises(UsageError, match="by cannot be norm for scores below 0"):
        groups_of("channel:by=norm", (2, 2)).score(-scores)


def test_whatever_is_too_large_for_what_is_left_is_passed_over():
    scores, sizes = torch.tensor([5.0, 4.0, 3.0, 3.0, 1.0]), torch.tensor([4, 5, 2, 2, 1])
    expected = {3: [2, 4], 4: [0], 5: [0, 4], 6: [0, 2], 8: [0, 2, 3], 9: [0, 1], 14: [0, 1, 2, 3, 4]}
    for kept, chosen in expected.items():
        assert fill_top(scores, kept, sizes).nonzero().flatten().tolist() == chosen


@given(SHAPES, st.floats(0.05, 1), st.sampled_from(STRUCTURED), st.sampled_from(sorted(ALLOCATIONS)), st.integers(0, 9))
@settings(max_examples=60)
def test_groups_are_whole_and_as_many_as_fit(shapes, density, text, allocation, seed):
    of = layout(*shapes)
    assume(density * of.total + 0.5 >= 1)
    selection = Selection(of, density, ALLOCATIONS.known[allocation], GRANULARITIES.read(text))
    groups = selection.groups
    try:
        pools = selection.pools
    except UsageError:
        assert allocation == "global"
        assert int(groups.sizes.min()) > count_kept(density, of.total)
        return
    scores = torch.randint(0, 4, (sum(groups.layout().counts),), generator=torch.Generator().manual_seed(seed)).float()
    mask = selection.keep(scores)
    assert selection.is_whole(mask)
    assert sum(pool.kept for pool in pools) == count_kept(density, of.total)
    for pool in pools:
        chosen = selection.of_pool(pool, groups.pick(mask))
        sizes = selection.of_pool(pool, groups.sizes)
        left = pool.kept - int(sizes[chosen].sum())
        assert left >= 0, "never above the wanted density"
        assert not (sizes[~chosen] <= left).any(), "and as near below as groups allow"
        assert left <= selection.slack(pool)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    st.sampled_from(["1:2", "2:4", "1:4", "4:8", "3:5"]),
    st.integers(0, 99),
)
@settings(max_examples=60)
def test_n_of_every_m_exactly(shapes, text, seed):
    n, m = map(int, text.split(":"))
    of = layout(*((outputs, m * runs, kernel) for outputs, runs, kernel in shapes))
    selection = Selection(of, n / m, granularity=GRANULARITIES.read(text))
    scores = torch.randint(0, 4, (of.total,), generator=torch.Generator().manual_seed(seed)).float()
    mask = selection.keep(scores)
    assert int(mask.sum()) * m == of.total * n == selection.kept * m
    assert selection.is_whole(mask)
    for view, values in zip(of.views(mask).values(), of.views(scores).values(), strict=True):
        runs, ranked = (each.movedim(1, -1).reshape(-1, m) for each in (view, values))
        assert (runs.sum(dim=1) == n).all()
        best = ranked.masked_fill(runs, -1).amax(dim=1), ranked.masked_fill(~runs, 9).amin(dim=1)
        assert (best[0] <= best[1]).all(), "nothing that is left out ranks above what is kept"
    # On the way there whatever is left can still become that.
    alive = torch.ones(of.total, dtype=torch.bool)
    for share in (0.3, 0.6, 0.9, 1.0):
        now = selection.at(lambda density, share=share: density**share)
        alive &= now.keep(scores.masked_fill(~alive, -torch.inf))
        assert int(alive.sum()) == now.kept
        for view in of.views(alive).values():
            assert (view.movedim(1, -1).reshape(-1, m).sum(dim=1) >= n).all()
    assert torch.equal(alive, mask)


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize(("text", "density"), [("2:3", 0.6667), ("1:3", 0.3333), ("1:6", 0.16668), ("1:6", 0.166655)])
def test_a_fixed_density_may_be_written_short(text, density, allocation):
    of, part = layout((300, 300), (60, 90)), GRANULARITIES.read(text)
    selection = Selection(of, density, ALLOCATIONS.known[allocation], part)
    exact = Selection(of, part.fixed_density, ALLOCATIONS.known[allocation], part)
    scores = torch.rand(of.total, generator=torch.Generator().manual_seed(0))
    assert torch.equal(selection.keep(scores), exact.keep(scores))
    runs = torch.cat([view.reshape(-1, part.m) for view in of.views(selection.keep(scores)).values()])
    assert (runs.sum(dim=1) == part.n).all()
    assert selection.at(lambda wanted: 1 + (wanted - 1) * 1.0).kept == exact.kept, "the way to it ends there"
    assert grouping_of(Magnitude(granularity=part), selection) == {"fixed": "exact"}
    assert grouping_of(Magnitude(granularity=part), exact) == {}


def test_which_of_four_are_kept_of_a_matrix_and_of_a_kernel():
    scores = torch.tensor([1.0, 4, 3, 2, 9, 0, 8, 7])
    two = GRANULARITIES.read("2:4")
    assert Selection(layout((1, 8)), 0.5, granularity=two).keep(scores).int().tolist() == [0, 1, 1, 0, 1, 0, 1, 0]
    # Along the inputs, at each place of the kernel: 1 3 9 8, and 4 2 0 7.
    assert Selection(layout((1, 4, 2)), 0.5, granularity=two).keep(scores).int().tolist() == [0, 1, 0, 0, 1, 0, 1, 1]
    first = Layout(("0.weight",), ((4, 2),), {"0.weight": Wiring(inputs_first=True)})
    assert Selection(first, 0.5, granularity=two).keep(scores).int().tolist() == [0, 1, 0, 0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "density", "shapes", "message"),
    [
        ("2:4", 0.02, [(2, 8)], "density must be 0.5 where the granularity fixes it, or 1 by a pattern, got 0.02"),
        ("1:4", 0.5, [(2, 8)], "density must be 0.25 where"),
        ("2:3", 0.6669, [(2, 9)], r"density must be 0.6666666667 where the granularity fixes it, .* got 0.6669"),
        ("2:4", 0.5, [(2, 8), (3, 6)], r"2:4 needs inputs that 4 go into, .* 1.weight \(6\) are not: .* \[1.weight\]"),
        ("channel", 0.1, [(2, 8)], r"keeps 2 weights, and the smallest group \(channel\) has 8"),
        ("4:2", 0.5, [(2, 8)], "granularity must keep fewer weights than there are, such as 2:4, got 4:2"),
        ("block:4", 0.5, [(2, 8)], "shape must be a shape such as 4x4, got '4'"),
        ("chanel", 0.5, [(2, 8)], "granularity 'chanel' is unknown; .*did you mean channel"),
    ],
)
def test_what_cannot_be_is_refused(text, density, shapes, message):
    with pytest.raises(UsageError, match=message):
        _ = Selection(layout(*shapes), density, granularity=GRANULARITIES.read(text)).pools


def test_a_layer_that_is_kept_whole_may_have_any_inputs():
    of = layout((2, 8), (3, 6))
    selection = Selection(of, {"1.*": 1.0, "*": 0.5}, granularity=GRANULARITIES.read("2:4"))
    assert [int(part.sum()) for part in selection.keep(torch.rand(of.total)).split(list(of.counts))] == [8, 18]
    with pytest.raises(UsageError, match="allocation must be global or uniform where the granularity fixes"):
        _ = replace(selection, allocation=ALLOCATIONS.read("erk")).pools


def test_what_is_written_is_read_back():
    for text in ("2:4", "3:8", "block:4x2", "channel:by=sum", "[block:shape=4x2:by=sum]", "n:m:n=1:m=4"):
        finder = FINDERS.read(f"snip:granularity={text}:rounds=3")
        assert finder.rounds == 3
        assert FINDERS.read(describe(finder)) == finder
    assert identify(FINDERS.read("snip:granularity=1:4"))["granularity"] == {"name": "n:m", "version": 1, "n": 1}
    assert "granularity" not in identify(FINDERS.read("snip:granularity=weight"))


@pytest.mark.parametrize("controller", list(CONTROLLERS.known.values()), ids=lambda controller: controller.name)
def test_groups_count_in_weights_where_the_density_is_held(controller):
    """One logit for three weights pushes as three logits of one weight each do that have the same value."""
    logits, task = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.2, -0.1, 0.4])
    sizes = torch.tensor([3.0, 1.0, 2.0])
    aim = Target(0.2, 0.1, 0.5)
    state = {"multiplier": torch.tensor(0.7, dtype=torch.float64)}
    found, _, figures = controller.update(logits, task, aim._replace(sizes=sizes), state)
    wanted = controller.aim(0.2) if hasattr(controller, "aim") else 0.2
    error = float((torch.sigmoid(logits) * sizes).sum() / 6 / wanted) - 1
    assert float(figures["error"]) == pytest.approx(error)
    slopes = torch.sigmoid(logits) * (1 - torch.sigmoid(logits)) * sizes
    pushed = found - task
    assert torch.allclose(pushed / pushed.norm(), slopes / slopes.norm(), atol=1e-5)


CASES = {"channel": 0.4, "block:2x2": 0.4, "2:4": 0.5}


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("name", [*sorted(FINDERS), "own"])
def test_every_finder_goes_by_groups(name, text):
    finder = OwnFinder() if name == "own" else replace(FINDERS.known[name], **SHORT.get(name, {}))
    finder = replace(finder, granularity=GRANULARITIES.read(text))
    if text == "2:4" and finder.allocation.name == "erk":
        with pytest.raises(UsageError, match="allocation must be global or uniform"):
            draw(finder, problem(mlp(inputs=8), batches(inputs=8)), 0.5)
        finder = replace(finder, allocation="uniform")
    at = problem(mlp(inputs=8, hidden=12, classes=4), batches(inputs=8, classes=4), epochs=3)
    ticket = draw(finder, at, CASES[text]).ticket
    selection = finder.selection(following(finder, at), CASES[text])
    mask = torch.cat([each.flatten() for each in ticket.values()])
    assert selection.is_whole(mask)
    for pool in selection.pools:
        chosen = sum(ticket.kept_by_layer[at.layout.names[layer]] for layer in pool.layers)
        assert pool.kept - selection.slack(pool) <= chosen <= pool.kept
    assert ticket.provenance.finder["granularity"] == describe(finder)["granularity"]
    if text != "2:4" and name != "own":
        scores = torch.cat([each.flatten() for each in ticket.scores.values()])
        assert torch.equal(selection.groups.expand(selection.groups.pick(scores)), scores)


@pytest.mark.parametrize("density", [0.5, 0.3, 0.2])
def test_no_group_that_a_round_pruned_comes_back_in_the_last_cut(density):
    of, finder = problem(mlp(hidden=22), batches(4)), LTR(granularity="input-channel")
    selection = finder.selection(of, density)
    last, mask = finder._descend(of, selection).mask, of.layout.flatten(draw(finder, of, density).ticket)
    assert not (mask & ~last).any()
    assert selection.is_uneven


def test_the_magnitude_ticket_of_filters_by_hand():
    model = TinyConv()
    with torch.no_grad():
        model.conv.weight.fill_(0.1)
        model.conv.weight[2] = 1.0
        model.head.weight.fill_(0.01)
        model.head.weight[1] = 0.5
    ticket = draw(Magnitude(granularity="channel:coupled=false"), problem(model, images()), 75 / 228).ticket
    # Row 1 of the head (64) and the filter 2 (9) are 73, and no other filter fits into the rest.
    assert ticket["conv.weight"].flatten(1).all(dim=1).tolist() == [False, False, True, False]
    assert ticket["head.weight"].all(dim=1).tolist() == [False, True, False]
    assert ticket.kept == 73


def test_a_search_opens_the_groups_that_help():
    """The first three inputs decide: groups of inputs that a search finds."""
    data = batches(8, size=64)
    of = problem(train(mlp(inputs=6, hidden=16), data), data)
    ticket = draw(
        FINDERS.read("cts:granularity=input-channel:objective=loss:steps=60"), of, {"0.*": 0.5, "*": 1.0}
    ).ticket
    assert ticket["0.weight"].all(dim=0).tolist() == [True, True, True, False, False, False]
    assert ticket.scores["0.weight"].unique().numel() == 6


class Residual(nn.Module):
    """A residual block with a depthwise convolution, and a linear layer on what it gives."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, 6, 1, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.narrow = nn.Conv2d(6, 4, 1, bias=False)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(x + self.narrow(torch.relu(self.depthwise(self.wide(x))))).flatten(1))


def follow_all(model, example):
    return follow(model, survey(model).layout, example)


def test_channels_that_are_added_or_pass_through_a_depthwise_convolution_are_one():
    of = follow_all(Residual(), torch.randn(2, 1, 4, 4))
    groups = GRANULARITIES.read("channel").groups(of)
    names = [{of.names[i] for i in part} for part in groups.parts]
    assert names == [{"stem.weight", "narrow.weight", "head.weight"}, {"wide.weight", "depthwise.weight"}]
    # A channel of the residual stream: its filter in both convolutions, and 16 columns of 3 that read it.
    assert groups.sizes.tolist() == [9 + 6 + 48] * 4 + [4 + 9] * 6
    inputs = GRANULARITIES.read("input-channel").groups(of)
    assert [{of.names[i] for i in part} for part in inputs.parts] == [
        {"stem.weight"}, {"wide.weight", "head.weight"}, {"depthwise.weight", "narrow.weight"},
    ]  # fmt: skip
    alone = GRANULARITIES.read("channel:coupled=false").groups(of)
    assert alone.parts == tuple((place,) for place in range(5))
    with pytest.raises(UsageError, match=r"stem.weight and narrow.weight share groups of weights, and must"):
        _ = Selection(of, {"stem.*": 1.0, "*": 0.5}, granularity=GRANULARITIES.read("channel")).pools
    by_parts = Selection(of, 0.5, ALLOCATIONS.read("uniform"), GRANULARITIES.read("channel"))
    assert [(pool.layers, pool.kept) for pool in by_parts.pools] == [((0, 3, 4), 126), ((1, 2), 39)]


@pytest.mark.parametrize("name", ["magnitude", "random", "snip", "cts:steps=4", "ltr:rate=0.5"])
def test_coupled_channels_stay_consistent_and_can_be_cut_out(name):
    model = Residual()
    at = problem(model, images(), epochs=2)
    ticket = draw(replace(FINDERS.read(name), granularity=GRANULARITIES.read("channel")), at, 0.5).ticket
    stream = ticket["stem.weight"].flatten(1).any(dim=1)
    assert torch.equal(stream, ticket["narrow.weight"].flatten(1).all(dim=1))
    assert torch.equal(stream, ticket["head.weight"].view(3, 4, 16).all(dim=2).all(dim=0))
    inner = ticket["wide.weight"].flatten(1).any(dim=1)
    assert torch.equal(inner, ticket["depthwise.weight"].flatten(1).all(dim=1))
    assert 0 < int(stream.sum()) + int(inner.sum()) < 10
    small = ticket.compact(model, torch.randn(2, 1, 4, 4))
    assert small.stem.weight.shape[0] == max(1, int(stream.sum()))
    assert small.wide.weight.shape[0] == max(1, int(inner.sum()))
    assert small.head.weight.shape == (3, 16 * max(1, int(stream.sum())))


def test_layers_of_which_no_channel_can_be_cut_out_are_named():
    def convolution(outputs, inputs=4):
        return nn.Conv2d(inputs, outputs, 3, padding=1)

    mixed = nn.Sequential(
        convolution(4, 1), nn.ReLU(), convolution(4), nn.GroupNorm(2, 4), convolution(4), nn.GroupNorm(2, 4),
        convolution(4), nn.GroupNorm(2, 4), convolution(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3),
    )  # fmt: skip
    fixed = {name: wiring.fixed for name, wiring in follow_all(mixed, torch.randn(2, 1, 4, 4)).wirings.items()}
    assert fixed == {
        "0.weight": "", "2.weight": "", "4.weight": "GroupNorm mixes them", "6.weight": "GroupNorm mixes them",
        "8.weight": "", "11.weight": "",
    }  # fmt: skip
    magnitude = replace(FINDERS.read("magnitude"), granularity=GRANULARITIES.read("channel"))
    ticket = draw(magnitude, problem(mixed, images(), epochs=1), 0.5).ticket
    assert ticket.provenance.warnings[-1:] == (
        "compaction cuts no channel out of 4.weight, 6.weight: GroupNorm mixes them",
    )
    assert draw(magnitude, problem(Residual(), images(), epochs=1), 0.5).ticket.provenance.warnings == ()


def test_shared_weights_share_their_channels():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.relu(self.second(torch.relu(self.first(self.start(x))))))

    of = follow_all(Tied(), torch.randn(2, 5))
    wiring = of.wirings["first.weight"]
    assert wiring.outputs == wiring.inputs
    # A channel: its row before them, in them, and the column behind.
    assert GRANULARITIES.read("channel").groups(of).sizes.tolist() == [5 + 4 + 2] * 4


def test_what_cannot_be_followed_is_refused_and_goes_uncoupled():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 3)

        def forward(self, x):
            return self.inner(x) if x.sum() > 0 else -self.inner(x)

    at = problem(Branching(), batches())
    with pytest.raises(UsageError, match=r"channels cannot be followed: torch.fx cannot trace it .*coupled=false"):
        draw(Magnitude(granularity="channel"), at, 0.5)
    assert draw(Magnitude(granularity="channel:coupled=false"), at, 0.5).ticket.kept == 6


OWN = """
import torch

def diagonals(of):
    return {name: (torch.arange(rows)[:, None] - torch.arange(columns)) % 2 for name, (rows, columns)
            in zip(of.names, of.shapes)}

def halves(of):
    return {name: torch.rand(shape) for name, shape in zip(of.names, of.shapes)}

def nothing(of):
    return {}
"""


def test_groups_of_ones_own(bring):
    bring("mine", OWN)
    finder = FINDERS.read("magnitude:granularity=mine:diagonals")
    assert FINDERS.read(describe(finder)).granularity.name == "mine:diagonals"
    assert identify(finder)["granularity"]["code"]
    ticket = draw(finder, problem(mlp(), batches()), 0.5).ticket
    # One number in both layers is one group.
    assert ticket["0.weight"][0].tolist() in ([True, False] * 3, [False, True] * 3)
    assert ticket["0.weight"][0, 0] == ticket["2.weight"][0, 0] == ticket["2.weight"][1, 1]
    for name, message in {
        "halves": "must return whole numbers of shape",
        "nothing": "must return a tensor for",
    }.items():
        with pytest.raises(UsageError, match=f"granularity 'mine:{name}' {message}"):
            draw(FINDERS.read(f"magnitude:granularity=mine:{name}"), problem(mlp(), batches()), 0.5)


def test_which_layers_torchs_format_would_take():
    mask = torch.tensor([True, False, True, False]).repeat(64, 16)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10), nn.Linear(10, 3))
    masks = {"0.weight": mask, "1.weight": mask[:10], "2.weight": torch.ones(3, 10, dtype=torch.bool)}
    ticket = Ticket(masks)
    said = semi_structured(ticket, ticket.apply_(model))
    assert said.startswith("2 of 3 layers keep at most 2 of every 4 weights along their inputs")
    on_cpu = "1 of them matrices that the format takes; not converted, which needs a GPU"
    assert said.endswith("1 converted multiply as they do dense" if torch.cuda.is_available() else on_cpu)
    assert not lies_two_of_four(torch.tensor([[True, True, True, False]]))
    assert lies_two_of_four(torch.tensor([True, False, False, True]).view(1, 4, 1, 1))


def test_a_layer_whose_inputs_come_first_is_looked_at_along_them():
    along_inputs = torch.tensor([True, False, True, False]).repeat(2).view(8, 1, 1).expand(8, 12, 2)
    along_outputs = torch.tensor([True, False, True, False]).repeat(3).view(1, 12, 1).expand(8, 12, 2)
    for mask, fitting in ((along_inputs, 1), (along_outputs, 0)):
        ticket = Ticket({"0.weight": mask.clone()})
        said = semi_structured(ticket, nn.Sequential(nn.ConvTranspose1d(8, 12, 2)))
        assert said.startswith(f"{fitting} of 1 layers")
    odd = nn.ModuleDict({"a[0]": nn.Linear(4, 4)})
    assert semi_structured(Ticket({"a[0].weight": torch.eye(4).bool()}), odd).startswith("1 of 1 layers")


def test_audits_alter_tickets_by_groups():
    chance = generator(0, "test")
    scores = {"a": torch.tensor([[3.0, 3], [1, 1], [2, 2]]), "b": torch.tensor([[9.0, 9, 9, 9]])}
    masks = {"a": torch.tensor([[True, True], [False, False], [False, False]]), "b": torch.ones(1, 4, dtype=torch.bool)}
    before = Ticket(masks, scores=scores)
    filters = GRANULARITIES.read("channel").groups(Layout.of(before.items()))
    places = {tuple(shuffled(before, chance, filters)["a"][:, 0].tolist()) for _ in range(30)}
    assert places == {(False, True, False), (False, False, True)}
    assert inverted_by_layer(before, chance, filters)["a"].int().tolist() == [[0, 0], [1, 1], [0, 0]]
    lowest = inverted(before, chance, filters)
    # The rows of 1, 2 and 3 fit into six weights, and that of 9 does not.
    assert (lowest["a"].all(), lowest["b"].any()) == (torch.tensor(True), torch.tensor(False))


def test_audits_keep_n_of_every_m():
    chance, scores = generator(0, "test"), torch.tensor([[1.0, 4, 3, 2, 9, 0, 8, 7]])
    of = Layout(("a", "whole"), ((1, 8), (1, 2)))
    two = GRANULARITIES.read("2:4")
    mask = Selection(of, {"whole": 1.0, "*": 0.5}, granularity=two).keep(torch.cat([scores[0], torch.ones(2)]))
    before = Ticket(of.views(mask), scores=of.views(torch.cat([scores[0], torch.ones(2)])))
    assert before["a"].int().tolist() == [[0, 1, 1, 0, 1, 0, 1, 0]]
    found = [shuffled(before, chance, two.groups(of)) for _ in range(20)]
    assert all((each["a"].view(2, 4).sum(dim=1) == 2).all() and each["whole"].all() for each in found)
    assert len(found) > len(set(found)) > 5
    for alter in (inverted_by_layer, inverted):
        assert alter(before, chance, two.groups(of))["a"].int().tolist() == [[1, 0, 0, 1, 0, 1, 0, 1]]


def test_the_command_line_draws_shows_and_audits_groups(tmp_path, capsys):
    options = ["--preset", "digits", "--epochs", "2", "--milestones", "[]", "--rewind-to", "1"]
    options += ["--train-samples", "300", "--out", str(tmp_path)]
    run = as_json(capsys, "run", *options, "--finder", "magnitude", "--granularity", "channel", "--density", "0.1")
    assert run["kept"] < 5020
    assert main(["run", *options, "--finder", "magnitude", "--granularity", "channel", "--density", "0.1"]) == 0
    at_work, shown = run["paths"]["weights"], " ".join(capsys.readouterr().out.split())
    assert at_work < run["kept"]
    assert f"an input to an output lie {at_work:,} of the {run['kept']:,} weights kept" in shown
    assert main(["info", run["run_dir"]]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "magnitude, with granularity channel (by mean coupled True silent True)" in shown
    assert f"groups of weights are whole: {run['kept']:,} of the 5,020 weights asked for are kept" in shown
    ticket = Ticket.load(run["ticket"])
    assert ticket.granularity == {"name": "channel", "by": "mean", "coupled": True, "silent": True}
    main(["audit", run["run_dir"], "--seeds", "1", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["why"] for check in checks[:3]] == ["", "", ""]
    assert main(["draw", *options, "--finder", "random", "--granularity", "2:4"]) == 2
    assert "--density must be 0.5 where the granularity fixes it" in " ".join(capsys.readouterr().err.split())
    for asked, got in (([], "got 0.02, the preset's"), (["--density", "0.05"], "got 0.05 (finder random)")):
        compare = ["compare", *options, "--finders", "random", "--seeds", "1", "--granularity", "2:4", *asked]
        assert main(compare) == 2
        assert got in " ".join(capsys.readouterr().err.split())
    two = as_json(capsys, "draw", *options, "--finder", "snip", "--granularity", "2:4", "--density", "0.5")
    masks = Ticket.load(two["ticket"])
    assert all((mask.view(-1, 4).sum(dim=1) == 2).all() for mask in masks.values())


def test_in_python_any_finder_takes_a_granularity():
    model, data = mlp(inputs=8), batches(inputs=8)
    ticket = tombola.draw(model, data, density=0.5, granularity="2:4", finder="magnitude", progress=False)
    assert all((mask.view(-1, 4).sum(dim=1) == 2).all() for mask in ticket.values())
    assert ticket == tombola.draw(
        model, data, density=0.5, finder=Magnitude(granularity=tombola.granularity.OfEveryM(2, 4)), progress=False
    )

    @dataclass(frozen=True)
    class Bare:
        def draw(self, problem, density):
            raise NotImplementedError

    with pytest.raises(UsageError, match=r"granularity is no option of the finder .*Bare, which does not derive from"):
        tombola.draw(model, data, density=0.5, granularity="channel", finder=Bare(), progress=False)
