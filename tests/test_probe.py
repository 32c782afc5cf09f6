"""What does not fit is known before any work, and said in a sentence that names it; later batches too."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import tombola
from tombola import Recipe, Task, UsageError
from tombola.data import Item, ListFeed
from tombola.networks.evaluation import evaluate
from tombola.networks.masking import survey
from tombola.networks.probe import settle
from tombola.networks.runtime import Runtime
from tombola.networks.shares import share_of
from tombola.networks.task.classification import smoothed_cross_entropy

from .conftest import batches, mlp

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")

ARGUMENTS = {"density": 0.5, "progress": False}


def broken(*_):
    raise KeyError("nothing")


def refuses(words, data, task=None, held_out=None, model=None):
    """Both calls refuse before the second run of the model, so before any work."""
    model = model or mlp()
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    held_out = data if held_out is None else held_out
    for call in (
        lambda: tombola.draw(model, data, steps=3, task=task, held_out=held_out, **ARGUMENTS),
        lambda: tombola.sparsify(model, data, held_out, task=task, finder=tombola.Random(), **ARGUMENTS),
    ):
        seen.clear()
        with pytest.raises(UsageError, match=words):
            call()
        assert len(seen) <= 2
    handle.remove()


@pytest.mark.parametrize("name", ["loss", "divergence", "metric", "prediction", "counted", "samples"])
def test_a_part_that_fails_is_named(name):
    refuses(rf"^Task\({name}=\.\.\.\) cannot be used on a batch of the data: KeyError: 'nothing'$", batches(),
            Task(**{name: broken}))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("loss", lambda output, batch: 1.0, "a tensor of one number, got 1.0"),
        ("loss", lambda output, batch: output, r"a tensor of one number, got a tensor of shape \(16, 3\)"),
        ("divergence", lambda output, reference, batch: None, "a tensor of one number, got None"),
        ("metric", lambda output, batch: "good", "one number, got 'good'"),
        ("prediction", lambda output: output.sum(), r"a tensor \(samples, \.\.\.\), got a tensor of shape \(\)"),
        ("samples", lambda batch: 0, "a whole number above 0, got 0"),
        ("samples", lambda batch: 2.5, "a whole number above 0, got 2.5"),
        ("counted", lambda batch: -1, "a whole number that is not negative, got -1"),
    ],
)
def test_what_a_part_returns_is_looked_at(name, value, words):
    refuses(rf"^Task\({name}=\.\.\.\) must return {words}$", batches(), Task(**{name: value}))


def test_parts_meet_the_held_out_data_too():
    x = torch.randn(8, 6)
    refuses("data has the label 7", batches(), held_out=[(x, torch.full((8,), 7))])
    of_pairs = Task(metric=lambda output, batch: batch[1].float()[15] * 0)
    refuses(r"Task\(metric=\.\.\.\).*IndexError", batches(), of_pairs, held_out=[(x, torch.zeros(8).long())])


def test_parts_that_are_not_asked_for_may_be_missing():
    data = [{"x": x, "y": y} for x, y in batches()]
    task = Task(
        forward=lambda model, batch: model(batch["x"]),
        loss=lambda output, batch: nn.functional.cross_entropy(output, batch["y"]),
    )
    assert tombola.draw(mlp(), data, steps=3, task=task, **ARGUMENTS).kept == 36
    with pytest.raises(UsageError, match=r"must be a pair \(inputs, targets\), got dict; give Task\(loss=.*metric="):
        tombola.sparsify(mlp(), data, data, task=task, finder=tombola.Random(), **ARGUMENTS)


@pytest.mark.parametrize("second", [
    (torch.randn(8, 5), torch.zeros(8).long()),
    (torch.randn(8, 6), torch.zeros(7).long()),
    (torch.randn(8, 6), torch.zeros(8, 3).long()),
    (torch.randn(8, 6), torch.zeros(8, 2)),
    (torch.randn(8, 2, 6), torch.zeros(8).long()),
    (torch.randn(8, 6).long(), torch.zeros(8).long()),
    (torch.randn(8, 6), None),
    torch.randn(8, 6),
])  # fmt: skip
def test_a_second_batch_of_another_shape_ends_in_a_sentence(second):
    data = [batches()[0], second]
    recipe, random = Recipe(epochs=2), tombola.Random()
    for given in (data, DataLoader(data, batch_size=None)):
        with pytest.raises(UsageError):
            tombola.draw(mlp(), given, objective="loss", steps=4, **ARGUMENTS)
    for train, held_out in ((data, data[:1]), (data[:1], data)):
        with pytest.raises(UsageError):
            tombola.sparsify(mlp(), train, held_out, finder=random, recipe=recipe, **ARGUMENTS)


@pytest.mark.parametrize("shape", [(8, 5), (8, 2, 6), (6,)])
def test_an_objective_that_looks_at_no_targets_says_so_too(shape):
    data = [batches()[0], (torch.randn(shape), torch.zeros(8).long())]
    with pytest.raises(UsageError, match=r"and one of 2 axes for the first one$|cannot be run on"):
        tombola.draw(mlp(), data, objective="reverse-kl", steps=4, **ARGUMENTS)


@pytest.mark.parametrize(
    "finder", [tombola.finders.SNIP(batches=2), tombola.finders.EdgePopup(3), tombola.finders.GraSP(batches=2)]
)
def test_other_finders_say_so_as_well(finder):
    data = [batches()[0], (torch.randn(8, 5), torch.zeros(8).long())]
    with pytest.raises(UsageError, match="model cannot be run on a batch of the data: RuntimeError: mat1"):
        tombola.draw(mlp(), data, finder=finder, **ARGUMENTS)


def test_the_probe_leaves_the_global_generator_alone_and_knows_half_precision():
    def random_loss(output, batch):
        return nn.functional.cross_entropy(nn.functional.dropout(output), batch[1])

    torch.manual_seed(0)
    before, model = torch.get_rng_state(), nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    torch.set_rng_state(before)
    task, spoilt = settle(
        model, survey(model).layout, Task(loss=random_loss), {"data": ListFeed(batches()), "held_out": None},
        Runtime(torch.device("cpu")),
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    assert not spoilt
    assert isinstance(task, Task)


def test_a_batch_of_one_under_batch_norm_keeps_its_own_sentence():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    data = [*batches(), (torch.randn(1, 6), torch.zeros(1).long())]
    with pytest.raises(UsageError, match="a batch of one sample cannot be normalised by BatchNorm"):
        tombola.draw(model, data, steps=8, objective="loss", **ARGUMENTS)


@pytest.mark.parametrize("given", [None, Task(loss=smoothed_cross_entropy(0.1)), Task.segmentation(ignored=9)])
def test_labels_that_are_no_classes_are_refused_before_they_are_on_a_card(given):
    """There the loss raises nothing: as on the meta device, which stands in for one."""
    card, model = Runtime(torch.device("meta")), nn.Conv2d(6, 3, 1)
    good, bad, ignored = ((torch.randn(2, 6, 4, 4), torch.full((2, 4, 4), label)) for label in (2, 7, 9))
    task, _ = settle(model, survey(model).layout, given, {"data": ListFeed([good])}, card)
    words = "data has the label 7; the model's outputs are 0 to 2"
    with pytest.raises(UsageError, match=words):
        share_of(Item(bad), task, card)
    with pytest.raises(UsageError, match=words):
        evaluate(model.to("meta"), task, ListFeed([bad]), card)
    with pytest.raises(UsageError, match=words):
        settle(model, survey(nn.Conv2d(6, 3, 1)).layout, given, {"data": ListFeed([bad])}, card)
    if given is not None and given.measure.dashed == "pixel-accuracy":
        assert share_of(Item(ignored), task, card).samples == 2


def test_labels_that_nobody_asks_for_are_not_looked_at_on_a_card_either():
    model, card = mlp(), Runtime(torch.device("meta"))
    good, bad = ((torch.randn(4, 6), torch.full((4,), label)) for label in (2, -1))
    for first in (good, bad):
        task, _ = settle(model, survey(model).layout, None, {"data": ListFeed([first])}, card, ("divergence",))
        assert share_of(Item(bad), task, card).samples == 4
    with pytest.raises(UsageError, match="data has the label -1"):
        settle(model, survey(model).layout, None, {"data": ListFeed([bad])}, card)


def test_what_a_card_is_given_need_have_no_labels():
    task = Task(forward=lambda model, batch: model(batch), samples=len)
    model, card = mlp(), Runtime(torch.device("meta"))
    feeds = {"data": ListFeed([torch.randn(4, 6)])}
    settled, _ = settle(model, survey(model).layout, task, feeds, card, ("divergence",))
    assert share_of(Item(torch.randn(4, 6)), settled, card).samples == 4
