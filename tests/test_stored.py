"""Images in shards of WebDataset, and data sets as Hugging Face's datasets saves them."""

import io
import json
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tombola.data import load
from tombola.data.sources import DATASETS
from tombola.errors import UsageError
from tombola.storage.identity import digest, digest_tensors

from .conftest import as_json
from .test_photographs import epoch, read, write


def png(row, shade=0):
    """A made image of a size of its own, encoded."""
    pixels = np.random.default_rng(row).integers(0, 100, (20 + row, 30, 3)) + shade
    found = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(found, "png")
    return found.getvalue()


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def shard(path, samples, mode="w"):
    """Write a tar file of samples, each a key and contents by ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for key, contents in samples:
            for ending, content in contents.items():
                add(archive, f"{key}.{ending}", content)


def samples(count, of=lambda label: {"cls": str(label).encode()}, first=0):
    return [(f"{row:05d}", {"png": png(row, 150 * (row % 2)), **of(row % 2)}) for row in range(first, first + count)]


def sharded(folder, **options):
    shard(folder / "train-0000.tar", samples(6, **options))
    shard(folder / "train-0001.tar", samples(6, first=6, **options))
    shard(folder / "val-0000.tar", samples(4, **options))
    return folder


def test_shards_are_read_like_files(tmp_path):
    found = read(sharded(tmp_path), 0.34, workers=1)
    assert (found.shape, found.classes) == ((3, 16, 16), 2)
    assert [len(part) for part in (found.train, found.held_out, found.test)] == [7, 5, 4]
    alone, beside = (epoch(found.train, augmentation="randaugment", workers=count) for count in (0, 1))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, beside, strict=True))
    whole = read(tmp_path, workers=0).train
    shades = torch.stack([whole.image(row).float().mean() for row in range(12)])
    assert torch.equal(whole.targets, torch.arange(12) % 2)
    assert torch.equal((shades > 100).long(), whole.targets), "each image with its own class"
    assert whole.image(7).shape == (3, 27, 30)
    before = read(tmp_path, workers=0).fingerprint
    assert read(tmp_path, workers=0).fingerprint == before
    shard(tmp_path / "val-0000.tar", samples(4, first=1))
    assert read(tmp_path, workers=0).fingerprint != before


@pytest.mark.parametrize(
    ("of", "options", "classes"),
    [
        (lambda label: {"json": json.dumps({"label": label}).encode()}, {}, 2),
        (lambda label: {"json": json.dumps({"breed": ["cat", "dog"][label]}).encode()}, {"targets": ["breed"]}, 2),
        (lambda label: {"kind": b"AB"[label : label + 1], "cls": b"0"}, {"targets": ["kind"]}, 2),
        # What is called otherwise is left alone, and numbers are numbers.
        (lambda label: {"cls": b" 10\n" if label else b"9", "seg.png": png(1), "txt": b"x"}, {}, 2),
    ],
)
def test_where_shards_say_the_class(tmp_path, of, options, classes):
    found = read(sharded(tmp_path, of=of), workers=0, **options)
    assert found.classes == classes
    assert torch.equal(found.train.targets, torch.arange(12) % 2)


def test_shards_may_lie_in_folders(tmp_path):
    shard(tmp_path / "train" / "a.tar", samples(4))
    shard(tmp_path / "test.tar", samples(2))
    found = read(tmp_path, workers=0)
    assert (len(found.train), len(found.test)) == (4, 2)


def damaged(folder, what):
    sharded(folder)
    path = folder / "train-0001.tar"
    match what:
        case "no class":
            shard(path, samples(2, of=lambda label: {}))
        case "no image":
            shard(path, [("a", {"cls": b"0"})])
        case "two images":
            shard(path, [("a", {"cls": b"0", "png": png(0), "jpg": png(1)})])
        case "twice":
            shard(path, [("a", {"cls": b"0", "png": png(0)}), ("a", {"cls": b"1"})])
        case "compressed":
            shard(path, samples(2), "w:gz")
        case "cut off":
            path.write_bytes(path.read_bytes()[:5000])
        case "a link":
            with tarfile.open(path, "w") as archive:
                link = tarfile.TarInfo("a.png")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(link)
        case "bytes":
            shard(path, [("a", {"cls": b"\xff", "png": png(0)})])
        case "json":
            shard(path, [("a", {"json": b"{", "png": png(0)})])
        case "strange":
            shard(folder / "val-0000.tar", samples(2, of=lambda label: {"cls": b"7"}))
        case "no test":
            (folder / "val-0000.tar").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no class", r"targets: .*train-0001.tar: sample 00000 has no class \(.cls, or the field label of a .json\)"),
        ("no image", "train-0001.tar: sample a has no image"),
        ("two images", "train-0001.tar: a.jpg is a second image of one sample"),
        ("twice", "train-0001.tar: a.cls is there twice"),
        ("compressed", "train-0001.tar is compressed; unpack it to a plain .tar"),
        ("cut off", "train-0001.tar is not a tar file, or a damaged one"),
        ("a link", "train-0001.tar: a.png is a link or has holes"),
        ("bytes", "sample a has a class that is no text"),
        ("json", "sample a has a .json that is none"),
        ("strange", "test has the class 7, which train has not"),
        ("no test", r"holds shards of train, and none of test-\*.tar, val-\*.tar"),
    ],
)
def test_what_is_wrong_with_shards_is_named(tmp_path, what, message):
    damaged(tmp_path, what)
    with pytest.raises(UsageError, match=message):
        read(tmp_path, workers=0)


def test_shards_that_change_are_noticed_when_they_are_read(tmp_path):
    found = read(sharded(tmp_path), workers=0).train
    path = tmp_path / "train-0001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UsageError, match=r"train-0001.tar: 00011.png cannot be read \(the file has become shorter\)"):
        found.image(11)
    path.unlink()
    with pytest.raises(UsageError, match=r"train-0001.tar: 00011.png cannot be read \(.*No such file"):
        found.image(11)


def test_images_in_files_keep_their_names(tmp_path):
    """Results that lie on disks are filed under this."""
    split = read(write(tmp_path), workers=0).train
    names = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(6)]
    sizes = torch.tensor([(tmp_path / "train" / name).stat().st_size for name in names])
    from tombola.storage.files import digest_of

    contents = [digest_of(tmp_path / "train" / name) for name in names]
    tensors = digest_tensors({"sizes": sizes, "targets": torch.arange(12) // 6})
    assert split.fingerprint == digest([names, tensors, contents, 16, split.mean, split.std])
    with pytest.raises(UsageError, match="targets is for shards and columns; class folders say their classes"):
        read(tmp_path, targets=["label"])
    with pytest.raises(UsageError, match="targets must name one column"):
        read(tmp_path, targets=["a", "b"])


# Data sets as Hugging Face's datasets saves them


def save(folder, columns, files=1):
    """Write columns as `Dataset.save_to_disk` of datasets 5.2 does."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    names = [f"data-{at:05d}-of-{files:05d}.arrow" for at in range(files)]
    size = -(-len(table) // files)
    for at, name in enumerate(names):
        part = table.slice(at * size, size)
        with pa.ipc.new_stream(str(folder / name), part.schema) as stream:
            stream.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def save_parts(folder, **parts):
    for name, columns in parts.items():
        save(folder / name, columns, files=2 if name == "train" else 1)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return folder


def texts(count):
    return {
        "text": [f"word{row % 5} and {row}" for row in range(count)],
        "label": [row % 2 for row in range(count)],
        "score": [row / 3 for row in range(count)],
    }


def with_lists(kind, rows):
    """A score, a label and lists, of a kind that Arrow has; none: of the numbers in columns of their own."""
    pa = pytest.importorskip("pyarrow")
    found = {"score": np.arange(len(rows)) / 3, "label": np.arange(len(rows)) % 2}
    match kind:
        case "none":
            return {**found, **{f"n{at}": column for at, column in enumerate(zip(*rows, strict=True))}}
        case "list":
            made = pa.list_(pa.float64())
        case "large list":
            made = pa.large_list(pa.float32())
        case "fixed list":
            made = pa.list_(pa.float64(), 3)
        case "lists of lists":
            made = pa.list_(pa.list_(pa.float64()))
    return {**found, "lists": pa.array(rows, made)}


def pictures(count):
    pa = pytest.importorskip("pyarrow")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = [{"bytes": png(row, 150 * (row % 2)), "path": None} for row in range(count)]
    return {"image": pa.array(images, kind), "label": pa.array([row % 2 for row in range(count)])}


def loaded(name, folder, held_out=0.0, size=None, **options):
    return load(DATASETS.read({"name": name, "data_dir": str(folder), **options}), held_out, image_size=size)


def test_saved_texts_and_tables(tmp_path):
    save_parts(tmp_path, train=texts(20), validation=texts(6))
    found = loaded("text", tmp_path, vocabulary=300)
    assert (found.classes, len(found.train), len(found.test)) == (2, 20, 6)
    assert found.train.targets.tolist() == [row % 2 for row in range(20)]
    table = loaded("table", tmp_path, inputs=["score"])
    assert (table.shape, len(table.train), len(table.test)) == ((1,), 20, 6)
    assert table.train.inputs.mean().abs() < 1e-6
    alone = loaded("table", tmp_path / "train", inputs=["score"])
    assert (len(alone.train), len(alone.test)) == (16, 4)
    before = found.fingerprint
    save_parts(tmp_path, train={**texts(20), "text": ["another"] * 20}, validation=texts(6))
    assert loaded("text", tmp_path, vocabulary=300).fingerprint != before


@pytest.mark.parametrize("kind", ["list", "large list", "fixed list"])
def test_saved_lists_of_as_many_numbers_in_each_row_are_inputs(tmp_path, kind):
    save_parts(tmp_path, **{part: with_lists(kind, np.eye(20, 3).tolist()) for part in ("train", "test")})
    found = loaded("table", tmp_path, targets=["label"])
    assert found.shape == (4,)
    save_parts(tmp_path, **{part: with_lists("none", np.eye(20, 3).tolist()) for part in ("train", "test")})
    same = loaded("table", tmp_path, targets=["label"])
    assert torch.equal(found.train.inputs, same.train.inputs)


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        ("list", [[1.0], [1.0, 2.0]], "holds lists, but not of as many numbers in each row"),
        ("list", [[1.0], None], "holds lists, but not of as many numbers in each row"),
        ("lists of lists", [[[1.0]], [[2.0]]], "holds lists, but not of as many numbers in each row"),
        ("large list", [[1.0], None], "holds lists, but not of as many numbers in each row"),
        ("fixed list", [[1.0, 1.0, 1.0], None], "holds lists, but not of as many numbers in each row"),
        ("list", [[1.0], [None]], "has no value in row 2; fill the gaps first"),
        ("fixed list", [[1.0, 1.0, 1.0], [2.0, None, 3.0]], "has no value in row 2; fill the gaps first"),
    ],
)
def test_other_saved_lists_are_refused_where_they_are_used(tmp_path, kind, rows, words):
    save_parts(tmp_path, **{part: with_lists(kind, rows * 10) for part in ("train", "test")})
    assert loaded("table", tmp_path, targets=["label"], inputs=["score"]).shape == (1,)
    with pytest.raises(UsageError, match=f"train: column lists {words}"):
        loaded("table", tmp_path, targets=["label"])


@pytest.mark.parametrize(
    ("part", "labels", "words"),
    [
        ("train", [0, 1, None, 1], "train: column label has no value in row 3; fill the gaps first"),
        ("test", ["a", "b", None, "b"], "test: column label has no value in row 3; fill the gaps first"),
        ("train", [0, 1, -1, 1], r"train: row 3 has no label \(-1\); leave out such rows"),
        ("test", [-1, -1, -1, -1], r"test: row 1 has no label \(-1\); leave out such rows"),
    ],
)
def test_saved_images_without_a_label_are_named(tmp_path, part, labels, words):
    whole = [label or (0 if isinstance(labels[0], int) else "a") for label in labels] if None in labels else [0, 1] * 2
    parts = {name: {**pictures(4), "label": labels if name == part else whole} for name in ("train", "test")}
    save_parts(tmp_path, **parts)
    with pytest.raises(UsageError, match=words):
        read(tmp_path, workers=0)


def test_the_classes_of_saved_images_may_be_one_and_minus_one(tmp_path):
    columns = {**pictures(4), "label": [-1, 1, -1, 1]}
    save_parts(tmp_path, train=columns, test=columns)
    assert read(tmp_path, workers=0).train.targets.tolist() == [0, 1, 0, 1]


def test_saved_images(tmp_path):
    save_parts(tmp_path, train=pictures(12), test=pictures(4))
    found = read(tmp_path, 0.34, workers=1)
    assert [len(part) for part in (found.train, found.held_out, found.test)] == [7, 5, 4]
    alone, beside = (epoch(found.train, workers=count) for count in (0, 1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alone, beside, strict=True))
    whole = read(tmp_path, workers=0).train
    shades = torch.stack([whole.image(row).float().mean() for row in range(12)])
    assert torch.equal((shades > 100).long(), whole.targets)
    assert whole.images.sizes().tolist() == [len(png(row, 150 * (row % 2))) for row in range(12)]
    assert read(tmp_path, 0.34, workers=0).fingerprint == found.fingerprint


def test_saved_images_may_lie_in_files_beside(tmp_path):
    pa = pytest.importorskip("pyarrow")
    (tmp_path / "one.png").write_bytes(png(3))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = [{"bytes": None, "path": str(tmp_path / "one.png")}, {"bytes": None, "path": None}]
    columns = {"image": pa.array(images, kind), "label": [0, 1]}
    save_parts(tmp_path / "saved", train=columns, test=columns)
    whole = read_plain(tmp_path / "saved")
    assert whole.image(0).shape == (3, 23, 30)
    with pytest.raises(UsageError, match="train: row 2 has no image in column image"):
        whole.image(1)


def read_plain(folder):
    """The training images of a folder whose mean and deviation are given, so that none is read before."""
    from .test_photographs import _normal

    source = DATASETS.read({"name": "images", "data_dir": str(folder), "workers": 0})
    return load(source, 0.0, _normal(), image_size=16).train


def spoilt(folder, what):
    save_parts(folder, train=pictures(4), test=pictures(4))
    state = folder / "train" / "state.json"
    match what:
        case "no files":
            state.write_text("{}")
        case "elsewhere":
            state.write_text(json.dumps({"_data_files": [{"filename": "../test/data-00000-of-00001.arrow"}]}))
        case "gone":
            (folder / "train" / "data-00000-of-00002.arrow").unlink()
        case "no arrow":
            (folder / "train" / "data-00000-of-00002.arrow").write_bytes(b"no arrow file")
        case "no json":
            state.write_text("[")
        case "indices":
            state.write_text(json.dumps({"_indices_data_files": [{"filename": "x"}]}))
        case "no images":
            save_parts(folder, train=texts(4), test=texts(4))
        case "no test":
            (folder / "test" / "state.json").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no files", r"state.json names no data files"),
        ("elsewhere", r"state.json names '../test/data-00000-of-00001.arrow', which is no file in its folder"),
        ("gone", r"data-00000-of-00002.arrow cannot be read \("),
        ("no arrow", r"data-00000-of-00002.arrow cannot be read \("),
        ("no json", "state.json"),
        ("indices", "was saved with rows chosen beside its files, by an old version of datasets; save it again"),
        ("no images", "has no column of images; its columns are text, label, score"),
        ("no test", r"must hold train and test \(or validation\), as a DatasetDict"),
    ],
)
def test_what_is_wrong_with_what_was_saved_is_named(tmp_path, what, message):
    spoilt(tmp_path, what)
    with pytest.raises(UsageError, match=message):
        read(tmp_path, workers=0)


def test_what_was_saved_needs_a_kind_and_pyarrow(tmp_path, monkeypatch):
    save_parts(tmp_path, train=texts(4), test=texts(4))
    with pytest.raises(UsageError, match=r"is what datasets saved: say text, table or images, with the folder as"):
        DATASETS.named(str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"holds Arrow files, which need pyarrow: pip install 'tombola\[parquet\]'"):
        loaded("table", tmp_path)


def test_what_datasets_itself_saves(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})

    def made(count):
        images = [Image.open(io.BytesIO(png(row))) for row in range(count)]
        columns = {"image": images, "label": [row % 2 for row in range(count)]}
        return datasets.Dataset.from_dict(columns, features=kinds).select(range(1, count))

    datasets.DatasetDict({"train": made(9), "test": made(5)}).save_to_disk(tmp_path, num_shards={"train": 2, "test": 1})
    found = read(tmp_path, workers=0)
    assert (found.classes, len(found.train), len(found.test)) == (2, 8, 4)
    assert found.train.image(0).shape == (3, 21, 30)
    assert found.train.targets.tolist() == [1, 0] * 4


def test_the_command_line_trains_on_shards(tmp_path, capsys):
    sharded(tmp_path / "data")
    options = ["--data", "images", "--data-dir", str(tmp_path / "data"), "--image-size", "16", "--workers", "0"]
    options += ["--held-out", "0", "--epochs", "2", "--milestones", "[]", "--rewind-to", "1", "--density", "0.1"]
    found = as_json(capsys, "run", *options, "--finder", "random", "--out", str(tmp_path / "out"))
    assert found["test_accuracy"] >= 0
