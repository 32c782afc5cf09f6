from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tombola
from tests.conftest import images
from tombola.errors import UsageError
from tombola.networks import runtime
from tombola.networks.bf16 import BF16Watch
from tombola.networks.runtime import Runtime

BF16 = Runtime(torch.device("cpu"), "bf16-mixed", "channels-last")


def small_images():
    """A network whose last convolution has a stride of two on one pixel."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "size", "wrong"),
    [
        (nn.Conv1d(16, 32, 3, 2, 1), (1,), True),
        (nn.Conv1d(16, 32, 3, 2, 1), (2,), False),
        (nn.Conv2d(16, 32, 3, 2, 1), (1, 1), True),
        (nn.Conv2d(16, 32, 3, 2, 1), (2, 2), False),
        (nn.Conv2d(16, 32, 3, 1, 1), (1, 1), False),
        (nn.Conv2d(16, 32, 5, 3, 2, bias=False), (2, 4), True),
        (nn.Conv2d(16, 32, 5, 3, 2, bias=False), (3, 4), False),
        (nn.Conv2d(16, 32, 3, (1, 2), 1, groups=4), (4, 1), True),
        (nn.Conv2d(16, 32, 3, (1, 2), 1, groups=4), (1, 4), False),
        (nn.ConvTranspose2d(16, 32, 3, 2, 1), (1, 1), True),
        (nn.ConvTranspose2d(16, 32, 3, 2, 1), (2, 2), False),
        (nn.Conv3d(16, 32, 3, 1, 1), (2, 2, 2), True),
    ],
)
def test_the_watch_notes_convolutions_that_bf16_spoils_and_the_rest_are_right(layer, size, wrong):
    torch.manual_seed(0)
    inputs = torch.randn(8, 16, *size).bfloat16().float()
    for some in (inputs, inputs[0]):
        with BF16Watch() as watch:
            layer(some)
        assert watch.wrong == wrong

    def gradient(half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = layer(inputs)
        return torch.autograd.grad(output.float().sigmoid().sum(), layer.weight)[0]

    if not wrong:
        assert (gradient(True) - gradient(False)).norm() < 0.02 * gradient(False).norm()


def test_the_watch_knows_arguments_by_name():
    images, weight = torch.randn(4, 2, 1, 1), torch.randn(3, 2, 3, 3)
    for stride, wrong in (([2], True), (2, True), ([1], False), (1, False)):
        with BF16Watch() as watch:
            F.conv2d(images, weight, padding=1, stride=stride)
        assert watch.wrong == wrong


def test_only_bf16_on_a_cpu_gives_way():
    assert BF16.with_safe_precision(False, "auto") is BF16
    assert BF16.with_safe_precision(True, "auto") == replace(BF16, precision="32-true")
    with pytest.raises(UsageError, match=r"precision 'bf16-mixed' gives wrong gradients .* use 32-true"):
        BF16.with_safe_precision(True, "bf16-mixed")
    for other in (replace(BF16, precision="32-true"), replace(BF16, device=torch.device("cuda"))):
        assert other.with_safe_precision(True, other.precision) is other


def test_a_network_with_small_images_is_searched_in_float32(monkeypatch):
    monkeypatch.setattr(runtime, "has_bf16_instructions", lambda device: True)
    model, data = small_images(), images()

    def draw(**options):
        return tombola.draw(model, data, density=0.4, finder=tombola.finders.SNIP(), progress=False, **options)

    assert draw() == draw(precision="32-true")
    with pytest.raises(UsageError, match="smaller than its stride"):
        draw(precision="bf16-mixed")
    with pytest.raises(UsageError, match="smaller than its stride"):
        tombola.sparsify(model, data, data, density=0.4, precision="bf16-mixed", progress=False)
