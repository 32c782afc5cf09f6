"""What only a CUDA device can show; `pytest -m cuda` on a machine with one, skipped elsewhere."""

import pytest
import torch
from torch import nn

import tombola
from benchmarks.cases import REVERSE_KL, Case
from tombola import Recipe, draw
from tombola.models import build
from tombola.ranking import count_kept
from tombola.runtime import Runtime

from .conftest import batches, mlp, train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def images(count, size=64):
    """Images whose class is the brightest of three stripes."""
    found, generator = [], torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(size, 3, 16, 16, generator=generator)
        found.append((x, x[:, 0].unflatten(1, (4, 4)).mean(dim=(2, 3))[:, :3].argmax(dim=1)))
    return found


def test_tickets_are_as_good_as_on_the_cpu():
    model, data = train(mlp(hidden=64), batches(8, size=64), epochs=20), batches(8, size=64)
    outcomes = []
    for device in ("cpu", "cuda"):
        ticket = draw(model.to(device), data, density=0.2, steps=600, objective="reverse-kl", progress=False)
        assert ticket.kept == count_kept(0.2, ticket.prunable)
        outcomes.append(ticket.provenance.objective["hard"])
    assert outcomes[1] == pytest.approx(outcomes[0], rel=0.3)


def test_a_draw_is_repeatable_to_the_bit():
    model, data = mlp().cuda(), batches()
    first, again = (draw(model, data, density=0.3, steps=50, progress=False) for _ in range(2))
    assert first == again
    assert next(model.parameters()).is_cuda


def test_a_convolutional_draw_is_nearly_repeatable_and_runs_in_bf16():
    model, data = build("resnet20", (3, 16, 16), 3).cuda(), images(2)
    assert Runtime.choose(model, "cuda").precision == "bf16-mixed"
    first, again = (draw(model, data, density=0.05, steps=10, progress=False) for _ in range(2))
    assert first.kept == count_kept(0.05, first.prunable)
    assert first.overlap(again) > 0.9, "convolutions may add in another order"


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


def test_a_search_needs_little_more_memory_than_training():
    case = Case.make("resnet20", (3, 32, 32), 10, 128, 2, device="cuda")

    def peak(work):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before

    dense = peak(lambda: case.train(3))
    assert peak(lambda: case.search(REVERSE_KL).take(3)) <= 1.1 * dense + 6 * 4 * 291_376


def test_a_ticket_drawn_on_the_cpu_holds_on_cuda():
    model, data = mlp(), batches()
    ticket = draw(model, data, progress=False)
    model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with ticket.attach(model, optimizer):
        nn.functional.cross_entropy(model(data[0][0].cuda()), data[0][1].cuda()).backward()
        optimizer.step()
    assert (model[0].weight.cpu()[~ticket["0.weight"]] == 0).all()


@pytest.mark.parametrize(
    "finder", [tombola.CTS(steps=50), tombola.finders.Joint(), tombola.finders.EdgePopup(steps=20)]
)
def test_sparsify_on_cuda(finder):
    data = batches(8, size=64)
    sparse, ticket = tombola.sparsify(mlp().cuda(), data, data, density=0.4, finder=finder, progress=False)
    assert next(sparse.parameters()).is_cuda
    assert ticket.kept == count_kept(0.4, ticket.prunable)
