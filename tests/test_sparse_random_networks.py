"""The sparse engine on networks that nobody thought of: layers, branches and masks drawn at random."""

import random

import pytest

pytest.importorskip("numba")

import torch
from torch import nn

from tests.sparse_checks import check, every_layer_sparse, masks_of

__all__ = ["every_layer_sparse"]  # a fixture
pytestmark = pytest.mark.usefixtures("every_layer_sparse")


class Drawn(nn.Module):
    """Up to six operations, each on the value before or on an older one, and a head of two linear layers."""

    def __init__(self, seed):
        super().__init__()
        chance = random.Random(seed)
        self.operations = []
        values = {0: torch.zeros(2, 2, 7, 6)}
        for number in range(1, chance.randint(3, 7)):
            source = chance.choice([max(values), max(values), *values])
            module = self._module(chance, values[source])
            others = [value for value in values if values[value].shape == values[source].shape and value != source]
            if others and chance.random() < 0.4:
                inputs, module = (source, chance.choice(others)), chance.choice([Sum(), Sum(), Joined()])
            else:
                inputs = (source,)
            found = module.eval()(*(values[value] for value in inputs))
            if found.numel():
                self.add_module(str(number), module.train())
                self.operations.append((number, inputs))
                values[number] = found
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(found_features(values), 5), nn.ReLU(), nn.Linear(5, 3))

    @staticmethod
    def _module(chance, value):
        channels, *size = value.shape[1:]
        kind = chance.choice(["conv", "conv", "conv", "norm", "relu", "pool"])
        if kind == "pool" and min(size) > 1:
            return chance.choice([nn.MaxPool2d, nn.AvgPool2d])(2)
        if kind != "conv":
            return nn.BatchNorm2d(channels) if kind == "norm" else nn.ReLU()
        window = [chance.randint(1, min(3, length)) for length in size]
        outputs, groups = chance.choice([2, 4, 6]), chance.choice([1, 1, 2])
        layers = [nn.Conv2d(channels, outputs, window, chance.randint(1, 2), chance.randint(0, 1), 1, groups)]
        layers += [nn.BatchNorm2d(outputs, affine=chance.random() < 0.7)] if chance.random() < 0.5 else []
        return nn.Sequential(*layers, *([nn.ReLU()] if chance.random() < 0.5 else []))

    def forward(self, x):
        values = {0: x}
        for number, inputs in self.operations:
            values[number] = self.get_submodule(str(number))(*(values[value] for value in inputs))
        return self.head(values[max(values)])


class Sum(nn.Module):
    def forward(self, left, right):
        return torch.relu(left + right)


class Joined(nn.Module):
    def forward(self, left, right):
        return torch.cat([left, right], 1)


def found_features(values):
    return values[max(values)].flatten(1).shape[1]


def reaches(model):
    """Whether each layer takes part in the output: the others have no gradient to compare."""
    read = {max((number for number, _ in model.operations), default=0)}
    for number, inputs in reversed(model.operations):
        if number in read:
            read.update(inputs)
    return all(number in read for number, _ in model.operations)


def check_networks(seeds):
    checked = 0
    for seed in seeds:
        torch.manual_seed(seed)
        model = Drawn(seed)
        if reaches(model):
            masks = masks_of(model, random.Random(seed).choice([0.05, 0.2, 0.6]), seed)
            check(model, torch.randn(3, 2, 7, 6), masks)
            checked += 1
    assert checked > len(seeds) / 4


def test_some_networks():
    check_networks(range(12))


@pytest.mark.hard
def test_many_networks():
    check_networks(range(1000, 1400))
