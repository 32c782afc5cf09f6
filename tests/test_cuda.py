"""What a CUDA device is to show, by `pytest -m cuda` where there is one; what a CPU can show too, it does."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import tombola
from benchmarks.cases import REVERSE_KL, Case
from tombola import Recipe, Task, UsageError, draw
from tombola.core.progress import Silent
from tombola.core.ranking import count_kept
from tombola.data import AUGMENTATIONS, Arrays, FlipCrop, ListFeed, on_device
from tombola.finders import FINDERS
from tombola.finders.origins import redrawn
from tombola.networks.models import build
from tombola.networks.runtime import Runtime
from tombola.storage.store import DiskStore, MemoryStore
from tombola.training import State, TrainingSetup, fit

from .conftest import Dying, Killed, TinyConv, batches, mlp, train

CUDA = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
# Searches of a few steps say that they were short.
pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def on_cuda(test):
    for mark in CUDA:
        test = mark(test)
    return test


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request):
    return request.param


def images(count, size=64):
    """Images whose class is the brightest of three stripes."""
    found, generator = [], torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(size, 3, 16, 16, generator=generator)
        found.append((x, x[:, 0].unflatten(1, (4, 4)).mean(dim=(2, 3))[:, :3].argmax(dim=1)))
    return found


@on_cuda
def test_tickets_are_as_good_as_on_the_cpu():
    model, data = train(mlp(hidden=64), batches(8, size=64), epochs=20), batches(8, size=64)
    outcomes = []
    for device in ("cpu", "cuda"):
        ticket = draw(model.to(device), data, density=0.2, steps=600, objective="reverse-kl", progress=False)
        assert ticket.kept == count_kept(0.2, ticket.prunable)
        outcomes.append(ticket.provenance.objective["hard"])
    assert outcomes[1] == pytest.approx(outcomes[0], rel=0.3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["lenet-300-100", "resnet20-w8"])
def test_a_draw_and_a_training_are_repeatable_to_the_bit(device, name, precision):
    model, data = build(name, (3, 16, 16), 3).to(device), images(2, size=6)
    outcomes = [
        tombola.sparsify(
            model, data, data, density=0.2, finder=tombola.CTS(steps=5), recipe=Recipe(epochs=2), precision=precision,
            progress=False,
        )
        for _ in range(2)
    ]  # fmt: skip
    (first, ticket), (again, same) = outcomes
    assert ticket == same
    assert ticket.kept == count_kept(0.2, ticket.prunable)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    assert next(model.parameters()).device.type == next(first.parameters()).device.type == device


@on_cuda
def test_convolutional_networks_run_in_bf16():
    assert Runtime.choose(build("resnet20", (3, 16, 16), 3), "cuda").precision == "bf16-mixed"


@on_cuda
def test_bf16_finds_what_float32_finds():
    torch.manual_seed(0)
    data = images(8)
    model, _ = tombola.sparsify(
        build("resnet20-w8", (3, 16, 16), 3).cuda(), data, data, density=0.5, finder=tombola.Random(),
        recipe=Recipe(epochs=3), progress=False,
    )  # fmt: skip
    values = [
        draw(model, data, density=0.2, steps=300, objective="reverse-kl", precision=precision, progress=False)
        .provenance.objective["hard"]
        for precision in ("32-true", "bf16-mixed")
    ]  # fmt: skip
    assert values[1] == pytest.approx(values[0], rel=0.5)


@on_cuda
def test_a_search_needs_little_more_memory_than_training():
    case = Case.make("resnet20", (3, 32, 32), 10, 128, 2, device="cuda")

    def peak(work):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before

    dense = peak(lambda: case.training().take(3))
    assert peak(lambda: case.search(REVERSE_KL).take(3)) <= 1.1 * dense + 6 * 4 * 291_376


def test_a_ticket_drawn_on_the_cpu_holds_elsewhere(device):
    model, data = mlp(), batches()
    ticket = draw(model, data, density=0.3, steps=20, progress=False)
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with ticket.attach(model, optimizer):
        nn.functional.cross_entropy(model(data[0][0].to(device)), data[0][1].to(device)).backward()
        optimizer.step()
    assert (model[0].weight.cpu()[~ticket["0.weight"]] == 0).all()
    there = ticket.paths(model, data[0][0].to(device))
    assert there == ticket.paths(model.cpu(), data[0][0])


@on_cuda
def test_the_mask_follows_a_model_that_moves():
    model, ticket = mlp(), draw(mlp(), batches(), density=0.3, finder="random", progress=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    with ticket.attach(model, optimizer):
        for device in ("cuda", "cpu"):
            model.to(device)
            optimizer.zero_grad()
            model(torch.ones(2, 6, device=device)).sum().backward()
            optimizer.step()
            assert (model[0].weight.cpu()[~ticket["0.weight"]] == 0).all()
        model.cuda()


@on_cuda
def test_signs_are_drawn_from_the_seed_and_leave_the_cards_generator_alone():
    model, before = mlp().cuda(), torch.cuda.get_rng_state()
    first, again = (redrawn(model, 0)[0].weight for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.cuda.get_rng_state())


@on_cuda
@pytest.mark.parametrize("finder", ["grasp", "hutchinson"])
def test_recurrent_networks_are_differentiated_twice(finder):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.layer(x)[0][:, -1])

    data = [(torch.randn(8, 6, 4), torch.arange(8) % 3)]
    assert draw(Last().cuda(), data, density=0.5, finder=finder, progress=False).density == pytest.approx(0.5, abs=0.01)


@on_cuda
def test_a_wrong_label_is_a_sentence_and_the_card_works_on():
    good, (x, _) = batches(3), batches(1)[0]
    with pytest.raises(UsageError, match="data has the label 7; the model's outputs are 0 to 2"):
        draw(
            mlp().cuda(), [*good, (x, torch.full((len(x),), 7))], density=0.5, steps=8, objective="loss", progress=False
        )
    assert float(torch.ones(2, device="cuda").sum()) == 2


@on_cuda
def test_a_network_on_a_card_is_accelerated_to_itself():
    pytest.importorskip("numba")
    model = mlp().cuda()
    ticket = draw(model, batches(), density=0.3, finder="random", progress=False)
    fast, x = ticket.accelerate(model), torch.ones(2, 6, device="cuda")
    with pytest.warns(tombola.TicketWarning, match="runs dense"):
        assert torch.equal(fast(x), fast.dense()(x))


@on_cuda
@pytest.mark.parametrize("finder", ["random", "cts:steps=20", "rigl", "hutchinson"])
def test_the_card_may_be_torchs_default_device(finder):
    model, data = mlp().cuda(), batches(8, size=64)
    options = {"density": 0.4, "finder": finder, "recipe": Recipe(epochs=3), "rewind_to": 1, "progress": False}
    expected = tombola.sparsify(model, data, data, **options).ticket
    with torch.device("cuda"):
        assert tombola.sparsify(model, data, data, **options).ticket == expected


@pytest.mark.parametrize("name", list(FINDERS))
def test_sparsify_with_every_finder(device, name):
    data = batches(8, size=64)
    short = {"steps": 20} if name in {"cts", "edge-popup", "gem-miner"} else {}
    finder = replace(FINDERS.known[name], **short)
    sparse, ticket = tombola.sparsify(
        mlp().to(device), data, data, density=0.4, finder=finder, recipe=Recipe(epochs=3),
        rewind_to=0 if name == "imp" else 1, progress=False,
    )  # fmt: skip
    assert next(sparse.parameters()).device.type == device
    assert ticket.kept == count_kept(0.4, ticket.prunable)


def test_a_training_goes_on_to_the_same_bits(device, tmp_path):
    """Dropout draws from the generator of the device."""
    runtime = Runtime(torch.device(device))

    def trained(where):
        of = TrainingSetup(
            TinyConv(), Task(), ListFeed(data), None, Recipe(epochs=2, learning_rate=0.1), runtime, 0, Silent()
        )
        return fit(of, start, 2, where, "t")

    torch.manual_seed(0)
    start, data = State.of(TinyConv()), [(x[:, :1, :4, :4], y) for x, y in images(3, size=16)]
    expected = trained(MemoryStore().entry("train", {}))
    with pytest.raises(Killed):
        trained(Dying(DiskStore(tmp_path).entry("train", {}), 4))
    assert trained(DiskStore(tmp_path).entry("train", {})).digest == expected.digest


@pytest.mark.parametrize("augmentation", [None, FlipCrop(), FlipCrop(padding=0)])
def test_images_in_memory_are_the_same_batches_on_every_device(device, augmentation):
    raw = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    arrays = Arrays(raw, torch.arange(40), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    feed = arrays.feed(16, 0, "training", augmentation=augmentation)
    found = list(on_device(feed, torch.device(device)).epoch(3, 1))
    assert len(found) == 2
    for item, there in zip(feed.epoch(3, 1), found, strict=True):
        assert torch.equal(item.key, there.key)
        for expected, tensor in zip(item.batch, there.batch, strict=True):
            assert tensor.device.type == device
            assert torch.equal(expected, tensor.cpu())


def test_images_that_are_many_or_change_one_by_one_stay_in_memory(monkeypatch):
    where = torch.device("meta")
    images = Arrays(
        torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), (0.5,) * 3, (1.0,) * 3
    )
    assert on_device(images.feed(2, 0, "training"), where).samples.inputs.device == where
    one_by_one = images.feed(2, 0, "training", augmentation=AUGMENTATIONS["resized-crop"])
    assert on_device(one_by_one, where) is one_by_one
    monkeypatch.setattr("tombola.data.arrays.LARGEST_ON_DEVICE", 767)
    feed = images.feed(2, 0, "training")
    assert on_device(feed, where) is feed
    batches = [(torch.zeros(2), torch.zeros(2))]
    assert on_device(held := ListFeed(batches), where) is held
