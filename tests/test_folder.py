import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tombola.data import folder, load
from tombola.errors import UsageError

from .conftest import at

pytestmark = pytest.mark.usefixtures("cache")


def picture(value, size=(4, 4), mode="RGB"):
    shape = size if mode == "L" else (*size, 3)
    file = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8), mode).save(file, "PNG")
    return file.getvalue()


def contents(per_class=5, **options):
    return {
        f"{name}/{i:02}.png": picture(10 * c + i, **options) for c, name in enumerate("ab") for i in range(per_class)
    }


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def write_tar(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def wrapped(files, name="images"):
    return {f"{name}/{inner}": content for inner, content in files.items()}


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("name", ["b/05.gif", "b/05.TIF", "c/1.jp2"])
def test_images_with_other_endings_are_named(tmp_path, kind, wrap, name):
    data = tmp_path / "data"
    for part in ("train", "test"):
        files = wrapped(contents()) if wrap else contents()
        write_folder(data / part, files) if kind == "folder" else write_tar(data / f"{part}.tar", files)
    load(at("folder", data), 0.2)  # what was decoded lies in the cache
    files = {**contents(), name: b"", "a/notes.txt": b"", "a/table.h5": b""}
    files = {"logo.gif": b"", **(wrapped(files) if wrap else files)}
    write_folder(data / "train", files) if kind == "folder" else write_tar(data / "train.tar", files)
    words = rf"train.*: .*{name} is an image that is not read; allowed are .jpg, .jpeg, .png"
    for source in ["folder", "images"] if kind == "folder" else ["folder"]:
        with pytest.raises(UsageError, match=words):
            load({"name": source, "data_dir": str(data)}, image_size=4)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz"])
def test_folders_and_tars(tmp_path, kind, wrap):
    data = tmp_path / "data"
    for part in ("train", "test"):
        files = wrapped(contents()) if wrap else contents()
        files["notes.txt" if not wrap else "images/notes.txt"] = b"not an image"
        if kind == "folder":
            write_folder(data / part, files)
        else:
            write_tar(data / f"{part}.{kind}", files, "w:" + kind[4:] if kind != "tar" else "w")
    splits = load(at("folder", data), held_out=0.2)
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (8, 2, 10)
    assert splits.shape == (3, 4, 4)
    assert splits.classes == 2
    assert splits.test.targets.tolist() == [0] * 5 + [1] * 5
    assert splits.test.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_grey_images_have_one_channel(tmp_path):
    for part in ("train", "test"):
        write_folder(tmp_path / part, contents(mode="L"))
    assert load(at("folder", tmp_path), held_out=0.2).shape == (1, 4, 4)
    with pytest.raises(UsageError, match=r"held_out 0\.1 of 10 training samples leaves a side without"):
        load(at("folder", tmp_path))


def test_images_of_any_size_are_brought_to_one(tmp_path):
    for part in ("train", "test"):
        write_folder(tmp_path / part, {**contents(), "a/99.png": picture(50, size=(7, 3))})
    splits = load(at("folder", tmp_path), held_out=0.2, image_size=2)
    assert splits.shape == (3, 2, 2)
    assert splits.test.inputs[5].unique().tolist() == [50]
    assert load(at("folder", tmp_path), held_out=0.2, image_size=3).shape == (3, 3, 3)


def test_images_are_decoded_once_until_they_change(tmp_path, monkeypatch):
    write_folder(tmp_path / "train", contents())
    first = folder.load_part(tmp_path, "train")
    decode = folder._decode
    monkeypatch.setattr(folder, "_decode", None)
    again = folder.load_part(tmp_path, "train")
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2] == ["a", "b"]
    monkeypatch.setattr(folder, "_decode", decode)
    (tmp_path / "train" / "a" / "00.png").write_bytes(picture(200) + b" ")
    assert folder.load_part(tmp_path, "train")[0].max() == 200


def test_an_image_in_another_class_and_a_renamed_class_are_seen(tmp_path):
    train = tmp_path / "train"
    write_folder(train, {"a/0.png": picture(0), "a/1.png": picture(1), "b/2.png": picture(2), "b/3.png": picture(3)})
    assert folder.load_part(tmp_path, "train")[1].tolist() == [0, 0, 1, 1]
    (train / "a" / "1.png").rename(train / "b" / "1.png")
    assert folder.load_part(tmp_path, "train")[1].tolist() == [0, 1, 1, 1]
    (train / "a").rename(train / "aa")
    assert folder.load_part(tmp_path, "train")[2] == ["aa", "b"]


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_grey_images_of_16_bits_are_scaled_to_8(tmp_path, kind):
    values = np.array([[0, 128, 129, 300], [32768, 40000, 65406, 65535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    write_folder(tmp_path / "train", {"a/1.png": file.getvalue()})
    images, _, _ = folder.load_part(tmp_path, "train")
    assert images.dtype == torch.uint8
    assert images.tolist() == [[[[0, 0, 1, 1], [128, 156, 254, 255]]]]  # v / 257, rounded


def test_images_that_lie_on_their_side_are_put_upright(tmp_path):
    values = np.zeros((2, 4, 3), np.uint8)
    values[0] = 255
    image, file = Image.fromarray(values), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, "PNG", exif=exif)
    write_folder(tmp_path / "train", {"a/1.png": file.getvalue()})
    (found,), _, _ = folder.load_part(tmp_path, "train")
    assert found[0].tolist() == [[0, 255]] * 4


@pytest.mark.parametrize(("kind", "words"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_images_of_32_bits_are_refused(tmp_path, kind, words):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 300, kind)).save(file, "TIFF")
    write_folder(tmp_path / "train", {"a/1.png": file.getvalue()})
    with pytest.raises(UsageError, match=f"a/1.png has {words} pixels; images must have 8 or 16 bits a channel"):
        folder.load_part(tmp_path, "train")


def spoilt(content, start, length=40):
    return content[:start] + bytes(255 - value for value in content[start : start + length]) + content[start + length :]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])
def test_damaged_archives_are_named_in_one_sentence(tmp_path, kind):
    archive = tmp_path / f"train.{kind}"
    write_tar(archive, contents(20), "w:" + kind[4:] if kind != "tar" else "w")
    whole = archive.read_bytes()
    assert len(folder.load_part(tmp_path, "train")[0]) == 40
    member = 1024  # the header and the content of an image
    cut = [whole[:end] for end in (len(whole) // 2, len(whole) - 12)]
    damaged = [spoilt(whole, start) for start in (20, len(whole) // 2, len(whole) - 60)]
    if kind == "tar":
        # Data have no checksum in a plain tar, nor is the second block of zeros needed: only headers and the end.
        cut = [whole[: 20 * member], whole[: 20 * member + 100], whole[: 40 * member]]
        damaged = [spoilt(whole, 20 * member)]
    for content in (*cut, *damaged):
        archive.write_bytes(content)
        with pytest.raises(UsageError, match=r"( is not a tar file, or a damaged one|: .* is not an image)") as found:
            folder.load_part(tmp_path, "train")
        assert str(found.value).startswith(str(archive))
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no images in class folders"),
        ({"a.png": picture(1)}, r"a\.png does not lie in a class folder"),
        ({"x/a/1.png": picture(1), "y/b/1.png": picture(1)}, "in one wrapping folder"),
        ({**contents(), "a/99.png": b"junk"}, r"a/99\.png is not an image"),
        ({**contents(), "a/99.pgm": b"P5 4 four 255\n"}, r"a/99\.pgm is not an image"),
        (
            {**contents(), "a/99.png": picture(1, size=(2, 2))},
            r"a/99\.png is 2x2 with 3 channels, and a/00\.png is 4x4 with 3 channels; .*image_size makes them so",
        ),
        ({**contents(), "a/99.png": picture(1, mode="L")}, r"a/99\.png is 4x4 with 1 channel, .* must be alike$"),
    ],
)
def test_errors_name_the_file(tmp_path, files, message):
    (tmp_path / "train").mkdir()
    write_folder(tmp_path / "train", files)
    with pytest.raises(UsageError, match=message):
        folder.load_part(tmp_path, "train")


def test_errors_name_the_folder_and_the_class(tmp_path):
    with pytest.raises(UsageError, match=r"holds none of train, train\.tar"):
        load(at("folder", tmp_path))
    with pytest.raises(UsageError, match="data_dir: folder needs the folder"):
        load("folder")
    (tmp_path / "train.tar").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"train\.tar is not a tar file"):
        load(at("folder", tmp_path))
    (tmp_path / "train.tar").unlink()
    write_folder(tmp_path / "train", contents())
    write_folder(tmp_path / "test", {**contents(), "c/1.png": picture(1)})
    with pytest.raises(UsageError, match="train and test differ in the classes c"):
        load(at("folder", tmp_path))
    write_folder(tmp_path / "train", {"c/1.png": picture(1)})
    with pytest.raises(UsageError, match="class 2 has 1 training samples"):
        load(at("folder", tmp_path))


def test_cifar_in_torchvisions_files(tmp_path, monkeypatch):
    import torchvision.datasets

    class Small:
        def __init__(self, root, train, download):
            if root != str(tmp_path):
                raise RuntimeError("Dataset not found or corrupted.")
            count = 40 if train else 20
            self.data = np.arange(count * 3 * 32 * 32, dtype=np.uint8).reshape(count, 32, 32, 3)
            self.targets = [i % 10 for i in range(count)]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Small)
    splits = load(at("cifar10", tmp_path), held_out=0.25)
    assert splits.shape == (3, 32, 32)
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (30, 10, 20)
    assert splits.test.inputs[0, :, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="does not hold torchvision's files of CIFAR10"):
        load(at("cifar10", tmp_path / "elsewhere"))
