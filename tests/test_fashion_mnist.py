"""Real images, where Debian's dataset-fashion-mnist is installed."""

import pytest

from tombola.core.progress import Silent
from tombola.data import load
from tombola.data.sources.mnist import DEBIAN_FASHION_MNIST
from tombola.runs import pipeline
from tombola.runs.config import from_dict, load_preset

pytestmark = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)


def test_the_files_are_fashion_mnist():
    splits = load("fashion-mnist")
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (54_000, 6_000, 10_000)
    assert splits.train.mean[0] == pytest.approx(0.286, abs=0.001)
    assert splits.test.targets.bincount().tolist() == [1000] * 10
    assert splits.held_out.targets.bincount().tolist() == [600] * 10


def test_a_ticket_beats_a_random_one_by_far(tmp_path):
    quick = {**load_preset("fashion-mnist-lenet"), "density": 0.004, "epochs": 2, "milestones": ()}
    quick["train_samples"] = 6_000
    finders = "cts:batch_size=128:steps=150", "random"
    found, random = (pipeline.run(from_dict({**quick, "finder": name}), tmp_path, Silent()) for name in finders)
    assert found.values["kept"] == random.values["kept"] == 1065
    assert found.values["test_accuracy"] > random.values["test_accuracy"] + 20
