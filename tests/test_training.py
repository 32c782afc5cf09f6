import copy
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

import tombola
from tombola.core.progress import Silent
from tombola.data import ListFeed, StreamFeed
from tombola.errors import SearchError, UsageError
from tombola.networks.evaluation import evaluate
from tombola.networks.masking import survey
from tombola.networks.models import load_into, read_weights, write_weights
from tombola.networks.network import load_weights
from tombola.networks.task import Task, smoothed_cross_entropy
from tombola.storage.store import DiskStore, MemoryStore
from tombola.ticket import Ticket
from tombola.training import SGD, AdamW, Recipe, SignIn, State, TrainingSetup, fit
from tombola.training.trainer import Trainer

from .conftest import CPU, Dying, Killed, TinyConv, Unsized, batches, images, mlp, train_epoch


def setup(model, data, **recipe):
    values = {"epochs": 3, "learning_rate": 0.1, **recipe}
    return TrainingSetup(model, Task(), ListFeed(data), ListFeed(data), Recipe(**values), CPU, 7, Silent())


def entry(store=None, name="x"):
    return (store or MemoryStore()).entry("fit", {"name": name})


def test_the_loop_is_plain_sgd():
    model, data = mlp(), batches(2)
    plan = setup(model, data, epochs=2, optimizer=SGD(momentum=0.9), weight_decay=0.01, milestones=(1,))
    trained = fit(plan, State.of(model), 2, entry(), "t")
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for rate in (0.1, 0.01):
        optimizer.param_groups[0]["lr"] = rate
        train_epoch(twin, optimizer, data)
    for name, value in twin.state_dict().items():
        assert torch.allclose(trained.tensors[name], value, atol=1e-6)
    assert (trained.cost.forward, trained.cost.backward, trained.epoch) == (64, 64, 2)


def test_adamw_trains_as_torchs_does():
    model, data = mlp(), batches(2)
    recipe = {"learning_rate": 0.01, "weight_decay": 0.1, "optimizer": AdamW(beta1=0.8, beta2=0.95, epsilon=1e-6)}
    trained = fit(setup(model, data, epochs=1, **recipe), State.of(model), 1, entry(), "t")
    twin = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    train_epoch(twin, optimizer, data)
    for name, value in twin.state_dict().items():
        assert torch.allclose(trained.tensors[name], value, atol=1e-6)


def test_rates_drop_at_milestones():
    recipe = Recipe(epochs=4, learning_rate=1.0, milestones=(1, 3))
    assert [recipe.learning_rate_at(epoch) for epoch in (0, 0.99, 1, 2, 3)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_one_cycle_by_hand():
    recipe = Recipe(epochs=10, learning_rate=2.0, lr_schedule="one-cycle")
    # A 25th, half way up at 1.5 epochs, the peak after 3, half way down at 6.5, a quarter of the cosine at 8.25.
    found = [recipe.learning_rate_at(epoch) for epoch in (0, 1.5, 3, 6.5, 8.25, 10)]
    assert found == pytest.approx([0.08, 1.04, 2.0, 1.0, 1 - math.sqrt(0.5), 0.0])


def test_a_cosine_by_hand():
    recipe = Recipe(epochs=8, learning_rate=2.0, lr_schedule="cosine")
    found = [recipe.learning_rate_at(epoch) for epoch in (0, 2, 4, 8)]
    assert found == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, 0.0])


def test_milestones_stretch_with_the_training():
    recipe = Recipe(epochs=10, milestones=(5, 8))
    assert recipe.stretched(10) == recipe
    assert recipe.stretched(20).milestones == (10, 16)
    # A twentieth of the way is one epoch at least, and two that fall together are one.
    assert recipe.stretched(1).milestones == (1,)
    assert Recipe(epochs=10, lr_schedule="cosine").stretched(20) == Recipe(epochs=20, lr_schedule="cosine")


def test_the_rate_moves_from_step_to_step(monkeypatch):
    rates = []
    original = torch.optim.SGD.step

    def watching(self, closure=None):
        rates.append(self.param_groups[0]["lr"])
        return original(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", watching)
    recipe = {"epochs": 2, "learning_rate": 1.0, "lr_schedule": "one-cycle", "optimizer": "sgd:nesterov=true"}
    model = mlp()
    fit(setup(model, batches(4), **recipe), State.of(model, epoch=1), 2, MemoryStore().entry("a", {}), "training")
    expected = [Recipe(**recipe).learning_rate_at(1 + step / 4) for step in range(4)]
    assert rates == pytest.approx(expected)


@dataclass(frozen=True)
class InGroups:
    """Biases at a rate ten times as high, in a group of their own."""

    rates: list = field(default_factory=list, compare=False)

    def build(self, parameters, learning_rate, weight_decay):
        biases, weights = ([p for p in parameters if (p.dim() < 2) is are] for are in (True, False))
        groups = [{"params": weights}, {"params": biases, "lr": 10 * learning_rate}]
        made = torch.optim.SGD(groups, lr=learning_rate)
        made.register_step_pre_hook(lambda of, *_: self.rates.append([group["lr"] for group in of.param_groups]))
        return made


def test_all_groups_of_parameters_follow_the_schedule():
    asked = InGroups()
    recipe = Recipe(epochs=2, learning_rate=0.1, milestones=(1,), optimizer=asked)
    model = mlp()
    made = TrainingSetup(model, Task(), ListFeed(batches(2)), None, recipe, CPU, 0, Silent())
    fit(made, State.of(model), 2, MemoryStore().entry("train", {}), "training")
    assert asked.rates == [pytest.approx([0.1, 1.0])] * 2 + [pytest.approx([0.01, 0.1])] * 2
    inner = InGroups()
    with_signs = SignIn(inner).build(list(model.parameters()), 0.1, 0.0)
    with_signs.param_groups[0]["lr"] = 0.05
    sum(p.square().sum() for p in model.parameters()).backward()
    with_signs.step()
    assert inner.rates == [pytest.approx([0.05, 0.5])]


def test_labels_are_smoothed_by_hand():
    # Logits ln 3 and 0: probabilities 3/4 and 1/4. A share of 0.2 leaves the label 0.9 and gives the other class 0.1.
    output, batch = torch.tensor([[math.log(3.0), 0.0]]), (None, torch.tensor([0]))
    expected = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert smoothed_cross_entropy(0.2)(output, batch).item() == pytest.approx(expected)
    assert smoothed_cross_entropy(0.0)(output, batch).item() == pytest.approx(-math.log(0.75))


def test_a_tickets_pruned_weights_end_at_zero_and_momentum_never_revives_them():
    model, data = mlp(), batches(2)
    masks = {e.name: torch.rand(e.shape) < 0.5 for e in survey(model).entries if e.prunable}
    trained = fit(setup(model, data), State.of(model), 3, entry(), "t", Ticket(masks))
    for name, mask in masks.items():
        assert (trained.tensors[name][~mask] == 0).all()
        assert (trained.tensors[name][mask] != 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, steps):
    torch.manual_seed(0)
    model, data = TinyConv(), images(2)  # dropout, running statistics
    straight = entry(DiskStore(tmp_path / "a"))
    expected = fit(setup(model, data), State.of(model), 3, straight, "t")
    broken = entry(DiskStore(tmp_path / "b"))
    with pytest.raises(Killed):
        fit(setup(model, data), State.of(model), 3, Dying(broken, steps), "t")
    torch.rand(5)  # the caller's generator must not matter
    resumed = fit(setup(model, data), State.of(model), 3, entry(DiskStore(tmp_path / "b")), "t")
    assert all(torch.equal(resumed.tensors[name], value) for name, value in expected.tensors.items())
    assert broken.rows() == straight.rows()
    assert resumed.cost.forward == expected.cost.forward


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_training_on_data_without_a_length_goes_on_to_the_same_bits(tmp_path, steps):
    model = mlp()

    def plan():
        sized = setup(model, [], lr_schedule="cosine")
        return replace(sized, feed=StreamFeed(Unsized(batches(2))), held_out=ListFeed(batches(1)))

    expected = fit(plan(), State.of(model), 3, entry(DiskStore(tmp_path / "a")), "t")
    broken = entry(DiskStore(tmp_path / "b"))
    with pytest.raises(Killed):
        fit(plan(), State.of(model), 3, Dying(broken, steps), "t")
    resumed = fit(plan(), State.of(model), 3, entry(DiskStore(tmp_path / "b")), "t")
    assert resumed.digest == expected.digest


def test_what_is_trained_on_data_without_a_length_has_a_name_of_its_own():
    sized = setup(mlp(), batches(2))
    unsized = replace(sized, feed=StreamFeed(Unsized(batches(2))))
    known, other = (Trainer(each, State.of(mlp()), MemoryStore(), {}).identity for each in (sized, unsized))
    assert other == {**known, "length": "seen"}


def test_the_callers_generator_is_left_alone():
    model = TinyConv()
    before = torch.get_rng_state()
    fit(setup(model, images()), State.of(model), 1, entry(), "t")
    assert torch.equal(torch.get_rng_state(), before)


def test_one_dense_run_gives_every_epoch(tmp_path):
    model, data = mlp(), batches(2)
    start = State.of(model)
    trainer = Trainer(setup(model, data), start, DiskStore(tmp_path), {})
    assert trainer.dense_at(0) is start
    first, last = trainer.dense_at(1), trainer.dense_at(3)
    middle = trainer.dense_at(2)  # passed already: trained again beside the run
    for epoch, state in ((1, first), (2, middle), (3, last)):
        direct = fit(setup(model, data), start, epoch, entry(), "dense training")
        assert state.digest == direct.digest
        assert state.cost.forward == 32 * epoch
    assert [row["epoch"] for row in trainer.dense_entry().rows()] == [1, 2, 3]
    assert trainer.dense_entry().resume() is None, "a finished training needs no checkpoint"


def test_an_epoch_that_the_dense_run_has_passed_is_trained_beside_it(tmp_path):
    model, data = mlp(), batches(2)
    trainer = Trainer(setup(model, data), State.of(model), DiskStore(tmp_path), {})
    second = trainer.dense_at(2)
    first = trainer.dense_at(1)
    third = trainer.dense_at(3)
    expected = [fit(setup(model, data), State.of(model), e, entry(), "x").digest for e in (1, 2, 3)]
    assert [first.digest, second.digest, third.digest] == expected
    assert [row["epoch"] for row in trainer.dense_entry().rows()] == [1, 2, 3]


def test_a_dense_run_stopped_just_before_its_result_was_kept_is_not_trained_again(tmp_path, monkeypatch):
    model, data = mlp(), batches(2)
    trainer = Trainer(setup(model, data), State.of(model), DiskStore(tmp_path), {})
    expected = trainer.dense_at(2)
    (trainer.dense_entry().directory / "epoch-2.pt").unlink()
    monkeypatch.setattr("tombola.training.loop.Loop.run_epoch", None)
    assert trainer.dense_at(2).digest == expected.digest


def test_the_same_training_is_done_once(tmp_path):
    model, data = mlp(), batches(2)
    trainer = Trainer(setup(model, data), State.of(model), DiskStore(tmp_path), {})
    ticket = Ticket({e.name: torch.ones(e.shape).bool() for e in survey(model).entries if e.prunable})
    first = trainer.fit(ticket, trainer.start)
    assert trainer.fit(ticket, trainer.start).cost.seconds == first.cost.seconds
    assert first.digest == trainer.dense_at(3).digest  # a full ticket is the dense network


def test_a_loss_that_is_not_finite_stops_with_advice():
    model = mlp()
    with pytest.raises(SearchError, match=r"the loss is nan in epoch \d; lower the learning rate"):
        fit(setup(model, batches(4), learning_rate=1e20), State.of(model), 3, entry(), "t")


def test_a_later_batch_that_does_not_fit_is_named_in_one_sentence():
    words, labels = torch.zeros(4, 2).long(), torch.zeros(4).long()
    model = nn.Sequential(nn.Embedding(3, 2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UsageError, match=r"model cannot be run on a batch of the training data.*: IndexError: index"):
        fit(setup(model, [(words, labels), (words + 3, labels)]), State.of(model), 1, entry(), "t")


def test_epochs_beyond_the_recipe_are_refused():
    with pytest.raises(UsageError, match="epoch 4 lies beyond"):
        fit(setup(mlp(), batches()), State.of(mlp()), 4, entry(), "t")


def test_evaluation_weighs_samples_and_keeps_the_mode(conv):
    conv.train()
    data = images(1, size=12) + images(1, size=3, seed=1)
    found = evaluate(conv, Task(), ListFeed(data), CPU)
    plain = load_weights(conv, conv.state_dict()).eval()
    right = sum(int((plain(x).argmax(1) == y).sum()) for x, y in data)
    assert found.metric == pytest.approx(right / 15)
    assert found.samples == 15
    assert conv.training
    assert conv.norm.training


def frozen_norm(kept=True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    model[1].running_mean += 0.5
    if kept:
        model[1].eval()
    return model


def stepping(model, job):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    job.hold(model, optimizer)
    for epoch in job.epochs:
        train_epoch(model, optimizer, job.batches(epoch))


@pytest.mark.parametrize("function", [None, stepping])
def test_layers_that_are_kept_in_eval_mode_stay_so_and_come_back_so(function, capsys):
    model, data = frozen_norm(), batches(2, size=64)
    found = tombola.sparsify(
        model, data, data, density=0.5, finder="random", recipe=Recipe(epochs=2), fit=function, progress=True
    ).model
    assert "as given, these layers stay in eval mode: 1\n" in capsys.readouterr().err
    assert found[1].running_mean.equal(model[1].running_mean)
    assert found[1].num_batches_tracked == 0
    assert [each.training for each in found.modules()] == [each.training for each in model.modules()]
    model.eval()
    found = tombola.sparsify(
        model, data, data, density=0.5, finder="random", recipe=Recipe(epochs=2), fit=function, progress=False
    ).model
    assert found[1].num_batches_tracked == 4, "of a model in eval mode all layers train"
    assert not any(each.training for each in found.modules())


def test_only_trainings_with_layers_that_are_kept_in_eval_mode_are_named_by_that():
    def identity(model):
        return Trainer(setup(model, batches(1)), State.of(model), MemoryStore(), {}).identity

    plain = identity(frozen_norm(kept=False))
    assert "still" not in plain
    assert identity(frozen_norm(kept=False).eval()) == plain
    assert {key for key, value in identity(frozen_norm()).items() if plain.get(key) != value} == {"still"}


class Scaled(nn.Module):
    """Divides by a running size of its inputs that it does not save."""

    def __init__(self, moves=True):
        super().__init__()
        self.moves, self.layer = moves, nn.Linear(6, 3)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("last", None, persistent=False)

    def forward(self, x):
        if self.training and self.moves:
            self.scale.mul_(0.9).add_(0.1 * x.detach().std())
            self.last = x.detach().mean(0)
        return self.layer(x / self.scale)


def test_a_trained_model_has_the_buffers_that_it_was_measured_with():
    data = batches(3, size=64)
    torch.manual_seed(0)
    model = Scaled()
    found = tombola.sparsify(model, data, data, density=0.5, finder="random", recipe=Recipe(epochs=2), progress=False)
    scale = torch.ones(())
    for x, _ in data * 2:
        scale = scale * 0.9 + 0.1 * x.std()
    assert torch.allclose(found.model.scale, scale)
    assert found.model.last.equal(data[-1][0].mean(0))
    assert float(model.scale) == 1
    assert evaluate(found.model, Task(), ListFeed(data), CPU).metric == found.held_out_metric


@pytest.mark.parametrize("steps", [2, 4])
def test_a_training_with_buffers_that_are_not_saved_goes_on_to_the_same_bits(tmp_path, steps):
    torch.manual_seed(0)
    model, data = Scaled(), batches(3, size=64)
    plan = setup(model, data)
    straight = fit(plan, State.of(model), 3, entry(), "t")
    with pytest.raises(Killed):
        fit(plan, State.of(model), 3, Dying(entry(DiskStore(tmp_path)), steps), "t")
    resumed = fit(plan, State.of(model), 3, entry(DiskStore(tmp_path)), "t")
    assert resumed.digest == straight.digest
    assert {"scale", "last"} < straight.tensors.keys()


def test_states_are_state_dicts_where_buffers_beyond_them_stay_as_they_were():
    model, data, where = Scaled(moves=False), batches(1, size=64), entry()
    trained = fit(setup(model, data, epochs=1), State.of(model), 1, where, "t")
    assert trained.tensors.keys() == model.state_dict().keys()
    where = entry()
    fit(setup(mlp(), batches(1), epochs=1), State.of(mlp()), 1, where, "t")
    assert "unsaved" not in where.resume()


def test_weights_in_a_file_may_hold_buffers_that_are_not_saved(tmp_path):
    model, fresh, path = Scaled(), Scaled(), tmp_path / "weights.safetensors"
    model.scale.fill_(3.0)
    write_weights(path, State.of(model, base=fresh).tensors)
    load_into(fresh, read_weights(path), path)
    assert float(fresh.scale) == 3
    with pytest.raises(UsageError, match=r"has in another shape scale"):
        load_into(fresh, {**fresh.state_dict(), "scale": torch.ones(2)}, path)
    with pytest.raises(UsageError, match=r"has no tensor for scale"):
        load_into(fresh, {**fresh.state_dict(), "scale": None}, path)
    assert float(fresh.scale) == 3
