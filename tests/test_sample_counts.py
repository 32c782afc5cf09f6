"""How many samples a batch holds: what targets say, what the task says, or an error that names the field."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tombola
from tombola import Recipe, Task, UsageError
from tombola.core.progress import Silent
from tombola.data import ListFeed
from tombola.networks.evaluation import evaluate
from tombola.networks.masking import survey
from tombola.networks.task import batch_size
from tombola.networks.teacher import is_informed, make_teacher
from tombola.storage.store import MemoryStore
from tombola.training import SGD, State, TrainingSetup, fit

from .conftest import CPU, batches, mlp

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


class Mean(nn.Module):
    """Takes (time, samples, features)."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(x.mean(0))


def sequences(count=4, size=32, time=5):
    """Batches of (time, samples, features) that can be learned; the class is the largest of the mean's features."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        x = torch.randn(time, size, 6, generator=generator)
        found.append((x, x.mean(0)[:, :3].argmax(dim=1)))
    return found


def zeros(count):
    return torch.zeros(count, dtype=torch.long)


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        ((torch.zeros(5, 64, 6), zeros(64)), 64),
        ((torch.zeros(5, 64, 6), zeros(64).tolist()), 64),
        ((torch.zeros(5, 4, 6), ["a", "b", "c", "d"]), 4),
        (([torch.zeros(3, 4), torch.zeros(3, 5)], zeros(2)), 2),
        (([torch.zeros(3, 4), torch.zeros(3, 5)], [{"boxes": torch.zeros(7, 4)}, {"boxes": torch.zeros(1, 4)}]), 2),
        (([torch.zeros(3, 4), torch.zeros(3, 5)], [torch.zeros(7), torch.zeros(7)]), 2),
        ((torch.zeros(6, 2), [torch.zeros(6), torch.zeros(6, 2)]), 6),
        ((torch.zeros(5, 6, 2), {"a": torch.zeros(6), "b": torch.zeros(6, 3)}), 6),
        ((SimpleNamespace(nodes=9), zeros(3)), 3),
        ((torch.zeros(5, 64, 6), torch.zeros(64), zeros(64)), 64),
        ({"x": torch.zeros(5, 64, 6), "labels": zeros(64)}, 64),
        ({"x": torch.zeros(4, 6), "mask": torch.zeros(4)}, 4),
        ((torch.zeros(4, 6), None), 4),
    ],
)
def test_targets_say_how_many_samples_there_are(batch, count):
    assert batch_size(batch) == Task().samples(batch) == Task().counted(batch) == count


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (SimpleNamespace(nodes=9), r"must hold a tensor, got SimpleNamespace.*Task\(samples=\.\.\.\)"),
        ([(torch.zeros(3, 4), 1)] * 5, r"must hold a tensor.*Task\(samples=\.\.\.\)"),
        ([{"image": torch.zeros(3, 4)}] * 5, r"must hold a tensor.*Task\(samples=\.\.\.\)"),
        ([SimpleNamespace(), SimpleNamespace()], r"must hold a tensor.*Task\(samples=\.\.\.\)"),
        ({"x": torch.zeros(5, 4), "edges": torch.zeros(2, 9)}, r"lengths 2, 5.*Task\(samples=\.\.\.\)"),
        ((torch.zeros(0, 4), zeros(0)), "without samples"),
    ],
)
def test_what_cannot_be_counted_names_the_field(batch, words):
    with pytest.raises(UsageError, match=words):
        batch_size(batch)


def test_the_task_says_how_many_and_means_follow():
    task = Task(samples=lambda batch: batch.size)
    assert task.samples(SimpleNamespace(size=7)) == task.counted(SimpleNamespace(size=7)) == 7
    pixels = Task(samples=lambda batch: 2, counted=lambda batch: 9)
    assert (pixels.samples(None), pixels.counted(None)) == (2, 9)
    images = (torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 255))
    assert (Task.segmentation().samples(images), Task.segmentation().counted(images)) == (2, 0)


def test_held_out_means_are_over_samples_whatever_axis_they_lie_on():
    train = [(torch.randn(5, 64, 6), zeros(64))] * 8
    held_out = [(torch.randn(5, 200, 6), zeros(200)), (torch.randn(50, 10, 6), zeros(10) + 1)]
    found = tombola.sparsify(Mean(), train, held_out, density=0.5, finder=tombola.Random(), progress=False)
    assert found.held_out_metric == pytest.approx(200 / 210)
    assert evaluate(found.model, Task(), ListFeed(held_out), CPU).samples == 210


@pytest.mark.parametrize(
    ("finder", "forward"),
    [(tombola.CTS(objective="loss", steps=3), 96), (tombola.finders.SNIP(), 32), (tombola.finders.EdgePopup(3), 96),
     (tombola.CTS(objective="reverse-kl", steps=3), 96 + 128)],
)  # fmt: skip
def test_costs_count_samples(finder, forward):
    ticket = tombola.draw(Mean(), sequences(), density=0.5, finder=finder, progress=False)
    assert ticket.provenance.cost.forward == forward


def test_the_teacher_counts_samples():
    model, feed = Mean(), ListFeed(sequences())
    found = make_teacher(model, survey(model).layout, Task(), feed, CPU)
    assert found.forward == 4 * 32
    found = make_teacher(model, survey(model).layout, Task(), feed, CPU, store_outputs=False)
    item = next(feed.epoch(0))
    found.output(item, item.batch)
    assert found.forward == 32


def trained(model, data, task=None, **recipe):
    setup = TrainingSetup(model, task or Task(), ListFeed(data), None, Recipe(**recipe), CPU, 0, Silent())
    entry = MemoryStore().entry("dense", {})
    return fit(setup, State.of(model), recipe["epochs"], entry, "training"), entry


def test_a_summed_loss_is_the_mean_times_what_it_is_the_mean_over():
    torch.manual_seed(0)
    model, (x, y) = Mean(), sequences(1)[0]
    state, _ = trained(
        model, [(x, y)], epochs=1, learning_rate=0.01, optimizer=SGD(momentum=0.0), weight_decay=0.0, summed=True
    )
    nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
    wanted = model.out.weight - 0.01 * model.out.weight.grad
    assert torch.allclose(state.tensors["out.weight"], wanted, atol=1e-6)
    assert state.cost.forward == 32


def test_a_summed_loss_of_pixels_is_their_sum():
    torch.manual_seed(0)
    model, x, y = nn.Conv2d(1, 3, 1), torch.randn(2, 1, 2, 2), torch.randint(3, (2, 2, 2))
    y[0] = 255
    recipe = {"epochs": 1, "learning_rate": 0.01, "optimizer": SGD(momentum=0.0), "weight_decay": 0.0, "summed": True}
    state, _ = trained(model, [(x, y)], Task.segmentation(), **recipe)
    nn.functional.cross_entropy(model(x), y, reduction="sum", ignore_index=255).backward()
    assert torch.allclose(state.tensors["weight"], model.weight - 0.01 * model.weight.grad, atol=1e-6)
    assert state.cost.forward == 2, "costs count images"


def test_a_row_of_training_metrics_is_a_mean_over_pixels():
    torch.manual_seed(0)
    model, x, y = nn.Conv2d(1, 3, 1), torch.randn(2, 1, 2, 2), torch.randint(3, (2, 2, 2))
    y[0, 0] = 255
    data = list(zip(x.split(1), y.split(1), strict=True))
    _, entry = trained(model, data, Task.segmentation(), epochs=1, learning_rate=1e-9)
    assert entry.rows()[0]["loss"] == pytest.approx(Task.segmentation().loss(model(x), (x, y)).item(), rel=1e-5)


def informed(model, data, task=None):
    return is_informed(model, survey(model).layout, task or Task(), ListFeed(data), CPU)


def learn(model, data, loss, epochs=40):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(epochs):
        for batch in data:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()


@pytest.mark.parametrize("seed", range(3))
def test_networks_of_sequences_are_told_fresh_from_trained(seed):
    torch.manual_seed(seed)
    model, data = Mean(), sequences()
    assert informed(model, data) is False
    assert tombola.draw(model, data, density=0.5, steps=3, progress=False).provenance.finder["objective"] == "loss"
    learn(model, data, lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]))
    assert informed(model, data) is True
    ticket = tombola.draw(model, data, density=0.5, steps=3, progress=False)
    assert ticket.provenance.finder["objective"] == "reverse-kl"


class Tagger(nn.Module):
    """Gives scores for each step, (time, samples, classes), so that rows are none of samples."""

    def __init__(self):
        super().__init__()
        self.out = mlp(hidden=32, seed=torch.initial_seed())

    def forward(self, x):
        return self.out(x)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(32, 32), (32, 20)])
def test_where_rows_are_no_samples_the_targets_of_others_tell(seed, sizes):
    torch.manual_seed(seed)
    inputs = [torch.randn(5, size, 6) for size in sizes]
    data = [(x, x[..., :3].argmax(dim=-1).T.contiguous()) for x in inputs]  # (samples, time)
    task = Task(
        loss=lambda output, batch: nn.functional.cross_entropy(output.permute(1, 2, 0), batch[1]),
        divergence=lambda output, reference, batch: (output - reference).square().mean(),
    )
    model = Tagger()
    assert task.samples(data[0]) == 32
    assert informed(model, data, task) is False
    learn(model, data, lambda model, batch: task.loss(model(batch[0]), batch))
    assert informed(model, data, task) is True


def test_where_nothing_tells_the_objective_is_the_loss_and_that_is_said():
    data = [SimpleNamespace(x=x, y=y) for x, y in batches()]
    task = Task(
        forward=lambda model, batch: {"scores": model(batch.x)},
        loss=lambda output, batch: nn.functional.cross_entropy(output["scores"], batch.y),
        samples=lambda batch: len(batch.y),
    )
    with pytest.warns(tombola.TicketWarning, match="objective: loss, since batches do not tell"):
        ticket = tombola.draw(mlp(), data, density=0.5, steps=3, task=task, progress=False)
    assert ticket.provenance.finder["objective"] == "loss"


def test_batches_without_a_tensor_are_drawn_from_where_their_targets_or_the_task_tell():
    data = [(list(x), y) for x, y in batches()]
    stacked = Task(forward=lambda model, batch: model(torch.stack(batch[0])))
    ticket = tombola.draw(mlp(), data, density=0.5, steps=3, task=stacked, progress=False)
    assert ticket == tombola.draw(mlp(), batches(), density=0.5, steps=3, progress=False)
    graphs = [SimpleNamespace(x=x, y=y) for x, y in batches()]
    parts = {
        "forward": lambda model, batch: model(batch.x),
        "loss": lambda output, batch: nn.functional.cross_entropy(output, batch.y),
        "metric": lambda output, batch: (output.argmax(1) == batch.y).double().mean(),
    }
    with pytest.raises(UsageError, match=r"Task\(samples=\.\.\.\)"):
        tombola.draw(mlp(), graphs, density=0.5, steps=3, task=Task(**parts), progress=False)
    counted = Task(**parts, samples=lambda batch: len(batch.y))
    same = tombola.draw(mlp(), graphs, density=0.5, steps=3, task=counted, progress=False)
    assert same == ticket
    assert same.provenance.cost.forward == ticket.provenance.cost.forward == 3 * 16


def test_a_count_that_the_outputs_contradict_names_the_field():
    data = [{"x": torch.randn(5, 16, 6)}]
    task = Task(
        forward=lambda model, batch: model(batch["x"]), loss=lambda output, batch: output.square().mean(),
        metric=lambda output, batch: 0.0,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"seems to hold 5 samples, and the model gives 16 .*Task\(samples=\.\.\.\)"):
        tombola.draw(Mean(), data, density=0.5, steps=3, task=task, progress=False)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("listed", [False, True])
def test_a_list_of_inputs_is_not_taken_for_inputs_and_targets(size, listed):
    data = [[torch.randn(3, 6) for _ in range(size)]]
    task = Task(
        forward=lambda model, batch: (
            [model(x).mean(0) for x in batch] if listed else torch.stack([model(x).mean(0) for x in batch])
        ),
        loss=lambda output, batch: sum(row.square().mean() for row in output) / len(output),
    )
    with pytest.raises(
        UsageError, match=rf"seems to hold 3 samples, and the model gives {size} .*Task\(samples=\.\.\.\)"
    ):
        tombola.draw(mlp(), data, density=0.5, steps=3, objective="loss", task=task, progress=False)
