"""Small models and data that the tests share."""

import pytest

from tombola import process

process.tune()  # as the command line does, before torch is loaded

import torch
from torch import nn

torch.set_num_threads(2)


class TinyConv(nn.Module):
    """A convolution, BatchNorm, dropout and a linear layer."""

    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 4 * 4, classes)

    def forward(self, x):
        return self.head(self.drop(self.relu(self.norm(self.conv(x)))).flatten(1))


def mlp(inputs=6, hidden=8, classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def batches(count=3, size=16, inputs=6, classes=3, seed=0):
    """Batches of a task that can be learned: the class is the largest of the first inputs."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        x = torch.randn(size, inputs, generator=generator)
        found.append((x, x[:, :classes].argmax(dim=1)))
    return found


def images(count=2, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 4, 4, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def train(model, data, epochs=30):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def at(name, folder, **options):
    """A source of data with its folder, as keys and values."""
    return {"name": name, "data_dir": str(folder), **options}


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return TinyConv()
