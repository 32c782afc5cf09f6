"""The rivals, each against scores computed by hand on a network of three weights, and in real networks."""

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tombola import SearchError, UsageError
from tombola.core import double_backward as twice
from tombola.core.cost import Cost, Meter
from tombola.core.double_backward import batch_norm
from tombola.core.progress import Silent
from tombola.core.ranking import count_kept, kept_scores
from tombola.data import ListFeed
from tombola.finders import (
    FINDERS,
    FORCE,
    IMP,
    LTR,
    SNIP,
    Fisher,
    GraSP,
    GraSPMagnitude,
    Hutchinson,
    Magnitude,
    ObjectiveSaliency,
    ProsPr,
    Random,
    SynFlow,
)
from tombola.finders.problem import Problem
from tombola.networks.masking import survey
from tombola.networks.task import Task
from tombola.runs.rundir import write_scores
from tombola.storage.store import DiskStore, MemoryStore
from tombola.training import Recipe, State, TrainingSetup
from tombola.training.trainer import Trainer

from .conftest import CPU, TinyConv, batches, draw, images, mlp, train


def problem(model, data, task=None, store=None, at="init", epochs=3, weights=None, rewind=0):
    store, task = store or MemoryStore(), task or Task()
    setup = TrainingSetup(model, task, ListFeed(data), None, Recipe(epochs=epochs, learning_rate=0.2), CPU, 3, Silent())
    trainer = Trainer(setup, State.of(model), store, {})
    return Problem(
        model=model, layout=survey(model).layout, task=task, feed=ListFeed(data),
        weights=weights or trainer.dense_at(rewind), seed=3, runtime=CPU, at=at, store=store, trainer=trainer,
    )  # fmt: skip


def scores(finder, of, mask=None):
    finder = finder.settled(of) if isinstance(finder, ObjectiveSaliency) else finder
    context = finder.context(of, Meter())
    ones = torch.ones(of.layout.total, dtype=context.network.weights.dtype)
    return finder.scores(context, ones if mask is None else mask).tolist()


# Three weights a, b, c in a product-and-sum: f = c (a x1 + b x2), squared error to y. With a, b, c = 2, -1, 0.5,
# x = (1, 2), y = 1: h = 0, f = 0, error e = f - y = -1, and the loss e^2 has the gradients 2 e c x1 = -1, 2 e c x2 = -2
# with respect to a and b, and 2 e h = 0 with respect to c.
class Three(nn.Module):
    def __init__(self, a=2.0, b=-1.0, c=0.5):
        super().__init__()
        self.first, self.second = nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[a, b]]))
            self.second.weight.fill_(c)

    def forward(self, x):
        return self.second(self.first(x))


def three(**weights):
    return problem(Three(**weights), [(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))], Task.regression())


def test_snip_by_hand():
    assert scores(SNIP(), three()) == pytest.approx([2.0, 2.0, 0.0])
    # With b = 1: h = 4, f = 2, e = 1; gradients 1, 2, 8; times the weights 2, 1, 0.5.
    assert scores(SNIP(), three(b=1.0)) == pytest.approx([2.0, 2.0, 4.0])


def test_snip_at_a_pruned_network_by_hand():
    # Without b: h = 2, f = 1, e = 0: nothing has a gradient.
    assert scores(SNIP(), three(), torch.tensor([1.0, 0.0, 1.0])) == pytest.approx([0.0, 0.0, 0.0])


def test_force_scores_pruned_weights_too():
    # Without c: f = 0, e = -1; the gradients of a and b carry c = 0, that of c is 2 e h = -2 h = -2 (2 + 2) for b = 1.
    assert scores(FORCE(), three(b=1.0), torch.tensor([1.0, 1.0, 0.0])) == pytest.approx([0.0, 0.0, 4.0])
    assert scores(SNIP(), three(b=1.0), torch.tensor([1.0, 1.0, 0.0])) == pytest.approx([0.0, 0.0, 0.0])


def test_grasp_by_hand():
    # Loss (f/t - y)^2 with t = 1 at b = 1: g = (1, 2, 8). H = 2 (df df^T + e d2f), df = (c x1, c x2, h) = (.5, 1, 4),
    # and d2f has x1 = 1 between a and c and x2 = 2 between b and c, e = 1. df.g = 0.5 + 2 + 32 = 34.5, so
    # Hg = 2 (34.5 df + (1 * 8, 2 * 8, 1 * 1 + 2 * 2)) = (50.5, 101, 286); times the weights 2, 1, 0.5.
    assert scores(GraSP(temperature=1.0), three(b=1.0)) == pytest.approx([101.0, 101.0, 143.0])
    # At b = -1: e = -1, h = 0, g = (-1, -2, 0), df = (.5, 1, 0), df.g = -2.5; the mixed terms give c alone e (x1 g_a +
    # x2 g_b) = 5. Hg = 2 (-1.25, -2.5, 5) = (-2.5, -5, 10); times 2, -1, 0.5.
    assert scores(GraSP(temperature=1.0), three()) == pytest.approx([-5.0, 5.0, 5.0])
    assert scores(GraSPMagnitude(temperature=1.0), three()) == pytest.approx([5.0, 5.0, 5.0])


def test_grasp_divides_outputs_by_its_temperature():
    # With t = 2 at b = 1: f/t = 1, e = 0, g = 0: nothing to preserve.
    assert scores(GraSP(temperature=2.0), three(b=1.0)) == pytest.approx([0.0, 0.0, 0.0])


def test_synflow_by_hand():
    # |a|, |b|, |c| = 2, 1, 0.5 and ones in: R = 0.5 (2 + 1) = 1.5, of which a carries 1, b 0.5 and c all of it.
    assert scores(SynFlow(), three()) == pytest.approx([1.0, 0.5, 1.5])


def test_synflow_conserves_flow_layer_by_layer_and_unit_by_unit():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 6, bias=False), nn.Linear(6, 3, bias=False)
    )
    of = problem(model, batches(1, inputs=5))
    found = of.layout.views(torch.tensor(scores(SynFlow(), of)))
    sums = [float(value.sum()) for value in found.values()]
    assert sums == pytest.approx([sums[0]] * 3)
    assert found["0.weight"].sum(dim=1).tolist() == pytest.approx(found["2.weight"].sum(dim=0).tolist())


class Turned(nn.Module):
    """Two linear layers and a complex factor between them."""

    def __init__(self, factors):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)
        self.factors = nn.Parameter(factors)

    def forward(self, x):
        return self.last((self.first(x) * self.factors).real)


def test_synflow_takes_complex_parameters_by_their_moduli():
    factors = torch.complex(torch.linspace(-1, 1, 8), torch.linspace(1, 2, 8))
    found = scores(SynFlow(), problem(Turned(factors), batches()))
    assert found == pytest.approx(scores(SynFlow(), problem(Turned(factors.abs()), batches())))
    model = Turned(factors)
    draw(SynFlow(rounds=2), problem(model, batches()))
    assert torch.equal(model.factors, factors), "of the copy alone"


def test_synflow_keeps_scores_that_float32_cannot_hold(tmp_path):
    torch.manual_seed(0)
    deep = torch.nn.Sequential(*[torch.nn.Linear(4, 4, bias=False) for _ in range(20)])
    with torch.no_grad():
        for layer in deep:
            layer.weight.mul_(100)
    found = draw(SynFlow(rounds=1), problem(deep, [(torch.ones(2, 4), torch.zeros(2, dtype=torch.long))]), 0.5)
    write_scores(tmp_path, found)
    for scores in (found.scores, load_file(tmp_path / "scores.safetensors")):
        flat = torch.cat([scores[name].flatten() for name in found])
        assert flat.isfinite().all()
        assert torch.equal(flat >= flat.topk(found.kept).values[-1], torch.cat([m.flatten() for m in found.values()]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_are_kept_in_float32_where_that_tells_them_apart(dtype):
    assert kept_scores(torch.tensor([0.0, 1.5, -torch.inf], dtype=dtype)).dtype == torch.float32
    assert kept_scores(torch.tensor([0.0, 1e-50], dtype=torch.float64)).tolist() == [0.0, 1e-50]


def test_synflow_leaves_the_network_alone_and_ignores_its_running_statistics():
    torch.manual_seed(0)
    model = TinyConv()
    of = problem(model, images())
    expected = scores(SynFlow(), of)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.norm.running_mean.fill_(3.0)
    model.norm.running_var.fill_(9.0)
    moved = problem(model, images())
    assert scores(SynFlow(), moved) == pytest.approx(expected)
    model.load_state_dict(before)
    draw(SynFlow(), of)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.conv.weight < 0).any()


def test_synflow_sees_fresh_statistics_also_where_none_are_kept():
    torch.manual_seed(0)
    model = TinyConv()
    expected = scores(SynFlow(), problem(model, images()))
    model.norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert scores(SynFlow(), problem(model, images())) == pytest.approx(expected)
    assert model.norm.running_mean is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"x": torch.zeros(4, 6)}], r"synflow needs batches of \(inputs, targets\), inputs being one tensor"),
        ([(torch.zeros(4, 6).long(), torch.zeros(4).long())], "synflow needs inputs of real numbers, got torch.int64"),
    ],
)
def test_synflow_refuses_data_that_a_batch_of_ones_cannot_stand_for(data, message):
    with pytest.raises(UsageError, match=message):
        draw(SynFlow(rounds=1), problem(mlp(), data))


def test_synflow_survives_products_that_float32_cannot_hold():
    layers = [nn.Linear(4, 4, bias=False) for _ in range(40)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1e3)
    of = problem(nn.Sequential(*layers), batches(1, inputs=4))
    assert draw(SynFlow(rounds=2), of, 0.5).kept == 320


def test_prospr_by_hand():
    # f = w x + b with w = b = x = 1, y = 0, loss f^2. The mask m multiplies w before the first step, of rate r, which
    # moves weight and bias by 2 r f each: f0 = m + 1, f1 = (m + 1)(1 - 4r), and f2 = (m + 1)(1 - 4r)^2. The gradient of
    # f_M^2 with respect to m, at 1, is 4 (1 - 4r)^2M; without a bias f0 = m, f1 = m (1 - 2r): 2 (1 - 2r)^2M.
    data = [(torch.ones(1, 1), torch.zeros(1, 1))]
    rate = 0.1
    for steps in (1, 2):
        for bias, expected in ((True, 4 * (1 - 4 * rate) ** (2 * steps)), (False, 2 * (1 - 2 * rate) ** (2 * steps))):
            model = nn.Linear(1, 1, bias=bias)
            for parameter in model.parameters():
                nn.init.constant_(parameter, 1.0)
            of = problem(model, data, Task.regression())
            found = scores(ProsPr(training_steps=steps, training_rate=rate), of)
            assert found == pytest.approx([expected])


def test_what_prospr_has_pruned_stays_zero_through_its_steps():
    # f = a x1 + b x2 with b pruned: the loss after the step does not know b, whatever its gradient was.
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    of = problem(model, [(torch.ones(1, 2), torch.zeros(1, 1))], Task.regression())
    (first, _) = scores(ProsPr(training_steps=1, training_rate=0.1), of, torch.tensor([1.0, 0.0]))
    assert first == pytest.approx(2 * (1 - 2 * 0.1) ** 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training_steps": 0}, "prospr_steps must be a whole number of at least 1, got 0"),
        ({"training_rate": -1.0}, "prospr_rate must be a number above 0, at most 1e.30, got -1.0"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
    ],
)
def test_prospr_names_what_is_wrong(options, message):
    with pytest.raises(UsageError, match=message):
        ProsPr(**options)


def test_batches_are_an_option_of_those_that_average_over_them():
    averaging = {name for name, kind in FINDERS.known.items() if "batches" in {field.name for field in fields(kind)}}
    second_order = {"fisher", "fisher-taylor", "hutchinson", "hutchinson-taylor"}
    assert averaging == {"snip", "force", "grasp", "grasp-magnitude", "saliency", *second_order}


def test_the_saliency_of_the_loss_is_snip_and_that_of_a_divergence_does_not_vanish():
    found = scores(ObjectiveSaliency(objective="loss", perturbation=1e-6), three(b=1.0))
    assert found == pytest.approx([2.0, 2.0, 4.0], rel=1e-3)
    of = problem(mlp(), batches())
    assert sum(scores(ObjectiveSaliency(objective="reverse-kl"), of)) > 0


@pytest.mark.parametrize("objective", ["delta-loss", "grad-norm", "forward-kl", "feature-mse", "grad-match"])
def test_every_objective_has_a_saliency(objective):
    ticket = draw(ObjectiveSaliency(objective=objective), problem(mlp(), batches()))
    assert ticket.kept == count_kept(0.3, 72)
    assert torch.cat([s.flatten() for s in ticket.scores.values()]).unique().numel() > 20


@pytest.mark.hard
def test_the_search_reaches_a_better_value_of_its_objective_than_the_saliency_made_for_it():
    from tombola import CTS

    model = train(mlp(hidden=48), data(), epochs=20)
    for objective in ("loss", "reverse-kl"):
        of = problem(model, data())
        greedy = draw(ObjectiveSaliency(objective=objective), of, 0.1).provenance.objective
        searched = draw(CTS(objective=objective, steps=600), of, 0.1).provenance.objective
        assert greedy["name"] == searched["name"] == objective
        assert searched["hard"] < greedy["hard"]


def test_the_cost_of_a_saliency_counts_the_estimate_of_statistics():
    ticket = draw(ObjectiveSaliency(objective="delta-loss"), problem(TinyConv(), images(3)))
    # 36 samples for the statistics; one batch of 12 through the dense network and the masked one.
    assert (ticket.provenance.cost.forward, ticket.provenance.cost.backward) == (36 + 12 + 12, 12)


@pytest.mark.parametrize(
    "finder", [SNIP(batches=2), GraSP(batches=2), ProsPr(training_steps=2), Fisher(batches=2), Hutchinson(probes=2)]
)
def test_a_saliency_costs_the_passes_it_is_counted_with(finder):
    model = nn.Sequential(nn.Linear(6, 64), *(nn.Sequential(nn.ReLU(), nn.Linear(64, 64)) for _ in range(6)))
    of = problem(model, batches())
    with FlopCounterMode(display=False) as one:
        model(of.feed.batches[0][0])
    with FlopCounterMode(display=False) as all_of_it:
        context = finder.context(of, meter := Meter())
        finder.scores(context, torch.ones(of.layout.total))
    assert all_of_it.get_total_flops() / one.get_total_flops() == pytest.approx(meter.read().passes / 16, rel=0.05)


def test_tickets_of_the_same_weights_keep_apart_where_they_were_drawn():
    model, data, store = mlp(), batches(), MemoryStore()
    for at, epoch in (("init", 0), ("rewind", 0), ("rewind", 2)):
        of = problem(model, data, store=store, at=at, weights=State.of(model, epoch))
        provenance = draw(Magnitude(), of).provenance
        assert (provenance.at, provenance.epoch) == (at, epoch)


def test_outputs_of_estimated_statistics_are_shared_within_a_seed_alone(conv):
    store = MemoryStore()
    first = problem(conv, images(), store=store)
    for seen, shared in ((0, False), (5, True)):
        conv.norm.num_batches_tracked.fill_(seen)
        mine = replace(first, weights=State.of(conv))
        mine.teacher_entry().put("outputs", {"values": seen})
        assert (replace(mine, seed=4).teacher_entry().get("outputs") is not None) == shared


def test_a_shared_training_costs_each_what_it_took_to_get_there():
    model, data, store = mlp(), batches(), MemoryStore()
    of = problem(model, data, store=store)
    ticket = draw(Random(), of)
    for so_far in (Cost(), Cost(100.0, 1000, 1000)):
        start = State.of(model, 1, so_far)
        trained = of.fit(ticket, start)
        assert (trained.cost - start.cost).forward == 2 * 48
        assert (trained.cost - start.cost).backward == 2 * 48
        assert 0 < (trained.cost - start.cost).seconds < 60
        (reached,) = of.trainer.trajectory(ticket, start, [2])
        assert (reached.cost - start.cost).forward == 48


def test_magnitude_by_hand():
    ticket = draw(Magnitude(), three(), 2 / 3)
    assert ticket["first.weight"].tolist() == [[True, True]]
    assert draw(Magnitude(allocation="uniform"), three(), 2 / 3)["second.weight"].all()


@pytest.mark.parametrize(
    "finder", [GraSP(), ProsPr(), ObjectiveSaliency(objective="grad-norm"), ObjectiveSaliency(objective="grad-match")]
)
def test_what_is_differentiated_twice_runs_the_functions_made_for_it(finder, monkeypatch):
    calls = []

    def counted(*given):
        calls.append(given)
        return batch_norm(*given)

    monkeypatch.setattr(twice, "batch_norm", counted)
    draw(finder, problem(TinyConv(), images()))
    assert calls


# At the larger density GraSP keeps weights whose scores are below the 0 of a pruned one.
@pytest.mark.parametrize(("kind", "density"), [(SNIP, 0.1), (GraSP, 0.85)])
def test_iterative_rounds_never_bring_a_weight_back(kind, density):
    seen = []

    class Watching(kind):
        def scores(self, context, mask):
            seen.append(mask.bool())
            return super().scores(context, mask)

    ticket = draw(Watching(rounds=5), problem(mlp(), batches()), density)
    masks = [*seen, torch.cat([ticket[name].flatten() for name in ("0.weight", "2.weight")])]
    assert [int(mask.sum()) for mask in masks] == [72, *(count_kept(density ** (n / 5), 72) for n in range(1, 6))]
    assert all((late & ~early).sum() == 0 for early, late in pairwise(masks))


TRAINED = ("ltr", "imp")


@pytest.mark.parametrize("name", sorted(FINDERS))
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
@pytest.mark.filterwarnings("ignore::tombola.TicketWarning")
def test_every_finder_keeps_exactly_k_and_repeats_itself(name, density):
    short = {"synflow": {"rounds": 3}, "force": {"rounds": 3}}
    short |= {key: {"steps": 5} for key in ("cts", "edge-popup", "gem-miner")}
    finder = replace(FINDERS.known[name], **short.get(name, {}))
    torch.manual_seed(0)
    model = TinyConv()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ticket = draw(finder, problem(model, images()), density)
    assert ticket.kept == count_kept(density, 228)
    assert ticket.provenance.finder["name"] == name
    assert draw(finder, problem(model, images()), density) == ticket
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(SearchError, match=r"the score of snip is nan in first\.weight"):
        draw(SNIP(), three(a=math.nan))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SNIP(rounds=0), "rounds must be a whole number of at least 1, got 0"),
        (lambda: LTR(rate=1.0), "rate must be a number between 0 and 1, got 1.0"),
        (lambda: ObjectiveSaliency(perturbation=0.0), "perturbation must be a number between 0 and 1, got 0.0"),
        (lambda: Random(allocation="fair"), "allocation 'fair' is unknown; allowed are global, uniform, erk"),
    ],
)
def test_fields_that_make_no_sense(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def data():
    return batches(4, size=32)


def test_ltr_trains_prunes_and_rewinds(tmp_path):
    of = problem(mlp(), data(), at="rewind", rewind=1)
    one, two, off = (draw(LTR(rate=0.5), of, density) for density in (0.5, 0.25, 0.2))
    assert [ticket.kept for ticket in (one, two, off)] == [36, 18, 14]
    for small, large in ((two, one), (off, two)):
        assert all((small[name] & ~large[name]).sum() == 0 for name in small), "masks are nested"
    # The first mask is the largest half of the dense network after training.
    sizes = of.layout.flatten(of.values_of(of.dense_at(3))).abs()
    flat = torch.cat([one[name].flatten() for name in of.layout.names])
    assert sizes[flat].min() >= sizes[~flat].max()
    # The second is that of the first ticket, trained from θ_k: its pruned weights did not come back.
    trained = of.values_of(of.fit(one))
    assert all((trained[name][~mask] == 0).all() for name, mask in one.items())
    sizes = of.layout.flatten(trained).abs()
    flat = torch.cat([two[name].flatten() for name in of.layout.names])
    assert sizes[flat].min() >= sizes[~flat].max()
    # It belongs to θ_k, not to the trained weights.
    assert one.provenance.weights == of.dense_at(1).digest


def test_pruned_weights_rank_below_trained_ones_that_are_zero():
    from tombola.finders.rewinding import Round

    model = three()
    with torch.no_grad():
        values = {"first.weight": torch.tensor([[0.0, 0.0]]), "second.weight": torch.tensor([[0.0]])}
    done = Round(torch.tensor([False, True, True]), State(values), Cost())
    assert LTR()._scores(model, done).tolist() == [-math.inf, 0.0, 0.0]


def test_the_cost_of_a_descent_is_counted_in_full():
    of = problem(mlp(), data(), at="rewind", rewind=1)
    samples = 128
    ticket = draw(LTR(rate=0.5), of, 0.25)
    assert ticket.provenance.cost.backward == samples * (3 + 2), "the dense training and one round from epoch 1"
    again = draw(LTR(rate=0.5), of, 0.25)
    assert again.provenance.cost == ticket.provenance.cost, "what is remembered costs what it cost"


def test_a_stopped_descent_goes_on_where_it_stopped(tmp_path, monkeypatch):
    store = DiskStore(tmp_path)
    of = problem(mlp(), data(), at="rewind", rewind=1, store=store)
    expected = draw(LTR(rate=0.5), problem(mlp(), data(), at="rewind", rewind=1), 0.1)
    count, original = 0, Problem.fit

    def dying(self, ticket, start=None):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return original(self, ticket, start)

    monkeypatch.setattr(Problem, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        draw(LTR(rate=0.5), of, 0.1)
    monkeypatch.undo()
    trained = []
    from tombola import training

    real = training.fit
    monkeypatch.setattr("tombola.training.trainer.fit", lambda *a: trained.append(a[4]) or real(*a))
    ticket = draw(LTR(rate=0.5), of, 0.1)
    assert ticket == expected
    assert trained == ["ticket training"], "two rounds of three were there"


def test_imp_rewinds_to_the_initial_weights():
    of = problem(mlp(), data())
    ticket = draw(IMP(), of, 0.5)
    assert (ticket.provenance.at, ticket.provenance.epoch) == ("init", 0)
    with pytest.raises(UsageError, match="draw_at must be init for the finder imp, got rewind"):
        draw(IMP(), problem(mlp(), data(), at="rewind", rewind=1), 0.5)
    with pytest.raises(UsageError, match="draw_at must be rewind or init for the finder ltr, got trained"):
        draw(LTR(), problem(mlp(), data(), at="trained", rewind=3), 0.5)


def test_costs_subtract():
    assert Cost(3.0, 5, 2) - Cost(1.0, 2, 2) == Cost(2.0, 3, 0)
