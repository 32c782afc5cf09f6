import gzip
import random
import struct
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from tombola.cli.main import main
from tombola.data import (
    AUGMENTATIONS,
    DATASETS,
    ArrayFeed,
    Arrays,
    FlipCrop,
    ListFeed,
    StreamFeed,
    feed_of,
    forever,
    load,
)
from tombola.data.idx import read_idx
from tombola.data.resizing import resize
from tombola.data.samples import Samples, labels_of
from tombola.data.sources.cifar import Cifar10
from tombola.data.sources.digits import Digits
from tombola.data.sources.folder import FolderAt
from tombola.data.splits import Normalisation, Raw, Splits, split
from tombola.errors import UsageError, shown

from .conftest import at, default_dtype


def arrays(count=10):
    inputs = torch.arange(count * 4, dtype=torch.uint8).view(count, 1, 2, 2)
    return Arrays(inputs, torch.arange(count) % 2, (0.5,), (0.25,))


def targets(feed, epoch, skip=0):
    return [item.key.tolist() for item in feed.epoch(epoch, skip)]


def test_batches_are_normalised_per_channel():
    inputs = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    found = Arrays(inputs, torch.zeros(1), (0.5, 0.25), (0.25, 0.5)).normalise(inputs)
    assert found.flatten().tolist() == pytest.approx([-2.0, 1.5])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_do_not_depend_on_torchs_default_dtype(dtype):
    inputs = torch.arange(768, dtype=torch.uint8).view(12, 1, 8, 8)
    feed = ArrayFeed(Arrays(inputs, torch.arange(12), (0.3,), (0.7,)), 5, augmentation=FlipCrop())
    expected = [item.batch for item in feed.epoch(0)]
    with default_dtype(dtype):
        found = [item.batch for item in feed.epoch(0)]
    for (x, _), (known, _) in zip(found, expected, strict=True):
        assert x.dtype == torch.float32
        assert torch.equal(x, known)


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    feed = ArrayFeed(arrays(), 4, seed=3)
    first = targets(feed, 0)
    assert sorted(row for rows in first for row in rows) == list(range(10))
    assert [len(rows) for rows in first] == [4, 4, 2]
    assert targets(feed, 0) == first
    assert targets(feed, 0, skip=1) == first[1:]
    assert targets(feed, 1) != first
    assert targets(ArrayFeed(arrays(), 4, seed=4), 0) != first
    assert targets(ArrayFeed(arrays(), 4, shuffle=False), 5) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_forever_goes_on_from_any_position():
    feed = ArrayFeed(arrays(), 4, seed=3)
    whole = [item.key.tolist() for item, _ in zip(forever(feed), range(8), strict=False)]
    late = [item.key.tolist() for item, _ in zip(forever(feed, 5), range(3), strict=False)]
    assert late == whole[5:]


def test_forever_goes_on_from_any_position_of_a_stream_without_a_length():
    feed = StreamFeed(DataLoader(Endless([(torch.full((2,), float(i)), torch.zeros(2)) for i in range(5)]), None))
    assert feed.length is None
    whole = [float(item.batch[0][0]) for item, _ in zip(forever(feed), range(12), strict=False)]
    for position in (3, 5, 7, 10):
        late = [float(item.batch[0][0]) for item, _ in zip(forever(feed, position), range(2), strict=False)]
        assert late == whole[position : position + 2]
    with pytest.raises(UsageError, match="gave no batch in epoch 0"):
        next(forever(StreamFeed(DataLoader(Endless([]), None)), 3))


class Endless(IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_flip_crop_by_hand_without_padding_is_a_flip_or_nothing():
    image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3).expand(64, 1, 3, 3)
    found = FlipCrop(padding=0)(image, torch.Generator().manual_seed(0))
    flipped = image[0].flip(-1)
    same = [torch.equal(sample, image[0]) for sample in found]
    assert all(torch.equal(sample, flipped) for sample, kept in zip(found, same, strict=True) if not kept)
    assert 10 < sum(same) < 54


def test_an_image_is_resized_by_hand():
    columns = torch.tensor([[0, 40, 100, 200]], dtype=torch.uint8).expand(4, 4)
    found = resize(columns.expand(1_001, 1, 4, 4), 2)
    # Antialiased: half as wide, each new pixel weighs the old ones by a triangle two new pixels wide. Old pixels at
    # 0.5, 1.5, 2.5 lie 0.5, 0.5, 1.5 from the new one at 1, so weigh 3/4, 3/4, 1/4 of its height.
    left, right = (3 * 0 + 3 * 40 + 1 * 100) / 7, (1 * 40 + 3 * 100 + 3 * 200) / 7
    assert found.dtype == torch.uint8
    assert found.shape == (1_001, 1, 2, 2)
    for each in (found[0, 0], found[-1, 0]):
        assert each.tolist() == [[round(left), round(right)]] * 2


def test_all_parts_of_a_dataset_are_resized():
    splits = load("digits", image_size=4)
    assert splits.shape == (1, 4, 4)
    assert splits.held_out.shape == splits.test.shape == (1, 4, 4)
    whole = load("digits")
    assert torch.equal(resize(whole.test.inputs, 4), splits.test.inputs)
    assert load("digits", image_size=8).fingerprint == whole.fingerprint


@pytest.mark.parametrize(("name", "moves"), [("flip", False), ("flip-crop", True)])
def test_only_a_crop_moves_the_image(name, moves):
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(16, 1, 8, 8)
    found = AUGMENTATIONS[name](image, torch.Generator().manual_seed(0))
    kept = [torch.equal(each, image[0]) or torch.equal(each, image[0].flip(-1)) for each in found]
    assert all(kept) is not moves


def test_flip_crop_draws_every_sample_on_its_own_and_from_its_generator():
    image = torch.randint(0, 255, (1, 3, 8, 8), dtype=torch.uint8).expand(32, 3, 8, 8)
    found = FlipCrop()(image, torch.Generator().manual_seed(0))
    assert found.dtype == torch.uint8
    assert found.shape == image.shape
    assert len({tuple(sample.flatten().tolist()) for sample in found}) > 20
    assert torch.equal(found, FlipCrop()(image, torch.Generator().manual_seed(0)))
    padded = torch.nn.functional.pad(image[:1].float(), (4,) * 4, mode="reflect")[0]
    windows = [padded[:, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
    for sample in found.float():
        assert any(torch.equal(sample, w) or torch.equal(sample, w.flip(-1)) for w in windows)


def test_what_a_user_gives_becomes_a_feed():
    batch = (torch.zeros(2, 3), torch.zeros(2))
    assert isinstance(feed_of([batch], 0, 8), ListFeed)
    assert isinstance(feed_of(DataLoader(TensorDataset(*batch)), 0, 8), StreamFeed)
    generated = feed_of((batch for _ in range(5)), 0, 8, most=3)
    assert isinstance(generated, ListFeed)
    assert generated.length == 3
    with pytest.raises(UsageError, match="at least one batch"):
        feed_of([], 0, 8)
    with pytest.raises(UsageError, match="iterable of"):
        feed_of(torch.zeros(2), 0, 8)


def test_a_generator_is_read_whole_unless_told_otherwise_and_then_no_further():
    asked = []

    def batches():
        for number in range(3_000):
            asked.append(number)
            yield number

    assert feed_of(batches(), 0, 8).length == 3_000
    asked.clear()
    assert feed_of(batches(), 0, 8, most=5).batches == [0, 1, 2, 3, 4]
    assert len(asked) == 5


def test_looking_at_what_a_user_gives_draws_no_random_number():
    loader = DataLoader(TensorDataset(torch.arange(12)), shuffle=True)
    before = torch.get_rng_state()
    feed_of(loader, 0, 8)
    assert torch.equal(torch.get_rng_state(), before)


class Noisy(Dataset):
    """Draws from every global generator."""

    def __len__(self):
        return 6

    def __getitem__(self, row):
        if row == 5 and self.broken:
            raise OSError("torn tape")
        return torch.tensor([float(np.random.rand()), random.random(), float(torch.rand(()))]), row % 3

    broken = False


def test_datasets_may_draw_from_any_global_generator():
    for make in (lambda seed: feed_of(Noisy(), seed, 4), lambda seed: StreamFeed(DataLoader(Noisy(), 4), seed)):

        def drawn(seed, epoch, make=make):
            return torch.cat([item.batch[0] for item in make(seed).epoch(epoch)])

        before = (np.random.get_state()[1].tolist(), random.getstate())
        first = drawn(0, 0)
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before
        np.random.rand()
        random.random()
        assert torch.equal(drawn(0, 0), first)
        for other in (drawn(0, 1), drawn(1, 0)):
            assert (other != first).all()
        assert all(len(column.unique()) == 6 for column in first.T), "a batch goes on where the last one was"


def test_a_sample_that_cannot_be_read_is_named():
    dataset = Noisy()
    dataset.broken = True
    message = r"sample 5 cannot be read \(OSError: torn tape\)"
    with pytest.raises(UsageError, match=message):
        list(feed_of(dataset, 0, 4).epoch(0))
    with pytest.raises(UsageError, match=message):
        labels_of(dataset, "data mine:datasets, train")


def test_workers_that_stay_draw_by_seed_and_epoch_too():
    def loader(stay):
        return DataLoader(Noisy(), 4, num_workers=1, persistent_workers=stay)

    def drawn(of, epoch):
        return torch.cat([item.batch[0] for item in StreamFeed(of, 0).epoch(epoch)])

    stays = loader(True)
    used = next(iter(stays))
    expected = drawn(loader(False), 0)
    assert torch.equal(drawn(stays, 0), expected)
    assert torch.equal(drawn(stays, 0), expected)
    assert not torch.equal(drawn(stays, 1), expected)
    assert next(iter(stays))[0].shape == used[0].shape


@pytest.mark.parametrize("own", [False, True])
def test_a_shuffling_loader_follows_the_seed_and_leaves_the_callers_generator_alone(own):
    data = TensorDataset(torch.arange(12), torch.zeros(12))
    drawn_from = torch.Generator().manual_seed(5) if own else torch.default_generator
    loader = DataLoader(data, batch_size=4, shuffle=True, generator=drawn_from if own else None)

    def rows(seed, epoch):
        return [item.batch[0].tolist() for item in StreamFeed(loader, seed).epoch(epoch)]

    drawn_from.manual_seed(5)
    before = drawn_from.get_state()
    first = rows(0, 0)
    assert torch.equal(drawn_from.get_state(), before)
    drawn_from.manual_seed(6)
    assert rows(0, 0) == first
    assert rows(0, 1) != first
    assert rows(1, 0) != first


def test_digits_are_split_by_class_and_always_alike():
    splits = load("digits")
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (1293, 144, 360)
    assert splits.shape == (1, 8, 8)
    assert splits.classes == 10
    assert splits.train.inputs.dtype == torch.uint8
    assert splits.fingerprint == load("digits").fingerprint
    assert splits.fingerprint != load("digits", held_out=0.2).fingerprint
    together = torch.cat([splits.train.inputs, splits.held_out.inputs, splits.test.inputs]).flatten(1)
    from sklearn.datasets import load_digits

    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_fingerprints_stay_what_they_are():
    """Results are filed under them: another value is another result."""
    inputs = torch.arange(16, dtype=torch.uint8).view(2, 2, 2, 2)
    small = Arrays(inputs, torch.tensor([1, 0]), (0.5, 0.25), (0.25, 0.5))
    assert small.fingerprint == "13e0be8fb88cae3ca46c2c1fb7f08030a80f2fb3dad10600ef6bc2f7fb358fc9"
    labels = torch.tensor([0, 1, 0, 1])
    own = Samples(TensorDataset(torch.arange(4.0), labels), "code", labels)
    assert own.fingerprint == "72663ded718b78c60a797c4e7a76fc0bb55f339f52deddfff68e75a63620712e"
    # Of the split, too, and of its normalisation.
    found = load("digits").fingerprint
    assert found == "d5adb66c75a021f7fc693bba51507899f5c51adcb04dbb500a19223bf3cab88e"


def test_training_on_some_of_the_samples_only():
    whole = load("digits")
    some, again = whole.with_training(100), whole.with_training(100)
    assert len(some.train) == 100
    assert some.fingerprint == again.fingerprint != whole.fingerprint
    rows = set(map(tuple, whole.train.inputs.flatten(1).tolist()))
    assert all(tuple(row) in rows for row in some.train.inputs.flatten(1).tolist())
    assert (some.held_out, some.test, some.train.mean) == (whole.held_out, whole.test, whole.train.mean)
    assert set(some.train.targets.tolist()) == set(range(10))
    assert not torch.equal(some.train.inputs, whole.train.inputs[:100]), "a choice by chance, not the first ones"
    for samples in (0, 1294):
        with pytest.raises(UsageError, match=f"train_samples must lie between 1 and 1,293, got {samples}"):
            whole.with_training(samples)


def test_training_on_some_samples_of_a_dataset_of_ones_own():
    dataset = TensorDataset(torch.arange(10.0).unsqueeze(1), torch.arange(10) % 2)
    splits = Splits(Samples(dataset), None, Samples(dataset), 2).with_training(4)
    assert len(splits.train) == 4
    assert splits.train.feed(4, 0, "test", shuffle=False).repeatable
    numbers = next(iter(splits.train.feed(4, 0, "test", shuffle=False).epoch(0))).batch[0].flatten().tolist()
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 4


def test_a_fingerprint_sees_every_number_that_lies_in_memory():
    def fingerprint(row=None, part=0, cut=False):
        tensors = [torch.zeros(2500, 2), torch.zeros(2500).long()]
        if row is not None:
            tensors[part][row] += 1
        dataset = TensorDataset(*tensors)
        return Samples(Subset(Subset(dataset, range(1, 2500)), list(range(2000))) if cut else dataset).fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(1), fingerprint(1, part=1), fingerprint(2), fingerprint(cut=True)}) == 5
    assert fingerprint(4, cut=True) != fingerprint(cut=True)


def test_a_fingerprint_sees_all_labels():
    noisy, labels = Noisy(), torch.zeros(6).long()
    other = labels.clone()
    other[4] = 1
    assert len({Samples(noisy, "", known).fingerprint for known in (None, labels, other)}) == 3
    rows = torch.tensor([0, 4])
    assert Samples(noisy, "", other).take(rows).labels.tolist() == [0, 1]


def test_targets_that_are_not_one_a_sample_are_no_labels():
    dataset = Noisy()
    dataset.targets = ["many", "classes"]
    assert labels_of(dataset, "data").tolist() == [0, 1, 2, 0, 1, 2]


def test_targets_number_the_classes_of_samples_with_probabilities():
    class Soft(Dataset):
        targets, target_transform = [0, 2, 1], staticmethod(int)

        def __len__(self):
            return 3

        def __getitem__(self, row):
            return torch.zeros(2), torch.eye(3)[self.targets[row]]

    assert labels_of(Soft(), "data").tolist() == [0, 2, 1]


@pytest.mark.parametrize("named", [True, False])
def test_labels_are_those_of_the_samples_where_a_transform_makes_them(named):
    class Halves(Dataset):
        targets = tuple(range(10))

        def __len__(self):
            return 10

        def __getitem__(self, row):
            return torch.zeros(2), int(row >= 5)

    dataset = Halves()
    if named:
        dataset.targets, dataset.target_transform = [0, *range(9)], int
    assert labels_of(dataset, "data").tolist() == [0] * 5 + [1] * 5


def test_a_constant_channel_is_not_divided_by_zero():
    images = torch.full((40, 2, 5, 5), 77, dtype=torch.uint8)
    images[:, 1, 0, 0] = torch.arange(40)
    splits = split(Raw((images, torch.arange(40) % 2), (images, torch.arange(40) % 2)), 0.1, Normalisation())
    assert splits.train.std[0] == 1
    assert 0 < splits.train.std[1] < 0.5
    normalised = splits.test.normalise(images)
    assert normalised[:, 0].abs().max() < 1e-6


def test_images_that_are_too_small_for_flip_crop():
    message = "augmentation flip-crop needs images of at least 5x5 pixels, got 4x9; flip and none take any"
    small = replace(arrays(), inputs=torch.zeros(10, 1, 4, 9, dtype=torch.uint8))
    with pytest.raises(UsageError, match=message):
        small.feed(5, 0, "training", augmentation=AUGMENTATIONS["flip-crop"])
    assert len(list(small.feed(5, 0, "training", augmentation=AUGMENTATIONS["flip"]).epoch(0))) == 2
    large = replace(arrays(), inputs=torch.zeros(10, 1, 5, 5, dtype=torch.uint8))
    assert len(list(large.feed(5, 0, "training", augmentation=AUGMENTATIONS["flip-crop"]).epoch(0))) == 2


def test_a_policy_is_for_bytes_from_0_to_255():
    """torchvision's operations would take the digits' 16 for nearly black."""
    message = "must be another than randaugment for images whose values go from 0 to 16, not 255"
    digits = load("digits").train
    with pytest.raises(UsageError, match=message):
        digits.feed(5, 0, "training", augmentation=AUGMENTATIONS["randaugment"])
    digits.feed(5, 0, "training", augmentation=AUGMENTATIONS["resized-crop"])
    bytes_of = replace(digits, scale=255.0)
    assert bytes_of.feed(5, 0, "training", augmentation=AUGMENTATIONS["randaugment"]) is not None


def test_every_source_is_a_part_whose_fields_are_its_options():
    assert list(DATASETS) == [
        "digits",
        "mnist",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "folder",
        "images",
        "table",
        "text",
    ]
    for name, source in DATASETS.known.items():
        assert (source.name, source.version) == (name, 1)
        assert all(field.metadata["help"] for field in fields(source))
        with pytest.raises(FrozenInstanceError):
            source.name = "other"
    assert DATASETS.read("cifar10:data_dir=x:download=true") == Cifar10(data_dir="x", download=True)
    assert DATASETS.read("digits") == Digits()
    for setting in ("data_dir=x", "download=true"):
        with pytest.raises(UsageError, match="is not an option of digits, which has none"):
            DATASETS.read(f"digits:{setting}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar-10", "; did you mean cifar10?"),
        ("Fashion_MNIST", "; did you mean fashion-mnist?"),
        ("digit", "; did you mean digits?"),
        ("pictures", "; the folder pictures does not hold train and test"),
        ("nothing\nlike", ""),
        ("x" * 300, ""),
        ("", ""),
    ],
)
def test_an_unknown_name_gets_a_hint(tmp_path, monkeypatch, name, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    with pytest.raises(UsageError) as found:
        load(name)
    assert str(found.value) == (
        f"data '{shown(name)}' is unknown; allowed are digits, mnist, fashion-mnist, cifar10, cifar100, folder, "
        f"images, table, text, a folder with train and test, or MODULE:FUNCTION{hint}"
    )


def test_the_path_of_a_folder_is_a_dataset(tmp_path, cache, monkeypatch, capsys):
    from .test_folder import contents, write_folder, write_tar

    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a:b" / "train", contents())
    write_tar(tmp_path / "a:b" / "test.tar", contents())
    assert DATASETS.read("a:b") == FolderAt("a:b")
    expected = load(at("folder", tmp_path / "a:b"), held_out=0.2).fingerprint
    assert load("a:b", held_out=0.2).fingerprint == load(str(tmp_path / "a:b"), held_out=0.2).fingerprint == expected
    (tmp_path / "a:b").rename("digits")
    assert DATASETS.read("digits") == Digits(), "a dataset's name goes before a folder's"
    assert DATASETS.read("./digits") == FolderAt("./digits")
    assert main(["run", "--data", "./digits", "--data-dir", "x", "--out", "out"]) == 2
    assert capsys.readouterr().err == "tombola run: --data-dir is not an option of the data ./digits, which has none\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data", "cifar10"],
            "--data-dir: CIFAR10 needs the folder with its files, or have them fetched into the "
            "folder that you give, with --download",
        ),
        (
            ["--data", "mnist"],
            "--data-dir: give the folder with MNIST's idx files, or have them fetched into the "
            "folder that you give, with --download",
        ),
        (["--data", "mnist", "--data-dir", "."], "--data-dir: there is no train-images-idx3-ubyte or train-images-"),
        (["--data-dir", "."], "--data-dir is not an option of the data digits, which has none"),
        (["--download", "true"], "--download is not an option of the data digits, which has none"),
        (["--data", "digit"], "--data 'digit' is unknown; allowed are digits, mnist, "),
        (["--std", "[0.0]"], "--std must be above 0, got (0.0,)"),
        (["--train-samples", "9999"], "--train-samples must lie between 1 and 1,293, got 9999"),
    ],
)
def test_the_command_line_words_options_with_dashes(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments, "--out", "out"]) == 2
    assert capsys.readouterr().err.startswith(f"tombola run: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_a_part_without_images_is_refused(part):
    images, none = torch.zeros(4, 1, 2, 2).byte(), torch.zeros(0, 1, 2, 2).byte()
    full, empty = (images, torch.tensor([0, 0, 1, 1])), (none, torch.zeros(0).long())
    raw = Raw(empty, full) if part == "train" else Raw(full, empty)
    with pytest.raises(UsageError, match=f"data: {'train' if part == 'train' else 'test'} holds no images"):
        split(raw, 0.5, Normalisation())


def write_idx(path: Path, values: np.ndarray) -> None:
    content = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content += values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_dataset(folder: Path, ending: str) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", random.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", np.arange(count) % 2)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_fashion_mnist_from_idx_files(tmp_path, ending, inner):
    write_dataset(tmp_path / inner, ending)
    splits = load(at("fashion-mnist", tmp_path))
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (36, 4, 20)
    assert splits.shape == (1, 28, 28)


def test_torchvision_reads_the_same_files(tmp_path):
    from torchvision.datasets import FashionMNIST

    write_dataset(tmp_path / "FashionMNIST" / "raw", "")
    ours = load(at("fashion-mnist", tmp_path)).test
    theirs = FashionMNIST(str(tmp_path), train=False)
    assert torch.equal(ours.inputs.squeeze(1), theirs.data)
    assert torch.equal(ours.targets, theirs.targets)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UsageError, match="data_dir: there is no train-images-idx3-ubyte"):
        load(at("fashion-mnist", tmp_path))
    (tmp_path / "junk").write_bytes(b"junkjunk")
    with pytest.raises(UsageError, match="junk is not an idx file"):
        read_idx(tmp_path / "junk")
    write_idx(tmp_path / "short", np.zeros((2, 2)))
    (tmp_path / "short").write_bytes((tmp_path / "short").read_bytes()[:-1])
    with pytest.raises(UsageError, match="should hold 2 x 2 bytes and holds 3"):
        read_idx(tmp_path / "short")
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8bjunk")
    with pytest.raises(UsageError, match=r"cannot read .*bad\.gz"):
        read_idx(tmp_path / "bad.gz")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(bytes(range(256)) * 9)[:10] + b"\xff" * 40)
    with pytest.raises(UsageError, match=r"cannot read .*torn\.gz: Error -3"):
        read_idx(tmp_path / "torn.gz")
    with pytest.raises(UsageError, match="data 'cats' is unknown; allowed are digits, mnist, fashion-mnist"):
        load("cats")
    with pytest.raises(UsageError, match="'data_dir' is not an option of it, which has none"):
        load(at("digits", tmp_path))
