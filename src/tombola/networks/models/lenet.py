"""LeNet-300-100, the fully connected network of the lottery ticket papers."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar

from torch import nn

from tombola.core.parts import Part


@dataclass(frozen=True)
class LeNet300100(Part):
    """inputs-300-100-classes with ReLU; weights Kaiming-normal, biases as PyTorch initialises them."""

    name: ClassVar[str] = "lenet-300-100"

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network for inputs of any shape."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (inputs, outputs) in enumerate(pairwise((prod(shape), 300, 100, classes)), start=1):
            linear = nn.Linear(inputs, outputs)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            layers[f"fc{number}"] = linear
            layers[f"relu{number}"] = nn.ReLU()
        layers.popitem()  # no ReLU after the last layer
        return nn.Sequential(layers)
