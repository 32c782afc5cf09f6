import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.core import double_backward
from tombola.core.double_backward import batch_norm, convolution, twice_differentiable
from tombola.core.double_backward.convolution import Shape
from tombola.core.seeds import _repeatable_convolutions

SHAPES = [Shape((1, 1), (1, 1), (1, 1), 1), Shape((2, 1), (0, 2), (1, 2), 1), Shape((2, 2), (1, 0), (1, 1), 2)]


def leaves(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    inputs = 3 * torch.randn(shape, dtype=dtype) + 2
    return [
        tensor.requires_grad_()
        for tensor in (inputs, torch.randn(shape[1], dtype=dtype), torch.randn(shape[1], dtype=dtype))
    ]


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (3, 2, 3, 2), (2, 2, 2, 1, 2)])
def test_gradients_and_theirs_are_those_of_finite_differences(shape):
    def run(*tensors: Tensor) -> Tensor:
        return batch_norm(*tensors, 1e-3)

    assert torch.autograd.gradcheck(run, leaves(shape))
    assert torch.autograd.gradgradcheck(run, leaves(shape))


def derivatives(normalise, tensors: list[Tensor]) -> list[Tensor]:
    output = normalise(*tensors)
    first = torch.autograd.grad((output.float() ** 3).sum(), tensors, create_graph=True)
    return [output, *first, *torch.autograd.grad(sum(tensor.float().square().sum() for tensor in first), tensors)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_torchs_to_the_bit_and_second_ones_nearly(memory_format):
    inputs, weight, bias = leaves((6, 4, 5, 5), torch.float32)
    tensors = [inputs.detach().to(memory_format=memory_format).requires_grad_(), weight, bias]
    ours = derivatives(lambda x, w, b: batch_norm(x, w, b, 1e-5), tensors)
    torchs = derivatives(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), tensors)
    for one, other in zip(ours[:4], torchs[:4], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(ours[4:], torchs[4:], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


def test_half_precision_keeps_its_types():
    inputs, weight, bias = leaves((8, 3, 4, 4), torch.float32)
    tensors = [inputs.detach().bfloat16().requires_grad_(), weight, bias]
    found = derivatives(lambda x, w, b: batch_norm(x, w, b, 1e-5), tensors)
    wide = derivatives(lambda x, w, b: batch_norm(x, w, b, 1e-5), [inputs, weight, bias])
    assert [tensor.dtype for tensor in found[4:]] == [torch.bfloat16, torch.float32, torch.float32]
    for one, other in zip(found[4:], wide[4:], strict=True):
        assert float((one - other).norm() / other.norm()) < 0.05


def filters(shape: Shape, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    sizes = ((3, 4, 6, 5), (2, 4 // shape.groups, 3, 2), (2,))
    return [torch.randn(size, dtype=dtype).requires_grad_() for size in sizes]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolutions_gradients_and_theirs_are_those_of_finite_differences(shape):
    def run(*tensors: Tensor) -> Tensor:
        return convolution(*tensors, shape)

    def plain(inputs: Tensor, weight: Tensor) -> Tensor:
        return convolution(inputs, weight, None, shape)

    assert torch.autograd.gradcheck(run, filters(shape))
    assert torch.autograd.gradgradcheck(run, filters(shape))
    assert torch.autograd.gradgradcheck(plain, filters(shape)[:2])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_layers_images_ask_for_no_gradient(shape):
    images, weight, bias = filters(shape)
    images = images.detach()
    assert torch.autograd.gradgradcheck(lambda w, b: convolution(images, w, b, shape), (weight, bias))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_torchs_to_the_bit(memory_format):
    images, weight, bias = filters(SHAPES[0], torch.float32)
    tensors = [images.detach().to(memory_format=memory_format).requires_grad_(), weight, bias]
    ours = derivatives(lambda x, w, b: convolution(x, w, b, SHAPES[0]), tensors)
    torchs = derivatives(lambda x, w, b: F.conv2d(x, w, b, padding=1), tensors)
    for one, other in zip(ours[:4], torchs[:4], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(ours[4:], torchs[4:], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


class Small(nn.Module):
    """Every kind of convolution, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.Tanh(),
            nn.Conv2d(4, 4, 3, stride=2, groups=2),
            nn.Conv2d(4, 3, 2, padding="same", padding_mode="circular"),
            nn.Conv2d(3, 3, 1, padding="valid"),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs).square().sum()


@pytest.mark.parametrize("half", [False, True])
def test_a_network_has_the_same_second_gradients(half):
    torch.manual_seed(0)
    network, images = Small(), torch.randn(5, 2, 7, 7)

    first = network.layers[0]

    def second() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = network(images)
            assert first(images).dtype == (torch.bfloat16 if half else torch.float32)
        gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in gradients), list(network.parameters())))

    with twice_differentiable():
        ours = second()
    for one, other in zip(ours, second(), strict=True):
        assert one.dtype == other.dtype
        assert float((one - other).norm() / other.norm()) < (0.1 if half else 1e-4)


class Calls(nn.Module):
    """Notes which normalisation ran."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, inputs: Tensor) -> str:
        return type(self.norm(inputs).grad_fn).__name__


def test_it_stands_in_for_batch_statistics_alone():
    inputs = torch.randn(4, 3, 2, 2, requires_grad=True)
    norm, running = nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval()
    norm.running_mean = norm.running_var = None
    for module, replaced in (
        (norm, True),
        (running, False),
        (nn.BatchNorm2d(3), False),
        (nn.BatchNorm2d(3, affine=False, track_running_stats=False), False),
        (nn.GroupNorm(1, 3), False),
    ):
        with twice_differentiable():
            name = Calls(module)(inputs)
        assert (name == "_ForwardBackward") == replaced, module
        assert Calls(module)(inputs) != "_ForwardBackward"


def test_attention_can_be_differentiated_twice():
    inputs = torch.randn(2, 5, 8, requires_grad=True)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with twice_differentiable():
        output = attention(inputs, inputs, inputs)[0]
    (gradient,) = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), inputs)[0].isfinite().all()


def test_one_value_a_channel_is_refused_as_by_torch():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_norm(*leaves((1, 3)), 1e-5)


def test_recurrent_layers_do_without_cudnn_also_where_convolutions_have_a_precision_of_their_own(monkeypatch):
    """As on a card inside `seeded`, where torch cannot say whether cuDNN as a whole uses TF32."""
    layer, inputs, seen, cudnn = nn.GRU(3, 2), torch.randn(4, 1, 3), [], torch.backends.cudnn
    enabled, run = cudnn.enabled, double_backward._without_cudnn(lambda _: seen.append(cudnn.enabled))
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda _: True))
    with _repeatable_convolutions(torch.device("cuda")), twice_differentiable():
        run(inputs)
        assert layer(inputs)[0].shape == (4, 1, 2)
        assert cudnn.enabled == enabled
    assert seen == [False]
