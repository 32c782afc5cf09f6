from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tombola.data import ArrayFeed, Arrays, ListFeed, StreamFeed
from tombola.data.samples import Samples
from tombola.networks.masking import survey
from tombola.networks.task import Task
from tombola.networks.teacher import is_informed, make_teacher
from tombola.storage.store import DiskStore

from .conftest import CPU, batches, images, mlp, train


def teacher(model, feed):
    return make_teacher(model, survey(model).layout, Task(), feed, CPU)


def test_outputs_are_kept_per_sample_for_arrays():
    arrays = Arrays(torch.randint(0, 255, (20, 1, 4, 4), dtype=torch.uint8), torch.zeros(20).long(), (0.5,), (0.2,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    feed = ArrayFeed(arrays, 6, seed=1)
    found = teacher(model, feed)
    assert "kept once per sample" in found.how
    assert found.forward == 20 + 2, "two show that outputs go by sample"
    for item in feed.epoch(3):
        assert torch.allclose(found.output(item, item.batch), model(item.batch[0]), atol=1e-6)
    assert found.forward == 22


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("of_time", [lambda y: y.transpose(0, 1), lambda y: y.flatten(0, 1)])
def test_outputs_without_a_row_for_each_sample_are_recomputed(size, of_time):
    """Four times first, as long as a batch may be."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 2)

        def forward(self, x):
            return of_time(self.lin(x))

    data = TensorDataset(torch.randn(20, 4, 3), torch.zeros(20).long())
    feed = Samples(data).feed(size, 1, "search")
    found = teacher(Recurrent(), feed)
    assert "no row for each sample" in found.how
    item = next(iter(feed.epoch(0)))
    assert torch.equal(found.output(item, item.batch), found.network.dense(item.batch))


def test_outputs_are_kept_per_batch_for_lists():
    model, feed = mlp(), ListFeed(batches(3))
    found = teacher(model, feed)
    for item in feed.epoch(0):
        assert torch.equal(found.output(item, item.batch), model(item.batch[0]))
    assert found.forward == 48


def test_outputs_are_recomputed_for_streams_and_batch_statistics(conv):
    model, loader = mlp(), DataLoader([(torch.randn(6), 1) for _ in range(8)], batch_size=4, shuffle=True)
    feed = StreamFeed(loader)
    found = teacher(model, feed)
    assert found.how.startswith("outputs are recomputed: the data is a stream")
    item = next(iter(feed.epoch(0)))
    assert torch.equal(found.output(item, item.batch), model(item.batch[0]))
    assert found.forward == 4
    conv.norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert "statistics of each batch" in teacher(conv, ListFeed(images())).how


def test_unset_running_statistics_are_estimated_on_a_copy(conv):
    found = teacher(conv, ListFeed(images()))
    assert "were estimated on the data" in found.how
    assert (found.network.model.norm.running_mean != 0).any()
    assert (conv.norm.running_mean == 0).all()
    conv.norm.num_batches_tracked.fill_(1)
    assert "estimated" not in teacher(conv, ListFeed(images())).how


@pytest.mark.parametrize("seed", range(5))
def test_a_trained_network_is_informed_and_a_fresh_one_is_not(seed):
    data = batches(4, size=64, seed=seed)
    model = mlp(seed=seed)

    def informed(order):
        return is_informed(model, survey(model).layout, Task(), ListFeed(order), CPU)

    assert informed(data) is False
    train(model, data, epochs=5)
    assert informed(data) is True
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    order = y.argsort()  # sorted by class
    assert informed(list(zip(x[order].split(64), y[order].split(64), strict=True))) is True


def test_batches_that_do_not_tell_their_targets_tell_nothing():
    task = Task(
        forward=lambda model, batch: {"logits": model(batch.inputs)},
        loss=lambda output, batch: nn.functional.cross_entropy(output["logits"], batch.labels),
        samples=lambda batch: len(batch.labels),
    )
    model, data = mlp(), [SimpleNamespace(inputs=x, labels=y) for x, y in batches()]
    assert is_informed(model, survey(model).layout, task, ListFeed(data), CPU) is None


@pytest.mark.parametrize("kind", ["rows", "list"])
def test_outputs_are_remembered_for_others_and_cost_what_they_cost(tmp_path, kind):
    arrays = Arrays(torch.randint(0, 255, (20, 1, 4, 4), dtype=torch.uint8), torch.zeros(20).long(), (0.5,), (0.2,))
    feed = (
        ArrayFeed(arrays, 6, seed=1)
        if kind == "rows"
        else ListFeed([item.batch for item in ArrayFeed(arrays, 6).epoch(0)])
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    entry = DiskStore(tmp_path).entry("teacher", {})
    first = make_teacher(model, survey(model).layout, Task(), feed, CPU, entry=entry)
    with torch.no_grad():
        model[1].weight.zero_()  # what is remembered is not computed again
    again = make_teacher(model, survey(model).layout, Task(), ArrayFeed(arrays, 6, seed=2) if kind == "rows" else feed,
                         CPU, entry=DiskStore(tmp_path).entry("teacher", {}))  # fmt: skip
    assert again.how == first.how
    assert again.forward == first.forward == (22 if kind == "rows" else 20)
    assert again.seconds > entry.get("outputs")["cost"]["seconds"] > 0
    for item in feed.epoch(3):
        assert torch.equal(again.output(item, item.batch), first.output(item, item.batch))
    assert again.forward == first.forward


def test_outputs_by_running_statistics_are_no_others(conv, tmp_path):
    """The entry is the same, so that a published search must not take what another search stored."""
    feed = ListFeed(images(2))
    entry = DiskStore(tmp_path).entry("teacher", {})
    train(conv, images(2), epochs=2)
    of = (conv.eval(), survey(conv).layout, Task(), feed, CPU, True, entry)
    assert "kept once" in make_teacher(*of).how
    assert "normalises by the statistics of each batch" in make_teacher(*of, by_batch=True).how


def test_outputs_by_the_statistics_of_each_image_are_no_others(tmp_path):
    """InstanceNorm goes by each image alone then, so that these outputs could be kept once, too."""
    model = nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.LazyLinear(3))
    with torch.no_grad():
        model(images(1)[0][0])
    of = (model.eval(), survey(model).layout, Task(), ListFeed(images(2)), CPU, True)
    expected = make_teacher(*of)
    entry = DiskStore(tmp_path).entry("teacher", {})
    batch_first = make_teacher(*of, entry, by_batch=True)
    item = next(iter(ListFeed(images(2)).epoch(0)))
    found = make_teacher(*of, entry).output(item, item.batch)
    assert torch.equal(found, expected.output(item, item.batch))
    assert not torch.equal(found, batch_first.output(item, item.batch))


def test_a_network_without_statistics_shares_its_outputs_with_searches_by_each_batch(tmp_path):
    model, entry = mlp(), DiskStore(tmp_path).entry("teacher", {})
    of = (model, survey(model).layout, Task(), ListFeed(batches()), CPU, True, entry)
    first = make_teacher(*of)
    assert entry.get("outputs") is not None
    with torch.no_grad():
        model[0].weight.zero_()  # what is remembered is not computed again
    item = next(iter(ListFeed(batches()).epoch(0)))
    again = make_teacher(*of, by_batch=True)
    assert torch.equal(again.output(item, item.batch), first.output(item, item.batch))
