import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tombola import CTS, GradBalance, ProportionalBalance, Random, SearchError, Task, UsageError
from tombola.core.parts import identify
from tombola.core.ranking import count_kept
from tombola.core.seeds import fill_uniform
from tombola.core.selection import Selection
from tombola.data import ListFeed
from tombola.finders import FINDERS
from tombola.finders.cts import Search, drop
from tombola.finders.problem import Problem
from tombola.networks.masking import survey
from tombola.networks.network import FrozenNetwork
from tombola.storage.store import DiskStore, MemoryStore
from tombola.training import State

from .conftest import CPU, DyingStore, Killed, batches, draw, images, mlp, train


def problem(model, data, **changes):
    values = dict(
        model=model, layout=survey(model).layout, task=Task(), feed=ListFeed(data), weights=State.of(model), seed=3,
        runtime=CPU,
    )  # fmt: skip
    return Problem(**{**values, **changes})


@pytest.mark.parametrize("density", [0.02, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("finder", [CTS(objective="loss", steps=5), CTS(steps=5), Random()])
def test_exactly_k_weights_are_kept(finder, density):
    of = problem(mlp(), batches())
    ticket = draw(finder, of, density)
    assert ticket.kept == count_kept(density, 72)
    assert ticket.shapes == {"0.weight": (8, 6), "2.weight": (3, 8)}
    assert {name: score.shape for name, score in ticket.scores.items()} == ticket.shapes


def test_several_densities_are_drawn_one_after_another():
    of = problem(mlp(), batches())
    assert [draw(CTS(steps=3), of, density).kept for density in (0.5, 0.25)] == [36, 18]
    first, second = (draw(Random(), of, density) for density in (0.5, 0.25))
    assert all((first[name] | ~second[name]).all() for name in first), "random tickets are nested"


def test_random_tickets_depend_on_the_seed():
    model = mlp()
    assert draw(Random(), problem(model, batches())) == draw(Random(), problem(model, batches()))
    assert draw(Random(), problem(model, batches())) != draw(Random(), problem(model, batches(), seed=4))


def test_a_density_that_keeps_nothing_is_refused_before_any_search():
    with pytest.raises(UsageError, match="smallest possible density"):
        draw(CTS(steps=10**9), problem(mlp(), batches()), 0.001)


def test_same_seed_same_ticket_to_the_bit_and_another_seed_another():
    model, data = mlp(), batches()
    first, again = draw(CTS(steps=40), problem(model, data)), draw(CTS(steps=40), problem(model, data))
    assert first == again
    assert all(torch.equal(first.scores[name], again.scores[name]) for name in first)
    assert draw(CTS(steps=40), problem(model, data, seed=4)) != first


@pytest.mark.parametrize("epsilon", [1e-8, 0.5])
def test_one_step_of_the_search_by_hand(epsilon):
    # Two weights into one output of a squared error: R = (z0 w0 + z1 w1 - 1)^2 with x = 1.
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0]]))
    task = Task(loss=lambda output, batch: ((output - batch[1]) ** 2).mean())
    data = [(torch.ones(1, 2), torch.ones(1, 1))]
    of = problem(model, data, task=task)
    network = FrozenNetwork(model, of.layout, task, CPU)
    finder = CTS("loss", 2, GradBalance(), learning_rate=0.1, lr_schedule="drop", epsilon=epsilon)
    search = Search(finder, of, Selection(of.layout, 0.5), network, None)
    noise = torch.empty(2)
    fill_uniform(noise, 3, "concrete", 0, 0)
    z = torch.sigmoid(torch.logit(noise) * 1.5)
    residual = 2 * z[0] - z[1] - 1
    gradient = 2 * residual * torch.tensor([2.0, -1.0]) * z * (1 - z)
    row = search.advance(next(iter(of.feed.epoch(0))))
    # Below the aim of 0.55, lambda stays 0, and Adam's first step is its learning rate against the gradient's sign, but
    # for epsilon.
    assert row["objective"] == pytest.approx(residual.item() ** 2, rel=1e-5)
    assert row["task_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert row["multiplier"] == 0
    assert search.logits.tolist() == pytest.approx((-0.1 * gradient / (gradient.abs() + epsilon)).tolist(), abs=1e-6)


def test_the_learning_rate_drops_for_the_last_fifth():
    for steps, at in ((1960, 1568), (15_680, 13_622), (100, 80)):
        assert [drop(step, steps) for step in (0, at - 1, at, steps - 1)] == [1.0, 1.0, 0.1, 0.1]
    of = problem(mlp(), batches())
    moves = []
    network = FrozenNetwork(of.model, of.layout, Task(), CPU)
    finder = CTS(objective="loss", steps=10, learning_rate=0.1, lr_schedule="drop")
    search = Search(finder, of, Selection(of.layout, 0.5), network, None)
    for item in list(of.feed.epoch(0)) * 4:
        if search.step == 10:
            break
        before = search.logits.detach().clone()
        search.advance(item)
        moves.append((search.logits.detach() - before).abs().max().item())
    assert min(moves[:8]) > 0.03
    assert max(moves[8:]) < 0.02


def test_by_default_the_learning_rate_rises_and_falls():
    of = problem(mlp(), batches())
    shares = [CTS(steps=8).schedule.share(step, 8) for step in (0, 2, 4, 6, 8)]
    assert shares == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0])
    settled = [CTS(steps=n).settled(of) for n in (1960, 980, 490, 15_680)]
    assert [search.learning_rate for search in settled] == pytest.approx([0.3, 0.6, 1.0, 0.0375])
    assert CTS(lr_schedule="drop").settled(of).learning_rate == 0.1
    assert CTS(learning_rate=0.02).settled(of).learning_rate == 0.02
    # A copy with other steps has the rate that suits them.
    assert replace(CTS(), steps=15_680).settled(of) == CTS(steps=15_680).settled(of)


def test_the_search_finds_the_weights_that_matter():
    # The class is the largest of the first three inputs: the weights of the other three are noise.
    model = nn.Linear(6, 3, bias=False)
    train(model, batches(4, size=64), epochs=10)
    ticket = draw(CTS(steps=150), problem(model, batches(4, size=64)), density=0.5)
    kept = ticket["weight"].sum(dim=0)
    assert kept[:3].sum() >= 8
    objective = ticket.provenance.objective
    random = draw(Random(), problem(model, batches(4, size=64)), density=0.5)
    network = FrozenNetwork(model, survey(model).layout, Task(), CPU)
    x, _ = batches(1, size=64)[0]
    dense = model(x)

    def divergence(mask):
        return Task().divergence(network.under(mask["weight"].flatten() * network.weights, (x, None)), dense, None)

    assert divergence(ticket) < divergence(random)
    assert objective["hard"] == pytest.approx(divergence(ticket).item(), abs=0.05)


@pytest.mark.parametrize("steps", [1, 7, 39])
@pytest.mark.parametrize("controller", [GradBalance(), ProportionalBalance()])
def test_a_killed_search_goes_on_to_the_same_bits(tmp_path, steps, controller):
    torch.manual_seed(0)
    from .conftest import TinyConv

    model, finder = TinyConv(), CTS(steps=40, controller=controller)
    straight = problem(model, images(3), store=DiskStore(tmp_path / "a"))
    expected = draw(finder, straight)

    broken = problem(model, images(3), store=DyingStore(tmp_path / "b", steps))
    with pytest.raises(Killed):
        draw(finder, broken)
    resumed = problem(model, images(3), store=DiskStore(tmp_path / "b"))
    ticket = draw(finder, resumed)
    assert ticket == expected
    assert all(torch.equal(ticket.scores[name], expected.scores[name]) for name in ticket)
    rows = [of.draw_entry(identify(finder.settled(of)), 0.3).rows() for of in (resumed, straight)]
    assert rows[0] == rows[1]
    assert ticket.provenance.cost.forward == expected.provenance.cost.forward


def test_a_drawn_ticket_is_not_drawn_again(tmp_path):
    of = problem(mlp(), batches(), store=DiskStore(tmp_path))
    first = draw(CTS(steps=20), of)
    again = draw(CTS(steps=20), of)
    assert again == first
    assert again.provenance == first.provenance
    assert draw(CTS(steps=21), of).provenance.finder["steps"] == 21


def test_what_is_recorded():
    of = problem(mlp(), batches(), store=(store := MemoryStore()))
    finder = CTS(steps=45)
    ticket = draw(finder, of)
    assert of.store is store
    rows = of.draw_entry(identify(finder.settled(of)), 0.3).rows()
    assert [row["step"] for row in rows] == [0, 20, 40, 44]
    first = rows[0]
    assert first["expected_density"] == pytest.approx(0.3)
    assert first["hard_density"] == 0
    assert first["logits_std"] == pytest.approx(0, abs=1e-6)
    assert first["turnover"] is None
    assert all(0 <= row["turnover"] <= 1 for row in rows[1:])
    keys = {"objective", "multiplier", "task_norm", "density_norm", "entropy"}
    assert all(math.isfinite(row[key]) for row in rows for key in keys)
    assert set(ticket.provenance.objective) == {
        "name", "first", "hard", "soft", "held_out", "expected_density", "hard_density",
    }  # fmt: skip
    assert ticket.provenance.objective["held_out"] is None


def test_provenance_names_everything_and_counts_the_cost():
    model = mlp()
    finder = CTS(objective="reverse-kl", steps=7)
    provenance = draw(finder, problem(model, batches(3))).provenance
    assert set(provenance.finder) == {
        "name", "objective", "steps", "controller", "learning_rate", "lr_schedule", "relaxation", "epsilon",
        "batch_size", "teacher", "allocation", "granularity",
    }  # fmt: skip
    assert provenance.finder["controller"] == {"name": "proportional", "width": 0.05}
    assert FINDERS.read(provenance.finder) == replace(finder, learning_rate=1.0), "every default is written out"
    assert provenance.weights == State.of(model).digest
    assert provenance.seed == 3
    # 7 steps of 16 samples, and 48 samples once for the teacher.
    assert (provenance.cost.forward, provenance.cost.backward) == (7 * 16 + 48, 7 * 16)


def test_nan_stops_the_search_and_names_step_and_layer():
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(SearchError, match=r"step 0: the gradient of loss is nan in layer 0\.weight"):
        draw(CTS(objective="loss", steps=5), problem(model, batches()))


def warnings_of(model, data, density, **fields):
    return " | ".join(draw(CTS(**fields), problem(model, data), density).provenance.warnings)


def test_warnings_in_plain_words():
    model, data = mlp(), batches()
    few = warnings_of(model, data, 0.02, objective="loss", steps=3)
    assert "no weight is left in" in few
    assert "under half of the wanted" in few
    assert "every path through the network is cut" in few
    flat = warnings_of(model, data, 0.5, objective="loss", steps=1)
    assert "the objective loss did not improve" in flat
    train(model, data)
    assert warnings_of(model, data, 0.5, steps=200) == ""


def test_finders_are_listed_by_name():
    assert next(iter(FINDERS)) == "cts"
    assert all(finder.name == name for name, finder in FINDERS.known.items())
    with pytest.raises(UsageError, match="steps must be a whole number of at least 1"):
        CTS(steps=0)
    with pytest.raises(UsageError, match="objective 'x' is unknown"):
        CTS(objective="x")


def test_finders_that_train_need_a_trainer():
    with pytest.raises(UsageError, match="which draw does not"):
        problem(mlp(), batches()).dense_at(1)


def test_the_search_normalises_by_each_batch_and_never_by_running_statistics(conv):
    data = images(2)
    first = draw(CTS(objective="loss", steps=10), problem(conv, data))
    conv.norm.running_mean.fill_(100.0)
    conv.norm.num_batches_tracked.fill_(5)
    again = draw(CTS(objective="loss", steps=10), problem(conv, data))
    assert all(torch.equal(first.scores[name], again.scores[name]) for name in first)
