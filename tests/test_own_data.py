"""Datasets of the user's own, by MODULE:FUNCTION."""

import warnings

import pytest
import torch

from tombola.cli.main import main
from tombola.core.seeds import seeded
from tombola.data import Normalisation, load
from tombola.data.sources import DATASETS
from tombola.data.sources.own import Own
from tombola.errors import TicketWarning, UsageError
from tombola.storage.identity import digest, digest_tensors

from .conftest import BROUGHT, at

MODULE = """
import random

import numpy as np
from torch.utils.data import Dataset

def three(data_dir):
    assert data_dir is None
    return numbers(200, 0), numbers(40, 2), numbers(60, 1)

class Labelled(Dataset):
    def __init__(self, label):
        self.label = label
    def __len__(self):
        return 5
    def __getitem__(self, row):
        return torch.zeros(6), self.label

def one():
    return numbers(5, 0)

def halves():
    return Labelled(0), Labelled(0.5)

def strange():
    return Labelled(0), Labelled(3)

def unseen():
    return Labelled(0), Labelled(3), Labelled(0)

def words():
    return Labelled("cat"), Labelled("cat")

def nameless():
    return Labelled(0), Labelled(None)

def shuffled():
    whole = numbers(60, 0)
    order = np.random.permutation(40)
    parts = torch.utils.data.random_split(whole, [40, 20])
    return TensorDataset(*parts[0][:][:1], torch.tensor(order)), parts[1]

def huge():
    return Labelled(0), Labelled(2**70)

def there(data_dir):
    assert (data_dir / "brought.py").is_file()
    return datasets()

def lists():
    return [(torch.zeros(5, 6), torch.zeros(5).long())], [(torch.zeros(5, 6), torch.zeros(5).long())]

def one_hot():
    return Labelled(torch.eye(3).long()[0]), Labelled(0)

class Drawn(Labelled):
    def __init__(self, draw):
        super().__init__(0)
        self.draw = draw
    def __getitem__(self, row):
        return torch.as_tensor(self.draw()), self.label

def all_of(draw):
    return Drawn(draw), Drawn(draw)

def deterministic():
    return all_of(lambda: 1.0)

def drawn():
    return all_of(lambda: torch.rand(3) + np.random.rand() + random.random())

def of_numpys():
    return all_of(np.random.default_rng(3).random)

def of_torchs():
    generator = torch.Generator().manual_seed(3)
    return all_of(lambda: torch.rand(3, generator=generator))

def pictures():
    return [("image", 0)], [("image", 0)]
"""


@pytest.fixture
def module(bring):
    return bring("brought", BROUGHT + MODULE)


def test_datasets_of_ones_own(module):
    splits = load("brought:datasets", 0.1)
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (180, 20, 60)
    assert (splits.classes, splits.shape) == (3, (6,))
    assert splits.fingerprint == load("brought:datasets").fingerprint
    assert len(load("brought:three", 0.1).held_out) == 40
    assert load("brought:datasets", 0.0).held_out is None
    rows = {tuple(x.tolist()) for part in (splits.train, splits.held_out) for x, _ in part.dataset}
    assert len(rows) == 200
    feed = splits.train.feed(50, 0, "training")
    assert [len(item.batch[1]) for item in feed.epoch(0)] == [50, 50, 50, 30]
    assert torch.equal(next(feed.epoch(3, 2)).batch[0], list(feed.epoch(3))[2].batch[0])


def test_datasets_that_are_split_by_chance_are_split_alike_every_time(module):
    torch.manual_seed(1)
    first = load("brought:shuffled", 0.1)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = load("brought:shuffled", 0.1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint == again.fingerprint
    assert list(first.test.dataset.indices) == list(again.test.dataset.indices)
    assert torch.equal(first.train.labels, again.train.labels)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one", r"must return \(train, test\) or \(train, held_out, test\)"),
        ("halves", r"test: sample 0 has the label 0\.5; labels must be whole numbers from 0 on"),
        ("strange", "data: test has the label 3; the classes of train are 0 to 0"),
        ("unseen", "data: held-out has the label 3; the classes of train are 0 to 0"),
        ("huge", r"test: sample 0 has the label 1180591620717411303424; labels must be whole numbers from 0 on"),
        ("words", "train: sample 0 has the label 'cat'; labels must be whole numbers from 0 on"),
        ("nameless", "test: sample 0 has the label None; labels must be whole numbers from 0 on"),
        ("lists", r"train: sample 0 has the label of shape \[5\]; single samples .* wanted, .* looks like batches$"),
        ("one_hot", r"train: sample 0 has the label of shape \[3\]; labels must be whole numbers from 0 on$"),
        ("pictures", r"train: a sample must be a pair \(input tensor, label\), got tuple"),
        ("nothing", "cannot be imported"),
    ],
)
def test_datasets_that_cannot_be_used(module, function, message):
    with pytest.raises(UsageError, match=message):
        load(f"brought:{function}", 0.1)


@pytest.mark.parametrize("function", ["drawn", "deterministic"])
def test_samples_that_can_be_read_again_are_not_warned_of(module, function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(f"brought:{function}", 0.0).fingerprint == load(f"brought:{function}", 0.0).fingerprint


def test_fingerprints_are_what_they_were_before_samples_were_read_twice(module):
    splits = load("brought:drawn", 0.0)
    with seeded(0, "fingerprint"):
        tensors = {
            f"{row}.{part}": torch.as_tensor(v) for row in range(5) for part, v in enumerate(splits.test.read(row))
        }
    known = digest_tensors(tensors | {"labels": torch.zeros(5).long()})
    assert splits.test.fingerprint == digest([splits.test.code, 5, known])


@pytest.mark.parametrize("function", ["of_numpys", "of_torchs"])
def test_samples_from_a_generator_of_their_own_are_warned_of(module, function):
    words = "data: the samples are others when they are read again.*draw what is random in them from torch's, numpy's"
    with pytest.warns(TicketWarning, match=words):
        assert load(f"brought:{function}", 0.0).fingerprint


def test_what_is_only_for_datasets_with_a_name(module, capsys):
    with pytest.raises(UsageError, match="mean is for the datasets with a name"):
        load("brought:datasets", normalisation=Normalisation((0.5,), (0.5,)))
    with pytest.raises(UsageError, match="image_size is for the datasets with a name"):
        load("brought:datasets", image_size=8)
    assert main(["run", "--data", "brought:datasets", "--augmentation", "flip", "--out", str(module / "o")]) == 2
    assert "--augmentation is for the datasets with a name" in capsys.readouterr().err


def test_a_function_may_take_the_data_directory(module):
    assert len(load(at("brought:there", module), 0.1).train) == 180
    assert DATASETS.read(at("brought:there", module)) == Own("brought:there", str(module))
    with pytest.raises(UsageError, match="'download' is not an option of it, which has data_dir"):
        DATASETS.read(at("brought:there", module, download=True))


@pytest.mark.parametrize("data", ["table", "text", "folder", "images"])
@pytest.mark.parametrize("name", ["nohouse.csv", "reviews"])
def test_data_that_are_not_there_are_said_to_be_missing(data, name, tmp_path):
    with pytest.raises(UsageError, match=rf"^data_dir: there is no file or folder .*/{name}$"):
        load(at(data, tmp_path / name))
