"""Images of any size that stay in their files, and the augmentations of whole photographs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tombola.cli.main import main
from tombola.data import AUGMENTATIONS, MixedFeed, load
from tombola.data.augmentation import fitted
from tombola.data.sources import DATASETS
from tombola.errors import UsageError
from tombola.training import Recipe

from .conftest import as_json, default_dtype


def write(folder, count=6, test="val"):
    random = np.random.default_rng(0)
    for part in ("train", test):
        for at, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                size = (40 + 7 * number, 30 + 5 * number, 3)
                pixels = (random.integers(0, 100, size) + 150 * at).astype(np.uint8)
                image = Image.fromarray(pixels)
                (image.convert("L") if number == 1 else image).save(folder / part / name / f"{number}.png")
    return folder


def read(folder, held_out=0.0, size=16, **options):
    return load(DATASETS.read({"name": "images", "data_dir": str(folder), **options}), held_out, image_size=size)


def epoch(split, number=0, seed=0, augmentation="none", workers=None):
    found = split if workers is None else replace(split, workers=workers)
    feed = found.feed(4, seed, "training", augmentation=AUGMENTATIONS[augmentation])
    return [item.batch for item in feed.epoch(number)]


def test_images_of_any_size_and_colour_are_shown_alike(tmp_path):
    found = read(write(tmp_path), 0.34, workers=0)
    assert (found.shape, found.classes, len(found.train), len(found.held_out), len(found.test)) == (
        (3, 16, 16),
        2,
        7,
        5,
        12,
    )
    inputs, labels = epoch(found.train)[0]
    assert (inputs.shape, inputs.dtype, labels.shape) == ((4, 3, 16, 16), torch.float32, (4,))
    assert read(tmp_path, 0.34, workers=0).fingerprint == found.fingerprint


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_photographs_do_not_depend_on_torchs_default_dtype(dtype, tmp_path):
    split = read(write(tmp_path, count=2)).train
    expected = epoch(split, augmentation="flip-crop", workers=0)
    with default_dtype(dtype):
        found = epoch(split, augmentation="flip-crop", workers=0)
    for (x, _), (known, _) in zip(found, expected, strict=True):
        assert x.dtype == torch.float32
        assert torch.equal(x, known)


def test_nothing_that_is_drawn_depends_on_workers_and_everything_on_epoch_and_seed(tmp_path):
    split = read(write(tmp_path)).train
    alone, beside = (epoch(split, augmentation="randaugment", workers=count) for count in (0, 1))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, beside, strict=True))
    before = torch.get_rng_state()
    other = epoch(split, 1, augmentation="randaugment", workers=0)
    assert torch.equal(before, torch.get_rng_state()), "the caller's generator is left alone"
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(alone, other, strict=True))
    skipped = split.feed(4, 0, "training", augmentation=AUGMENTATIONS["randaugment"]).epoch(0, skip=2)
    assert torch.equal(next(iter(skipped)).batch[0], alone[2][0])


def test_the_middle_of_an_image_is_shown_without_augmentation():
    image = torch.zeros(3, 64, 128, dtype=torch.uint8)
    image[:, :, 64:] = 200
    found = fitted(image, 32)
    assert found.shape == (3, 32, 32)
    assert found[:, :, :14].max() < 20
    assert found[:, :, 18:].min() > 180


def test_every_sample_in_memory_has_its_own_crop_too():
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(4, 3, 1, 1)
    found = AUGMENTATIONS["resized-crop"](images, torch.Generator().manual_seed(0))
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert len({tuple(each.flatten().tolist()) for each in found}) == 4
    with pytest.raises(UsageError, match="must be none, flip or flip-crop for images of 2 channels"):
        AUGMENTATIONS["resized-crop"].check((2, 8, 8), 255.0)


def test_mixed_labels_add_up_and_follow_the_seed(tmp_path):
    feed = read(write(tmp_path), workers=0).train.feed(4, 0, "training")
    mixed = [item.batch for item in MixedFeed(feed, 0.8, 2, 0).epoch(0)]
    plain = [item.batch for item in feed.epoch(0)]
    for (inputs, shares), (before, labels) in zip(mixed, plain, strict=True):
        assert torch.allclose(shares.sum(dim=1), torch.ones(len(shares)))
        part = 1 - (shares[0, labels[0]] if labels[0] != labels[-1] else torch.ones(()))
        if labels[0] != labels[-1]:
            assert torch.allclose(inputs[0], part * before[-1] + (1 - part) * before[0], atol=1e-5)
    again = [item.batch for item in MixedFeed(feed, 0.8, 2, 0).epoch(0, skip=1)]
    assert torch.equal(again[0][0], mixed[1][0])


def test_what_is_at_fault_is_named(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(UsageError, match="must say how many pixels"):
        read(tmp_path / "a", size=None)
    with pytest.raises(UsageError, match=r"there is no folder .*train"):
        read(tmp_path)
    with pytest.raises(UsageError, match="must be at most"):
        read(tmp_path / "a", workers=999)
    broken = tmp_path / "a" / "train" / "cat" / "0.png"
    split = load(
        DATASETS.read({"name": "images", "data_dir": str(tmp_path / "a")}), 0.0, _normal(), image_size=16
    ).train
    broken.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"0\.png is not an image of a known format"):
        epoch(split)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--std", "[0,0,0]"], "--std must be above 0, got (0.0, 0.0, 0.0)"),
        (["--std", "[0.5]"], "--std must have one number for each of 3 channels, got (0.5,)"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(tmp_path, capsys, option, message):
    arguments = ["--data", "images", "--data-dir", str(write(tmp_path / "data")), "--image-size", "16"]
    arguments += ["--held-out", "0", "--epochs", "2", "--milestones", "[]", "--rewind-to", "1", "--finder", "random"]
    assert main(["run", *arguments, *option, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"tombola run: {message}")


def _normal():
    from tombola.data import Normalisation

    return Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    ("preset", "model"),
    [
        ("imagenet-resnet50", ["--model", "resnet20:width=4"]),
        pytest.param(
            "imagenet-deit-small", ["--model", "timm:vit_tiny_patch16_224:drop_path=0.1"], marks=pytest.mark.hard
        ),
        ("photos-resnet18", ["--model", "resnet20:width=4"]),
        *(pytest.param(name, [], marks=pytest.mark.hard) for name in ("imagenet-resnet50", "imagenet-deit-small")),
        pytest.param("photos-resnet18", [], marks=pytest.mark.hard),
    ],
)
def test_presets_take_a_few_steps_on_a_small_folder(preset, model, tmp_path, capsys, monkeypatch):
    if "timm" in str(model):
        pytest.importorskip("timm")
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "photos", test="test")
    if preset == "photos-resnet18":
        for grey in folder.glob("*/*/1.png"):
            grey.unlink()
    short = ["--image-size", "32", "--epochs", "2", "--rewind-to", "1", "--steps", "1", "--batch-size", "6"]
    short += ["--search-batch-size", "4", "--milestones", "[]", "--held-out", "0.2", "--precision", "32-true"]
    found = as_json(
        capsys, "run", "--preset", preset, *model, "--data-dir", str(folder), *short, "--out", str(tmp_path / "out")
    )
    assert 0 <= found["test_accuracy"] <= 100


def test_the_learning_rate_of_transformers_warms_up():
    recipe = Recipe(epochs=100, learning_rate=2.0, lr_schedule="warm-cosine")
    rates = [recipe.learning_rate_at(epoch) for epoch in (0.0, 2.5, 5.0, 52.5, 100.0)]
    assert rates == pytest.approx([0.0004, 1.0, 2.0, 1.0, 0.0], abs=1e-3)
    assert Recipe(epochs=20, lr_schedule="warm-cosine", learning_rate=2.0).learning_rate_at(1.0) == pytest.approx(2.0)
