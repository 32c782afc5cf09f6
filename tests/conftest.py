"""Small models and data that the tests share, and what they do with them."""

import itertools
import json
import os
import sys
from contextlib import contextmanager

import pytest

from tombola import process

process.tune()  # as the command line does, before torch is loaded
# One thread each, also of processes that tests start: several wait for each other more than they work where tests run
# side by side. A test that is about threads says how many.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from hypothesis import settings
from torch import nn

from tombola.cli.main import main
from tombola.core.flat import Layout
from tombola.core.progress import Silent
from tombola.finders import draw as draw_ticket
from tombola.networks.masking import survey
from tombola.networks.network import FrozenNetwork
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task
from tombola.storage.store import DiskEntry, DiskStore

from .commands import commands

torch.set_num_threads(1)
# No test turns the machine off, and to wait for its disk is a tenth of all that tests do.
os.fsync = lambda file: None
# How long an example takes says what else the machine does.
settings.register_profile("tombola", deadline=None)
settings.load_profile("tombola")

CPU = Runtime(torch.device("cpu"))


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
        train_epoch(model, optimizer, data)
    return model


def train_epoch(model, optimizer, data):
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def frozen(model):
    return FrozenNetwork(model, survey(model).layout, Task(), CPU)


def layout(*shapes):
    return Layout(tuple(f"{number}.weight" for number in range(len(shapes))), shapes)


class Unsized:
    """Batches that do not say how many they are; later: those of the epochs from the second on, where they differ."""

    def __init__(self, given, later=None):
        self._epochs = itertools.chain([given], itertools.repeat(given if later is None else later))

    def __iter__(self):
        return iter(next(self._epochs))


@contextmanager
def default_dtype(dtype):
    """Let torch make tensors of a type where none is named."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def draw(finder, of, density=0.3):
    return draw_ticket(finder, of, density).ticket


class Killed(BaseException):
    """An end that no code may take for an error of its own."""


class Dying:
    """An entry that checkpoints at every step and dies after some of them."""

    def __init__(self, inner, steps):
        self._inner, self._left = inner, steps

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def due(self):
        return True

    def checkpoint(self, state):
        self._inner.checkpoint(state)
        self._left -= 1
        if not self._left:
            raise Killed


class DyingStore(DiskStore):
    """A store on disk whose entries die after so many checkpoints."""

    def __init__(self, root, steps):
        super().__init__(root)
        self._steps = steps

    def entry(self, kind, identity):
        return Dying(super().entry(kind, identity), self._steps)


class Listening(Silent):
    """Shows nothing, and keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@contextmanager
def dying(after, kind=""):
    """Die after so many checkpoints on disk, of entries whose names begin with `kind`."""
    original, made = DiskEntry.checkpoint, 0

    def checkpoint(entry, state):
        nonlocal made
        original(entry, state)
        made += entry.directory.name.startswith(kind)
        if made == after:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiskEntry, "checkpoint", checkpoint)
        yield


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def at(name, folder, **options):
    """A source of data with its folder, as keys and values."""
    return {"name": name, "data_dir": str(folder), **options}


def command(capsys, *arguments):
    """Run the command line in this process; return its status, standard output and standard error."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # --help and --print-config
        status = stop.code or 0
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def as_json(capsys, *arguments):
    """Return what a command that must succeed prints with --json."""
    status, out, err = command(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


@pytest.fixture(scope="session")
def tombola_in_bash(tmp_path_factory):
    """What defines `tombola` for a script in bash."""
    with commands(tmp_path_factory.mktemp("commands")) as defined:
        yield defined


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Writes modules of the user's own, which can be imported until the test ends; returns their folder."""
    names = []

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        names.append(name)
        return tmp_path

    yield write
    for name in names:
        sys.modules.pop(name, None)


# A module of the user's own, and the options of a short run with it.
BROUGHT = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, classes))

def numbers(count, seed):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x[:, :3].argmax(dim=1))

def datasets():
    return numbers(200, 0), numbers(60, 1)

def train(model, job):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    job.hold(model, optimizer)
    for epoch in job.epochs:
        for x, y in job.batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
"""
OWN = ["--model", "brought:build", "--data", "brought:datasets", "--epochs", "4", "--rewind-to", "1", "--steps", "60",
       "--density", "0.3", "--threads", "1", "--batch-size", "20"]  # fmt: skip


@pytest.fixture
def brought(bring):
    return bring("brought", BROUGHT)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of decoded images, which is the test's own."""
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return TinyConv()
