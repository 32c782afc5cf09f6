"""AC/DC, dynamic sparse training and GraNet: by hand on few weights, and in real trainings."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import Recipe, UsageError, sparsify
from tombola.core.granularity import GRANULARITIES, Weight
from tombola.core.ranking import count_kept
from tombola.core.selection import Selection
from tombola.data import StreamFeed
from tombola.finders import ACDC, LTR, SET, Gradual, GraNet, RigL, draw, freezing_of, grouping_of
from tombola.finders.acdc import Phases
from tombola.finders.moving_mask import MovingMask, exchanged
from tombola.finders.sparse_training import ByChance, Exchanging
from tombola.networks.masking import by_canonical_name
from tombola.networks.task import Task
from tombola.training.trainer import Trainer

from .conftest import TinyConv, Unsized, batches, images, layout, mlp
from .test_along import weights_of
from .test_rivals import Three, problem, three

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")
MOVING = [Gradual(rounds=4), ACDC(), RigL(updates=4), SET(updates=4), GraNet(updates=8)]
of_each = pytest.mark.parametrize("finder", MOVING, ids=lambda finder: finder.name)


def test_ac_dc_by_hand():
    # Dense until 0.2, sparse until 0.5, dense until 0.8, sparse to the end. Weights 2, -1, 0.5, of which one is kept.
    finder = ACDC(warm_up=0.2, phases=2, last_phase=0.2)
    model, phases = Three(), Phases(finder, Selection(three().layout, 1 / 3))
    phases.begin(model, Task.regression())
    seen = []
    for share in (0.1, 0.2, 0.4, 0.5, 0.7, 0.8, 1.0):
        with torch.no_grad():
            model.second.weight += 1.5  # what a step would do
        phases.after_step(share)
        seen.append(weights_of(model))
    dense, sparse = [2.0, -1.0, 2.0], [2.0, 0.0, 0.0]
    # At 0.2 the last weight has grown to 3.5, the largest; what the others were is lost.
    assert seen[0] == dense
    assert seen[1] == [0.0, 0.0, 3.5]
    assert seen[2] == [0.0, 0.0, 5.0]
    assert seen[3] == [*seen[2][:2], 6.5]
    assert seen[-1] == [0.0, 0.0, 11.0]
    assert phases.mask.tolist() == [False, False, True]
    assert sparse != dense


def test_a_dense_phase_lets_everything_grow_from_zero_without_momentum():
    of = three()
    model, phases = Three(b=1.0), Phases(ACDC(warm_up=0.2, phases=2, last_phase=0.2), Selection(of.layout, 1 / 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    phases.begin(model, of.task)
    phases.stepped_by(optimizer)

    def step(share):
        optimizer.zero_grad()
        of.task.loss(
            phases.forward((torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]])), share), (0, torch.ones(1, 1))
        ).backward()
        optimizer.step()
        phases.after_step(share)

    step(0.1)
    assert optimizer.state[model.second.weight]["momentum_buffer"].item() == pytest.approx(8.0)
    step(0.3)
    assert phases.mask.sum() == 1
    for name, weight in by_canonical_name(model).items():
        buffer = optimizer.state[weight]["momentum_buffer"]
        assert (buffer[~of.layout.views(phases.mask)[name]] == 0).all()
    step(0.6)
    assert phases.mask.all()


def test_ac_dcs_phases_are_those_of_its_source():
    # Of 200 epochs: sparse 10-30, 50-70, 90-110, 130-150 and from 170 on.
    sparse = [epoch for epoch in range(200) if ACDC().is_sparse((epoch + 0.5) / 200)]
    assert sparse == [*range(10, 30), *range(50, 70), *range(90, 110), *range(130, 150), *range(170, 200)]
    assert [ACDC(phases=1).is_sparse(share) for share in (0.0, 0.5, 0.84, 0.85, 1.0)] == [False] * 3 + [True] * 2
    with pytest.raises(UsageError, match=r"warm_up must lie below 1 - last_phase, which is 0\.85, got 0\.9"):
        ACDC(warm_up=0.9)


def test_an_exchange_by_hand():
    groups = Weight().groups(layout((2, 3), (1, 2)))
    mask = torch.tensor([True, True, True, False, False, False, True, False])
    sizes = torch.tensor([0.5, 0.1, 0.3, 0.0, 0.0, 0.0, 7.0, 0.0])
    growth = torch.tensor([9.0, 2.5, 9.0, 1.0, 3.0, 2.0, 9.0, 9.0])
    # Of three weights 0.4 makes room for one: 0.1 goes, and the best of those left out, 3.0, comes. One of one: none.
    moved = exchanged(groups, mask, sizes, growth, 0.4)
    assert moved.tolist() == [True, False, True, False, True, False, True, False]
    # What just went may come back.
    assert torch.equal(exchanged(groups, mask, sizes, growth + torch.tensor([0, 1.0] + [0] * 6), 0.4), mask)
    assert torch.equal(exchanged(groups, mask, sizes, growth, 0.0), mask)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    st.floats(0, 1), st.integers(0, 9),
)  # fmt: skip
def test_an_exchange_keeps_every_layers_number(shapes, share, seed):
    of, draws = layout(*shapes), torch.Generator().manual_seed(seed)
    mask = torch.rand(of.total, generator=draws) < 0.5
    sizes, growth = torch.rand(2, of.total, generator=draws)
    moved = exchanged(Weight().groups(of), mask, sizes * mask, growth, share)
    counts = [[int(view.sum()) for view in of.views(each).values()] for each in (mask, moved)]
    assert counts[0] == counts[1]
    gone = mask & ~moved
    for name, view in of.views(gone).items():
        staying = of.views(mask & moved)[name]
        if view.any() and staying.any():
            # What stays is at least as large as what goes, unless it just came back.
            assert int(view.sum()) <= int(share * counts[0][of.names.index(name)])


def test_groups_that_differ_in_size_are_exchanged_weight_by_weight():
    # Rows of 1 and of 3 weights: one of 3 goes, and as many weights come as whole groups of the best allow.
    groups = GRANULARITIES.read("block:1x3").groups(layout((3, 4)))
    assert groups.sizes.tolist() == [3, 1, 3, 1, 3, 1]
    mask = groups.expand(torch.tensor([True, True, True, False, False, False]))
    sizes, growth = (groups.expand(torch.tensor(each)) for each in ([1.0, 9, 9, 0, 0, 0], [0.0, 0, 0, 1, 8, 9]))
    moved = exchanged(groups, mask, sizes, growth, 0.4)
    # The last row's 1 comes first; after that nothing of 3 fits, and the other 1 does.
    assert groups.pick(moved).tolist() == [False, True, True, True, False, True]
    selection = Selection(groups.weights, 7 / 12, granularity=GRANULARITIES.read("block:1x3"))
    one = groups.expand(torch.tensor([False, True, True, False, False, False]))
    assert groups.pick(selection.filled(one, groups.score(growth))).tolist() == [False, True, True, True, False, True]
    assert groups.pick(selection.filled(one, groups.score(growth), still={0})).tolist() == groups.pick(one).tolist()
    assert selection.is_uneven
    assert not Selection(groups.weights, 0.5).is_uneven


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@of_each
def test_groups_that_differ_in_size_end_as_they_were_trained(finder, allocation):
    of = problem(mlp(hidden=22), batches(10), epochs=4)
    finder = replace(finder, granularity="block:4x4", allocation=allocation)
    found, asked = draw(finder, of, 0.5), finder.selection(of, 0.5)
    densities = [row["density"] for row in found.rows]
    assert densities[-1] == pytest.approx(found.ticket.kept / of.layout.total), "nothing is cut after the last step"
    assert asked.kept - 16 * len(asked.pools) < found.ticket.kept <= asked.kept
    if isinstance(finder, (RigL, SET)):
        assert max(densities) <= 0.5 + 1e-6


def frozen_below():
    model = mlp(hidden=20)
    model[0].weight.requires_grad_(False)
    return model


@of_each
def test_a_frozen_layer_has_its_values_wherever_its_mask_lets_them_in(finder):
    model = frozen_below()
    of = problem(model, batches(10), epochs=4)
    found = draw(finder, of, 0.3)
    name = of.layout.names[0]
    mask, left = found.ticket[name], of.values_of(found.kept)[name]
    assert torch.equal(left, model[0].weight * mask)
    if isinstance(finder, (RigL, SET)):
        start = Exchanging(finder, finder.selection(of, 0.3), of.seed).mask
        assert torch.equal(mask, of.layout.views(start)[name]), "nothing tells what would be better there"


def test_a_dense_phase_gives_frozen_weights_their_values_back():
    model, phases = Three(), Phases(ACDC(warm_up=0.2, phases=2, last_phase=0.2), Selection(three().layout, 1 / 3))
    model.second.weight.requires_grad_(False)
    phases.begin(model, Task.regression())
    phases.after_step(0.3)
    assert weights_of(model) == [2.0, 0.0, 0.0]
    phases.after_step(0.6)
    assert weights_of(model) == [2.0, 0.0, 0.5]


def test_names_tell_what_frozen_layers_and_uneven_groups_became_from_what_they_were():
    frozen, plain = (problem(model, batches(2)) for model in (frozen_below(), mlp(hidden=20)))
    for finder, held in ((RigL(), True), (GraNet(), True), (ACDC(), True), (Gradual(), False), (LTR(), False)):
        assert bool(freezing_of(finder, frozen.layout, frozen.model)) == held
        assert not freezing_of(finder, plain.layout, plain.model)
        for text, uneven in (("weight", False), ("block:1x2", False), ("block:4x4", True)):
            selection = replace(finder, granularity=text).selection(plain, 0.3)
            assert bool(grouping_of(finder, selection)) == (uneven and not isinstance(finder, ACDC))


def test_rigls_schedule_by_hand():
    assert [RigL().fraction_at(share) for share in (0.0, 0.375, 0.75, 0.9)] == pytest.approx([0.3, 0.15, 0.0, 0.0])
    assert [RigL(updates=4, until=0.5).updates_by(share) for share in (0.1, 0.125, 0.49, 0.5, 1.0)] == [0, 1, 3, 4, 4]
    assert SET().growth == ByChance()
    assert RigL(growth="random").growth == ByChance()


def test_rigl_grows_where_the_dense_gradient_is_largest():
    # f = c (a x1 + b x2); a alone of the first layer is in: the layer of two drops a and takes in b, whose gradient
    # 2 e c x2 is twice that of a, at the weights before the step.
    of = three()
    model = Three(a=2.0, b=5.0)
    moving = Exchanging(RigL(updates=2, until=1.0, fraction=0.99), Selection(of.layout, 2 / 3), 0)
    moving.mask = torch.tensor([True, False, True])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    moving.begin(model, of.task)
    moving.stepped_by(optimizer)
    assert weights_of(model) == [2.0, 0.0, 0.5]
    of.task.loss(moving.forward((torch.tensor([[1.0, 2.0]]), None), 0.0), (0, torch.zeros(1, 1))).backward()
    optimizer.step()
    # e = f = 1: gradients 2 * 0.5 * 1 = 1 and 2 * 0.5 * 2 = 2, and 2 e h = 4 of c.
    assert moving.gradient.tolist() == pytest.approx([1.0, 2.0, 4.0])
    assert weights_of(model) == pytest.approx([1.99, 0.0, 0.46])
    moving._finder = type(
        "F", (), {"updates_by": lambda *_: 1, "fraction_at": lambda *_: 1.0, "growth": RigL().growth}
    )()
    moving.after_step(1.0)
    assert moving.mask.tolist() == [False, True, True]
    assert weights_of(model) == pytest.approx([0.0, 0.0, 0.46])
    assert moving._explored.all()


def test_granets_density_by_hand():
    assert [GraNet().density_at(0.1, share) for share in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([0.5, 0.15, 0.1, 0.1])
    assert GraNet(start_density=1.0).density_at(0.1, 0.25) == pytest.approx(0.1 + 0.9 / 8)
    assert GraNet().density_at(0.7, 0.0) == pytest.approx(0.7)


def test_granet_falls_while_its_mask_moves():
    with pytest.raises(UsageError, match=r"falling must be at most until, 0\.3, after which the mask stands still"):
        GraNet(until=0.3)
    assert GraNet(until=0.3, falling=0.3).density_at(0.1, 0.3) == pytest.approx(0.1)


def test_granet_starts_half_dense_and_falls():
    of = problem(mlp(hidden=40), batches(10), epochs=4)
    finder = GraNet(updates=20)
    rows = draw(finder, of, 0.1).rows
    assert rows[0]["density"] > rows[1]["density"] >= rows[2]["density"] == pytest.approx(0.1, abs=0.01)
    first = finder.first_selection(finder.selection(of, 0.1))
    assert first.kept == count_kept(0.5, of.layout.total)


@of_each
def test_the_network_that_is_left_is_sparse_and_another_product_than_the_ticket(finder):
    of = problem(TinyConv(), images(4), epochs=4, at="rewind", rewind=1)
    found = draw(finder, of, 0.2)
    mask = of.layout.flatten(found.ticket)
    left = of.layout.flatten(of.values_of(found.kept))
    assert int(mask.sum()) == count_kept(0.2, of.layout.total)
    assert (left[~mask] == 0).all()
    assert (left[mask] != 0).float().mean() > 0.5
    assert found.start is None, "the ticket is rewound"
    assert found.ticket.provenance.weights == of.weights.digest
    assert (found.kept.epoch, found.kept.cost.forward) == (4, found.ticket.provenance.cost.forward)
    assert draw(finder, of, 0.2).kept.digest == found.kept.digest, "what was drawn is remembered with it"


def streamed(given, later=None, **more):
    of = problem(TinyConv(), given, **more)
    setup = replace(of.trainer.setup, feed=StreamFeed(Unsized(given, later)))
    return replace(of, trainer=Trainer(setup, of.trainer.start, of.store, {}))


@of_each
def test_masks_move_also_where_the_data_do_not_say_their_length(finder, monkeypatch):
    shares, original = [], MovingMask.after_step

    def watching(self, share):
        before = self.mask
        original(self, share)
        if not torch.equal(before, self.mask):
            shares.append(share)

    monkeypatch.setattr(MovingMask, "after_step", watching)
    found = draw(finder, streamed(images(4), epochs=3), 0.2)
    assert len(shares) > 1
    assert min(shares) > 1 / 3, "the first epoch tells how long they are"
    assert found.rows[-1]["density"] == pytest.approx(0.2, abs=0.01)
    assert not [warning for warning in found.ticket.provenance.warnings if "no length" in warning]


@of_each
def test_one_epoch_of_data_without_a_length_is_refused(finder):
    with pytest.raises(UsageError, match=r"search_epochs must lie 2 or more above 0, .* without a length, .*; got 1"):
        draw(replace(finder, epochs=1), streamed(images(4)), 0.2)


def test_it_is_refused_before_anything_is_trained(tmp_path):
    recipe, data = Recipe(epochs=2), Unsized(batches(2))
    with pytest.raises(UsageError, match="search_epochs must lie 2 or more above 1"):
        sparsify(mlp(), data, batches(1), density=0.5, recipe=recipe, finder="rigl", out=tmp_path, progress=False)
    assert not any(tmp_path.iterdir())


def test_a_mask_that_has_not_come_to_its_end_is_told_of():
    found = draw(Gradual(share=1.0, rounds=10), streamed(images(4), images(1), epochs=2), 0.2)
    total = sum(mask.numel() for mask in found.ticket.values())
    assert f"{count_kept(0.2, total):,} are wanted" in " ".join(found.ticket.provenance.warnings)


@pytest.mark.parametrize("kind", [RigL, SET, GraNet])
def test_a_mask_that_would_never_move_is_refused(kind):
    with pytest.raises(UsageError, match="updates must be a whole number of at least 2, got 1"):
        kind(updates=1)


@pytest.mark.parametrize("finder", [RigL(updates=6), SET(updates=6)], ids=lambda finder: finder.name)
def test_sparse_training_explores_more_than_it_keeps(finder):
    of = problem(mlp(hidden=40), batches(10), epochs=6)
    rows = draw(finder, of, 0.2).rows
    assert all(row["density"] == pytest.approx(0.2, abs=0.01) for row in rows)
    explored = [row["explored"] for row in rows]
    assert explored == sorted(explored)
    assert explored[-1] > 1.3 * 0.2
    assert explored[-1] == explored[4], "after three quarters of the training the mask stands still"


def test_what_is_left_out_has_neither_gradient_nor_momentum():
    of = problem(mlp(), batches())
    model = mlp()
    mask = torch.rand(of.layout.total, generator=torch.Generator().manual_seed(0)) < 0.5
    moving, optimizer = MovingMask(Selection(of.layout, 0.5), mask), torch.optim.AdamW(model.parameters(), lr=0.01)
    moving.begin(model, of.task)
    moving.stepped_by(optimizer)
    for x, y in batches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        moving.after_step(0.5)
    for name, weight in by_canonical_name(model).items():
        if name in of.layout.names:
            left_out = ~of.layout.views(mask)[name]
            assert (weight[left_out] == 0).all()
            assert (optimizer.state[weight]["exp_avg"][left_out] == 0).all()
            assert (optimizer.state[weight]["exp_avg"][~left_out] != 0).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ACDC(phases=0), "phases must be a whole number of at least 1, got 0"),
        (lambda: RigL(fraction=1.0), "fraction must be a number between 0 and 1, got 1.0"),
        (lambda: RigL(until=0.0), r"until must be a number in \(0, 1\], got 0.0"),
        (lambda: SET(growth="momentum"), "growth 'momentum' is unknown; allowed are gradient, random"),
        (lambda: GraNet(start_density=2.0), r"start_density must be a number in \(0, 1\], got 2.0"),
    ],
)
def test_fields_that_make_no_sense(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_cosines_end():
    assert RigL(fraction=0.5).fraction_at(0.25) == pytest.approx(0.25 * (1 + math.cos(math.pi / 3)))
