"""Finders that train weights and masks together, and edge-popup: by hand on three weights, and in real trainings."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola import UsageError
from tombola.core import concrete
from tombola.core.allocation import Uniform
from tombola.core.controllers import GradBalance
from tombola.core.flat import Layout
from tombola.core.progress import Silent
from tombola.core.ranking import count_kept
from tombola.core.seeds import fill_uniform
from tombola.core.selection import Selection
from tombola.data import Item, ListFeed, StreamFeed
from tombola.finders import ContinuousSparsification, EdgePopup, Gradual, Joint
from tombola.finders.balance import start_logits
from tombola.finders.continuous import DECIDED, Hardening, HardeningGates
from tombola.finders.edge_popup import ScoreSearch, initial_scores
from tombola.finders.gradual import Pruning, cubic, geometric
from tombola.finders.joint import JointSearch
from tombola.networks.masking import by_canonical_name
from tombola.networks.task import Task
from tombola.storage.store import DiskEntry, DiskStore, MemoryStore
from tombola.training import SGD, Recipe, State, TrainingCallback, TrainingSetup, fit
from tombola.training.trainer import Trainer

from .conftest import CPU, TinyConv, Unsized, batches, draw, images, mlp
from .test_rivals import Three, problem, three

POINT = (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))
KINDS = [Gradual(rounds=4), Joint(), ContinuousSparsification(), EdgePopup(steps=7)]


def weights_of(model):
    return torch.cat([value.detach().reshape(-1) for value in model.parameters()]).tolist()


def test_schedules_by_hand():
    assert [cubic(0.1, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.1 + 0.9 / 8, 0.1])
    assert [geometric(0.01, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.1, 0.01])
    finder = Gradual(schedule="geometric", share=0.5, rounds=2)
    # Two cuts: none before a quarter of the training, the second at half of it.
    assert [finder.density_at(0.01, share) for share in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)] == pytest.approx(
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    )
    assert Joint(share=0.5).wanted(0.0095, 0.25) == pytest.approx(0.095)
    assert Joint(share=0.5).wanted(0.0095, 0.9) == pytest.approx(0.0095)
    assert Joint().wanted(0.99, 0.1) == pytest.approx(0.99), "a density above the start is wanted throughout"


def test_gradual_by_hand():
    # Weights 2, -1, 0.5. One cut at the end of the training, to a third: the largest stays.
    model, layout = Three(), three().layout
    pruning = Pruning(Gradual(share=1.0, rounds=2), Selection(layout, 1 / 3))
    pruning.begin(model, Task.regression())
    pruning.after_step(0.4)
    assert weights_of(model) == [2.0, -1.0, 0.5]
    # Half way the cubic density is 1/3 + 2/3 / 8 = 0.417, of three weights 1.25: one.
    pruning.after_step(0.5)
    assert weights_of(model) == [2.0, 0.0, 0.0]
    with torch.no_grad():
        model.second.weight.fill_(9.0)  # what momentum would do
    pruning.after_step(0.6)
    pruning.after_step(1.0)
    assert weights_of(model) == [2.0, 0.0, 0.0], "what is pruned neither comes back nor pushes another weight out"


def test_joint_by_hand():
    # f = zc c (za a x1 + zb b x2) with a, b, c = 2, 1, 0.5 and x = 1, 2, y = 1.
    of, model = three(b=1.0), Three(b=1.0)
    gates = JointSearch(Joint(controller=GradBalance()), of, Selection(of.layout, 0.5))
    gates.begin(model, of.task)
    noise = torch.empty(3)
    fill_uniform(noise, 3, "concrete", 0, 0)
    a, b, c = za, zb, zc = concrete.sample(torch.full((3,), 3.0), noise)
    h = 2 * za + 2 * zb
    f = 0.5 * zc * h
    output = gates.forward(POINT, 0.0)
    assert output.item() == pytest.approx(f.item())
    of.task.loss(output, POINT).backward()
    e = f - 1
    slopes = torch.stack([a * (1 - a), b * (1 - b), c * (1 - c)])
    expected = slopes * 2 * e * torch.stack([0.5 * zc * 2, 0.5 * zc * 2, 0.5 * h])
    # The weights' own gradients carry the masks.
    assert model.second.weight.grad.item() == pytest.approx(float(2 * e * zc * h))
    # Nothing pushes on the density yet (λ is 0 below the aim), and Adam's first step is 0.1 against the sign.
    gates.after_step(0.0)
    assert gates._steering.pulled().tolist() == pytest.approx(expected.tolist())
    assert gates.logits.tolist() == pytest.approx((3 - 0.1 * expected.sign()).tolist(), abs=1e-5)
    assert gates._steering._gates.parameters.grad is None


def test_continuous_sparsification_by_hand():
    # Gates at 1/2: h = 1 + 1 = 2, f = 1/2 * 1/2 * 2 = 1/2, e = -1/2. dL/dz = 2e (zc c a x1, zc c b x2, c h) =
    # (-1/2, -1/2, -1), times σ' = 1/4 and β = 1, and a price of 0.4 times 1/4 on each.
    of, model = three(b=1.0), Three(b=1.0)
    finder = ContinuousSparsification(penalty=0.4, learning_rate=0.1)
    gates = HardeningGates(finder, of, Selection(of.layout, 0.5), torch.zeros(3))
    gates.begin(model, of.task)
    output = gates.forward(POINT, 0.0)
    assert output.item() == pytest.approx(0.5)
    of.task.loss(output, POINT).backward()
    gates.after_step(0.5)
    assert gates.values.tolist() == pytest.approx([0.0125 - 0.01, 0.0125 - 0.01, 0.025 - 0.01])
    shifted = (0.0025, 0.0025, 0.015)
    # At half of the training β is the root of 200.
    gates.forward(POINT, 0.5)
    assert weights_of(gates.evaluated()) == pytest.approx(
        [weight / (1 + math.exp(-math.sqrt(200) * s)) for weight, s in zip((2, 1, 0.5), shifted, strict=True)]
    )


def test_gates_follow_the_mean_loss_where_the_recipe_sums():
    def gates(recipe):
        model = mlp()
        setup = TrainingSetup(model, Task(), ListFeed(batches(3)), None, recipe, CPU, 3, Silent())
        of = replace(problem(model, batches(3)), trainer=Trainer(setup, State.of(model), MemoryStore(), {}))
        found = draw(ContinuousSparsification(rounds=1, learning_rate=5.0), of, 0.3)
        return of.layout.flatten(found.scores)

    samples = len(batches(1)[0][0])
    plain = {"epochs": 2, "weight_decay": 0.0, "optimizer": SGD(momentum=0.0)}
    mean = gates(Recipe(learning_rate=0.1, **plain))
    assert torch.allclose(gates(Recipe(learning_rate=0.1 / samples, summed=True, **plain)), mean, atol=1e-5)


def test_gates_of_layers_kept_whole_are_one_in_every_round_of_continuous_sparsification(monkeypatch):
    gates, original = [], Hardening.mask

    def watching(self, parameters, step):
        gates.append(original(self, parameters, step))
        return gates[-1]

    monkeypatch.setattr(Hardening, "mask", watching)
    finder, store = ContinuousSparsification(rounds=2, gate_start=-1.0, penalty=1.0), MemoryStore()
    draw(finder, problem(mlp(), batches(), store=store), 0.3)
    shared = len(gates)
    ticket = draw(finder, problem(mlp(), batches(), store=store), {"2.*": 1.0, "*": 0.1})
    assert len(gates) == 2 * shared, "rounds of other layers that are whole are others"
    size = ticket["2.weight"].numel()
    assert ticket["2.weight"].all()
    assert all((each[-size:] == 1).all() for each in gates[shared:])
    assert not any((each[:-size] == 1).any() for each in gates)
    # And nothing where nothing is kept: 3 % of 24 weights by themselves round to one, of 12 to none.
    closed = Selection(Layout(("a", "b"), ((24,), (12,))), 0.03, Uniform())
    first = start_logits(closed, lambda _: 0.0, torch.empty(0), DECIDED)
    assert original(Hardening(), first, 0)[24:].tolist() == [0.0] * 12


def test_continuous_sparsification_closes_what_was_closed_and_stops_when_few_are_open(monkeypatch):
    starts, rounds = [], []
    original = HardeningGates.__init__

    def watching(self, finder, problem, selection, start):
        starts.append(start.clone())
        rounds.append(self)
        original(self, finder, problem, selection, start)

    monkeypatch.setattr(HardeningGates, "__init__", watching)
    of = problem(mlp(), batches())
    finder = ContinuousSparsification(rounds=3, learning_rate=5.0, temperature=50.0)
    few = draw(finder, of, 0.01)
    assert len(starts) == 3
    assert (starts[1] <= 0).all()
    assert (starts[1] < -0.1).any()
    assert torch.equal(starts[1], (50.0 * rounds[0].values.detach()).clamp(max=0.0))
    assert few.kept == count_kept(0.01, of.layout.total)
    # One round leaves fewer gates open than 90 %, and it is the one that the smaller density made.
    draw(finder, of, 0.9)
    assert len(starts) == 3


def test_edge_popup_by_hand():
    # Scores 0.3, -0.2, 0.1: two are kept, f = 0, e = -1. dL/dzc = 2e c h = -(2 + 2) = -4, and zero for a and b, which
    # carry zc = 0. The third score's gradient goes through its absolute value.
    for sign in (1, -1):
        of = three(b=1.0)
        search = ScoreSearch(EdgePopup(allocation="global"), of, Selection(of.layout, 2 / 3))
        with torch.no_grad():
            search.scores.copy_(torch.tensor([0.3, -0.2, 0.1 * sign]))
        assert search.mask().tolist() == [True, True, False]
        search.advance(Item(POINT))
        decayed = [0.3 * (1 - 1e-5), -0.2 * (1 - 1e-5), sign * (0.1 * (1 - 1e-5) + 0.1 * 4)]
        assert search.scores.tolist() == pytest.approx(decayed)
        assert search.mask().tolist() == [True, False, True]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4), st.integers(0, 9))
def test_initial_scores_lie_within_the_reach_of_their_layer(shapes, seed):
    layout = Layout(tuple(map(str, range(len(shapes)))), tuple(shapes))
    for name, part in layout.views(initial_scores(layout, seed)).items():
        assert part.abs().max() <= 1 / math.sqrt(shapes[int(name)][1])


@pytest.mark.parametrize("finder", KINDS, ids=lambda finder: finder.name)
def test_a_search_killed_at_any_step_goes_on_to_the_same_bits(tmp_path, monkeypatch, finder):
    def of(store):
        return problem(TinyConv(), images(), store=store, epochs=4, rewind=1, at="rewind")

    torch.manual_seed(0)
    expected = draw(finder, of(MemoryStore()))
    original = DiskEntry.checkpoint
    for after in (1, 3, 5):
        count = 0

        def dying(entry, state, after=after):
            nonlocal count
            original(entry, state)
            count += entry.directory.name.startswith("draw")
            if count == after:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        halted = of(DiskStore(tmp_path / str(after), checkpoint_seconds=0))
        monkeypatch.setattr(DiskEntry, "checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            draw(finder, halted)
        monkeypatch.undo()
        resumed = draw(finder, halted)
        assert resumed == expected
        for name, scores in expected.scores.items():
            assert torch.equal(resumed.scores[name], scores)
        assert resumed.provenance.cost.forward == expected.provenance.cost.forward


@pytest.mark.parametrize("finder", KINDS[:3], ids=lambda finder: finder.name)
def test_the_model_and_the_rewound_weights_stay_as_they_were(finder):
    torch.manual_seed(0)
    model = TinyConv()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    of = problem(model, images(), rewind=1, at="rewind")
    ticket = draw(finder, of)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (ticket.provenance.at, ticket.provenance.weights) == ("rewind", of.weights.digest)
    rounds = 2 if finder.name == "continuous-sparsification" else 1
    # One epoch before it, then two epochs of 24 samples a training.
    assert ticket.provenance.cost.forward == 24 + rounds * 48


@pytest.mark.parametrize("finder", KINDS[:3], ids=lambda finder: finder.name)
def test_tickets_depend_on_how_the_weights_are_trained(finder):
    store = MemoryStore()
    first = draw(finder, problem(mlp(), batches(), store=store, epochs=2))
    assert draw(finder, problem(mlp(), batches(), store=store, epochs=2)) == first
    assert draw(finder, problem(mlp(), batches(), store=store, epochs=9)) != first


@pytest.mark.parametrize("finder", KINDS[:3], ids=lambda finder: finder.name)
def test_a_search_may_be_of_another_length_than_the_training(finder):
    of = problem(mlp(), batches(), epochs=2)
    ticket = draw(replace(finder, epochs=9), of)
    assert ticket == draw(finder, problem(mlp(), batches(), epochs=9))
    assert ticket.provenance.finder["epochs"] == 9
    assert of.fit(ticket).epoch == 2
    started = problem(mlp(), batches(), epochs=4, rewind=2)
    with pytest.raises(UsageError, match="search_epochs must lie above 2, where the search starts, got 2"):
        draw(replace(finder, epochs=2), started)


@pytest.mark.parametrize("finder", KINDS[:3], ids=lambda finder: finder.name)
def test_a_problem_at_the_trained_weights_is_refused(finder):
    with pytest.raises(UsageError, match=f"draw_at must be rewind or init for the finder {finder.name}, got trained"):
        draw(finder, problem(mlp(), batches(), at="trained", rewind=3))


def test_the_joint_search_reaches_the_density():
    of = problem(mlp(hidden=40), batches(20), epochs=8)
    gates = JointSearch(Joint(), of, Selection(of.layout, 0.1))
    of.fit_with(gates, of.draw_entry({"name": "joint"}, 0.1, trains=True), "joint")
    assert gates.row()["expected_density"] == pytest.approx(0.1, rel=0.1)


@pytest.mark.hard
def test_the_joint_search_reaches_the_density_however_far_its_logits_could_run():
    of = problem(mlp(hidden=40), batches(20), epochs=60)
    gates = JointSearch(Joint(learning_rate=3.0), of, Selection(of.layout, 0.1))
    of.fit_with(gates, of.draw_entry({"name": "joint"}, 0.1, trains=True), "joint")
    assert gates.row()["expected_density"] == pytest.approx(0.1, rel=0.1)
    least, most = (float(end) for end in gates.logits.detach().aminmax())
    assert concrete.logit(0.002) - 1e-6 <= least < 0 < most <= 5.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gradual(schedule="steep"), "schedule must be one of cubic, geometric, linear, got 'steep'"),
        (lambda: Gradual(share=0.0), r"share must be a number in \(0, 1\], got 0.0"),
        (lambda: Gradual(rounds=0), "rounds must be a whole number of at least 1, got 0"),
        (lambda: Gradual(epochs=0), "search_epochs must be a whole number of at least 1, got 0"),
        (lambda: Joint(epochs=1.5), "search_epochs must be a whole number of at least 1, got 1.5"),
        (lambda: Joint(share=2.0), r"share must be a number in \(0, 1\], got 2.0"),
        (lambda: Joint(learning_rate=0.0), "search_learning_rate must be a number above 0"),
        (lambda: Joint(controller=3), "controller must be one of gradbalance, proportional, lagrangian, MODULE:NAME"),
        (
            lambda: ContinuousSparsification(temperature=0.5),
            "temperature must be a number of at least 1, got 0.5",
        ),
        (lambda: ContinuousSparsification(rounds=0), "rounds must be a whole number of at least 1, got 0"),
        (lambda: ContinuousSparsification(penalty=-1.0), "penalty must be a number between 0 and 1e.30, got -1.0"),
        (lambda: EdgePopup(steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: EdgePopup(learning_rate=-1.0), "search_learning_rate must be a number above 0"),
        (lambda: EdgePopup(allocation="best"), "allocation 'best' is unknown"),
    ],
)
def test_fields_that_make_no_sense(make, message):
    with pytest.raises(UsageError, match=message):
        make()


class Recorder(TrainingCallback):
    def __init__(self):
        self.shares = []

    def forward(self, batch, share):
        self.shares.append(share)
        return super().forward(batch, share)

    def after_step(self, share):
        self.shares.append(share)


def record(feed):
    recorder = Recorder()
    setup = TrainingSetup(mlp(), Task(), feed, None, Recipe(epochs=3), CPU, 0, Silent())
    entry = MemoryStore().entry("a", {})
    fit(setup, State.of(mlp(), epoch=1), 3, entry, "training", callback=recorder)
    return recorder.shares


def test_a_callback_is_told_how_much_of_the_training_is_done():
    of = problem(mlp(), batches(2))
    assert record(of.feed) == pytest.approx([0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1])
    # Without a length, from the second epoch on.
    assert record(StreamFeed(Unsized(batches(2)))) == pytest.approx([0, 0, 0, 0, 0.5, 0.75, 0.75, 1])


def test_held_out_figures_of_a_joint_training_are_of_the_gated_network():
    of, model = three(b=1.0), Three(b=1.0)
    gates = JointSearch(Joint(), of, Selection(of.layout, 0.5))
    gates.begin(model, of.task)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([0.0, 100.0, -100.0]))
    assert weights_of(gates.evaluated()) == pytest.approx([1.0, 1.0, 0.0])
    assert by_canonical_name(model)["second.weight"].item() == 0.5
