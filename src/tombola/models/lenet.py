"""LeNet-300-100, the fully connected network of the lottery ticket papers."""

from math import prod

from torch import nn


def lenet_300_100(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return inputs-300-100-classes with ReLU; weights Kaiming-normal, biases as PyTorch initialises them."""
    widths = (prod(shape), 300, 100, classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for wide_in, wide_out in zip(widths, widths[1:], strict=False):
        linear = nn.Linear(wide_in, wide_out)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
