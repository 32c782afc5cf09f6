"""CIFAR's official binary files, here tiny ones."""

import gzip
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tombola.data import load
from tombola.data.sources.cifar import Cifar10, Cifar100
from tombola.errors import UsageError

from .conftest import at

REAL = os.environ.get("TOMBOLA_TEST_CIFAR10", "")
PACKERS = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress}
TEN = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def record(labels, value):
    """A record whose planes are red value, green value + 1 and blue value + 2, the very first pixel 0, 1, 2."""
    planes = [np.full(1024, (value + plane) % 256, np.uint8) for plane in range(3)]
    for plane, pixels in enumerate(planes):
        pixels[0] = plane
    return bytes(labels) + b"".join(plane.tobytes() for plane in planes)


def write_ten(folder, ending="", count=4):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(TEN):
        content = b"".join(record([i % 2], 10 * number + i) for i in range(count))
        (folder / f"{name}{ending}").write_bytes(PACKERS[ending](content))


def write_hundred(folder, count=6):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(b"".join(record([19 - i % 2, i % 3], i) for i in range(count)))


@pytest.mark.parametrize("ending", list(PACKERS))
@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifar10_from_its_files_or_the_folder_above(tmp_path, ending, inner):
    write_ten(tmp_path / inner, ending)
    raw = Cifar10(str(tmp_path)).read(None)
    images, labels = raw.train
    assert images.shape == (20, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0, 1] * 10
    # Rows of batch 1, then of batch 2 and so on; planes in the order red, green, blue, rows from the top.
    assert images[:, 0, 5, 5].tolist() == [10 * number + i for number in range(5) for i in range(4)]
    assert images[7, :, 31, 31].tolist() == [13, 14, 15]
    assert images[7, :, 0, 0].tolist() == [0, 1, 2]
    assert raw.test[0][:, 0, 5, 5].tolist() == [50, 51, 52, 53]
    splits = load(at("cifar10", tmp_path), held_out=0.2, image_size=16)
    assert (splits.shape, splits.classes, len(splits.train), len(splits.held_out)) == ((3, 16, 16), 2, 16, 4)


def test_compressed_and_plain_files_may_lie_side_by_side(tmp_path):
    write_ten(tmp_path, ".xz")
    expected = Cifar10(str(tmp_path)).read(None)
    plain = tmp_path / TEN[2]
    packed = tmp_path / f"{TEN[2]}.xz"
    plain.write_bytes(lzma.decompress(packed.read_bytes()))
    packed.unlink()
    found = Cifar10(str(tmp_path)).read(None)
    assert all(torch.equal(a, b) for a, b in zip(found.train + found.test, expected.train + expected.test, strict=True))


@pytest.mark.parametrize("inner", ["", "cifar-100-binary"])
def test_cifar100_takes_the_fine_label(tmp_path, inner):
    write_hundred(tmp_path / inner)
    raw = Cifar100(str(tmp_path)).read(None)
    assert raw.train[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert raw.test[0][4, :, 9, 9].tolist() == [4, 5, 6]


def test_the_binary_files_need_no_torchvision_and_come_first(tmp_path, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", None)
    write_ten(tmp_path)
    assert len(Cifar10(str(tmp_path), download=True).read(None).train[1]) == 20
    assert not (tmp_path / "cifar-10-batches-py").exists()


def test_what_is_written_and_read_again_is_the_same(tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (6, 3, 3, 32, 32), np.uint8)
    for name, images in zip(TEN, pixels, strict=True):
        (tmp_path / name).write_bytes(b"".join(bytes([i]) + image.tobytes() for i, image in enumerate(images)))
    raw = Cifar10(str(tmp_path)).read(None)
    assert torch.equal(raw.train[0], torch.from_numpy(pixels[:5].reshape(15, 3, 32, 32)))
    assert raw.train[1].tolist() == [0, 1, 2] * 5
    assert torch.equal(raw.test[0], torch.from_numpy(pixels[5]))


def replaced(name, content):
    def change(folder):
        (folder / name).write_bytes(content)

    return change


LARGE = np.zeros((1_001, 3_073), np.uint8).tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / TEN[3]).unlink(),
            r"data_dir: there is no data_batch_4\.bin or data_batch_4\.bin\.xz or data_batch_4\.bin\.gz in ",
        ),
        (replaced(TEN[1], b""), r"data_batch_2\.bin should hold records of 3,073 bytes and holds 0 bytes"),
        (replaced(TEN[1], bytes(3074)), r"data_batch_2\.bin should hold records of 3,073 bytes and holds 3,074 bytes"),
        (
            replaced(TEN[4], record([0], 0) + record([10], 0)),
            r"data_batch_5\.bin: record 1 has the label 10; allowed are 0 to 9",
        ),
        (replaced(TEN[5], record([255], 0)), r"test_batch\.bin: record 0 has the label 255; allowed are 0 to 9"),
        # A file cut off behind a whole record is one of the official size without the rest.
        (replaced(TEN[0], LARGE), r"data_batch_1\.bin should hold 10,000 records and holds 1,001"),
        (replaced(TEN[0], bytes(10_001 * 3_073)), r"data_batch_1\.bin should hold 10,000 records of .* holds more"),
        (replaced(TEN[0], b"\x1f\x8bjunk"), r"cannot read .*data_batch_1\.bin: "),
        (replaced(TEN[0], lzma.compress(LARGE)[:-20]), r"cannot read .*data_batch_1\.bin: "),
        (replaced(TEN[0], gzip.compress(bytes(200_000_000), 1)), r"data_batch_1\.bin should hold 10,000 .* more"),
    ],
)
def test_damage_is_named(tmp_path, change, message):
    write_ten(tmp_path)
    change(tmp_path)
    with pytest.raises(UsageError, match=message) as found:
        load(at("cifar10", tmp_path))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("labels", "message"), [((20, 0), "label 20; .* 0 to 19"), ((0, 100), "label 100; .* to 99")])
def test_both_labels_of_cifar100_are_checked(tmp_path, labels, message):
    write_hundred(tmp_path)
    (tmp_path / "test.bin").write_bytes(record(labels, 0))
    with pytest.raises(UsageError, match=rf"test\.bin: record 0 has the {message}"):
        load(at("cifar100", tmp_path))


def test_without_any_files_both_layouts_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"^data_dir: .* does not hold torchvision's files of CIFAR100 .*train\.bin"):
        load(at("cifar100", tmp_path))
    with pytest.raises(UsageError, match=r"^data_dir: CIFAR10 needs the folder with its files"):
        load("cifar10")


@pytest.mark.skipif(not REAL, reason="TOMBOLA_TEST_CIFAR10 names no folder with CIFAR-10's binary files")
def test_the_real_files_are_cifar10():
    splits = load(at("cifar10", Path(REAL)), held_out=0)
    assert (len(splits.train), len(splits.test)) == (50_000, 10_000)
    assert splits.train.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
    assert splits.train.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
    assert splits.train.targets.bincount().tolist() == [5_000] * 10
    assert splits.test.targets.bincount().tolist() == [1_000] * 10
