"""Damaged, hostile and absurd files: equal data, or one sentence that names the file."""

import gzip
import io
import lzma
import os
import random
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from tombola.data import folder, load
from tombola.data.idx import read_idx
from tombola.data.sources.cifar import Cifar10
from tombola.data.sources.folder import Folder
from tombola.errors import UsageError, shown

from .conftest import at, flipped
from .test_cifar_binary import TEN, write_ten
from .test_data import write_dataset
from .test_folder import contents, picture, write_folder, write_tar

pytestmark = pytest.mark.usefixtures("cache")

NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@contextmanager
def refused(message, memory=64 << 20):
    """Expect one printable sentence, and no more memory than a few times what is read at once."""
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=message) as found:
            yield
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert str(found.value).isprintable()


def train(data):
    return folder.load_part(data, "train")


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        (f"{NOT_UTF8}/1.png", r"caf\\udce9/1\.png"),
        ("a/two\nlines.png", r"a/two\\nlines\.png"),
        ("two\nlines/1.png", r"two\\nlines/1\.png"),
        ("a/\x1b[31mred.png", r"a/\\x1b\[31mred\.png"),
    ],
)
def test_names_that_are_no_line_of_text(data, cache, kind, name, escaped):
    files = {**contents(2), name: picture(3)}
    if kind == "folder":
        write_folder(data / "train", files)
    else:
        write_tar(data / "train.tar", files)
    with refused(rf"data/train.*: {escaped} has a name that is not one line of UTF-8; rename it"):
        train(data)
    assert not cache.exists()


def test_other_files_and_the_folder_itself_may_have_any_name(tmp_path, data):
    write_folder(data / "train", contents(2))
    expected = train(data)
    write_folder(data / "train", {"notes\n": b"", f"a/{NOT_UTF8}.txt": b""})
    assert same(train(data), expected)
    odd = tmp_path / f"{NOT_UTF8}\n"
    write_folder(odd / "train", contents(2))
    assert same(train(odd), expected)
    with refused(r"data_dir: .*caf\\udce9\\n holds none of test"):
        Folder(str(odd)).read(None)
    wide = {"a/全角　空白.png": picture(1), "b/ñ.png": picture(2)}
    write_folder(tmp_path / "wide" / "train", wide)
    assert len(train(tmp_path / "wide")[0]) == 2


def header(name, size, kind=tarfile.REGTYPE, content=b""):
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT) + content


END = bytes(1024)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("a/1.png", 10**15), r"a/1\.png says it has 1,000,000,000,000,000 bytes; at most 268,435,456 are read"),
        (header("notes.txt", 10**15), r"notes\.txt says it has 1,000,000,000,000,000 bytes"),
        (header("a/1.png", -512), "says it has -512 bytes|a damaged one"),
        (header("a/1.png", 10**6), "a damaged one"),
        (header("x", 10**15, tarfile.XHDTYPE), "a damaged one .*1,000,000,000,000,"),
        (header("x", 10**15, tarfile.GNUTYPE_LONGNAME), "a damaged one .*1,000,000,000,000,"),
        (header("a/1.png", 10**15, tarfile.GNUTYPE_SPARSE), "a/1.png is a link or has holes"),
        (header("a/1.png", 0, tarfile.GNUTYPE_LONGNAME) * 3_000, "a damaged one"),
        (header("a/1.png", 0, tarfile.LNKTYPE), "a/1.png is a link or has holes"),
        (header("a/1.png", 0, tarfile.SYMTYPE), "a/1.png is a link or has holes"),
    ],
)
def test_headers_of_archives_are_not_believed(data, pack, content, message):
    data.mkdir()
    (data / "train.tar").write_bytes(pack(content + END))
    with refused(message):
        train(data)


def test_archives_that_unpack_to_gigabytes(data, monkeypatch):
    monkeypatch.setattr("tombola.data.archive.MOST_BYTES", 1 << 20)
    data.mkdir()
    zeros = bytes(1 << 26)
    for content, message in (
        (header("a/1.png", 1 << 26) + zeros, "at most 1,048,576 are read"),
        (header("x", 1 << 26, tarfile.XHDTYPE) + zeros, "a damaged one"),
        (header("a/1.png", 1 << 20) + zeros[: 1 << 20], "a/1.png is not an image"),
        (header("a/1.txt", 0) + zeros, "after 512 bytes there is neither a file nor the end"),
    ):
        (data / "train.tar.gz").write_bytes(gzip.compress(content + END, 1))
        with refused(message, memory=16 << 20):
            train(data)


def png_of(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a/99\.png is not an image: it is empty"),
        (png_of(9_000, 9_000), r"a/99\.png has 9000x9000 pixels; images of 1 to 67,108,864 pixels are read"),
        (png_of(2**31 - 1, 2**31 - 1), r"a/99\.png is not an image .*exceeds limit"),
        (b"P5 99999 99999 255\n", r"a/99\.png is not an image .*exceeds limit"),
        (b"GIF89a", r"a/99\.png is not an image"),
        (b"\0" * 99, r"a/99\.png is not an image of a known format$"),
    ],
)
def test_images_that_are_none_or_absurd(data, cache, kind, content, message):
    files = {**contents(2), "a/99.png": content}
    if kind == "folder":
        write_folder(data / "train", files)
    else:
        write_tar(data / "train.tar", files)
    with refused(message):
        train(data)
    assert not cache.exists()


def test_a_file_that_is_too_large_for_an_image(data, monkeypatch):
    monkeypatch.setattr(folder, "MOST_BYTES", 1 << 20)
    write_folder(data / "train", contents(2))
    with (data / "train" / "a" / "99.png").open("wb") as file:
        file.truncate(1 << 40)
    with refused(r"a/99\.png has more than 1,048,576 bytes; no larger image is read"):
        train(data)


def test_links_are_followed_and_never_in_circles(tmp_path, data):
    write_folder(tmp_path / "elsewhere", contents(2))
    (data / "train").mkdir(parents=True)
    for name in "ab":
        (data / "train" / name).symlink_to(tmp_path / "elsewhere" / name)
    images, labels, names = train(data)
    assert (len(images), labels.tolist(), names) == (4, [0, 0, 1, 1], ["a", "b"])
    loop = tmp_path / "elsewhere" / "a" / "loop"
    for target in (data / "train", tmp_path / "elsewhere" / "b", tmp_path / "elsewhere" / "a"):
        loop.symlink_to(target)
        with refused("train/a.* leads to a folder that is there already; each may be there once|train/b leads"):
            train(data)
        loop.unlink()
    for name, target in (("circle.png", "circle.png"), ("lost.png", "nowhere.png")):
        (tmp_path / "elsewhere" / "a" / name).symlink_to(target)
        with refused(rf"train/a/{name} is no file, and no link to one"):
            train(data)
        (tmp_path / "elsewhere" / "a" / name).unlink()
    (data / "test").symlink_to("test")
    with refused("data_dir: .*data holds none of test, test.tar"):
        load(at("folder", data))


def test_what_cannot_be_read(data, monkeypatch):
    write_folder(data / "train", contents(2))
    picture_of_memory = data / "train" / "a" / "9.png"
    picture_of_memory.symlink_to("/proc/self/mem")
    with refused(r"a/9\.png cannot be read \(OSError: .*\)"):
        train(data)
    picture_of_memory.unlink()
    os.mkfifo(picture_of_memory)
    with refused(r"a/9\.png is no file, and no link to one"):
        train(data)
    picture_of_memory.unlink()

    def forbidden(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    with refused("cannot list .*data/train: Permission denied"):
        train(data)


def test_class_folders_without_images(data):
    write_folder(data / "train", contents(2))
    write_tar(data / "test.tar", contents(2))
    (data / "train" / ".thumbnails").mkdir()
    (data / "train" / "a" / "inner").mkdir()
    assert train(data)[2] == ["a", "b"]
    write_folder(data / "train", {"c/notes.txt": b"none"})
    with refused("train: the class folder c holds no images"):
        train(data)
    with tarfile.open(data / "test.tar", "a") as archive:
        member = tarfile.TarInfo("d")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    with refused(r"test\.tar: the class folder d holds no images"):
        folder.load_part(data, "test")


def test_wrapped_class_folders_may_lie_beside_others(data):
    write_folder(data / "train" / "images", contents(2))
    write_folder(data / "train", {"documents/notes.txt": b"none"})
    assert train(data)[2] == ["a", "b"]
    (data / "train" / "images" / "c").mkdir()
    with refused("train: the class folder images/c holds no images"):
        train(data)


def same(found, expected):
    return torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]) and found[2:] == expected[2:]


def kept(cache):
    (found,) = cache.iterdir()
    return found


def test_a_cache_is_used_only_where_it_is_what_was_written(data, cache, monkeypatch):
    write_folder(data / "train", contents(2))
    expected = train(data)
    path = kept(cache)
    whole = path.read_bytes()
    decoded = []
    decode = folder._decode
    monkeypatch.setattr(folder, "_decode", lambda *arguments: decoded.append(1) or decode(*arguments))
    assert same(train(data), expected)
    assert not decoded
    for content in (
        b"", b"junk", whole[:9], whole[: len(whole) // 2], whole[:-1], whole + b"\0", b"\xff" * 8 + whole[8:],
        torch_file(), *(flipped(whole, bit) for bit in range(0, 8 * len(whole), 37)),
    ):  # fmt: skip
        decoded.clear()
        path.write_bytes(content)
        assert same(train(data), expected)
        assert path.read_bytes() == whole
    path.write_bytes(flipped(whole, 8 * len(whole) - 1))
    decoded.clear()
    train(data)
    assert decoded == [1]


def torch_file():
    from safetensors.torch import save

    return save({"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "labels": torch.zeros(2).long()})


def test_a_cache_that_cannot_be_written(data, cache):
    write_folder(data / "train", contents(2))
    cache.write_text("a file")
    with refused(
        r"decoded images cannot be kept in .*cache/folder-.*; the variable TOMBOLA_CACHE names another folder"
    ):
        train(data)


def idx(shape, content=b"", kind=b"\0\0\x08"):
    return kind + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx((2**32 - 1,) * 4), r"says it holds 4294967295 x .* allowed are 1 to 2,147,483,648 in all"),
        (idx((2**31, 2**31, 4)), r"says it holds 2147483648 x 2147483648 x 4 bytes"),  # 2**64: 0 in 64 bits
        (idx((2**31,)), "should hold 2147483648 bytes and holds 0"),
        (idx((0, 28, 28)), "says it holds 0 x 28 x 28 bytes; allowed are 1 to"),
        (idx((1,) * 200, b"1"), "says it has 200 dimensions; allowed are 1 to 4"),
        (idx(()), "says it has 0 dimensions"),
        (idx((2, 2))[:9], "is cut off in its header"),
        (idx((2, 2), b"12345"), "should hold 2 x 2 bytes and holds more"),
        (idx((2,), b"12", b"\0\0\x0d"), "is not an idx file of bytes"),
        (idx((4,), bytes(1 << 28)), "should hold 4 bytes and holds more"),
        (b"", "is not an idx file of bytes"),
    ],
)
def test_headers_of_idx_files_are_not_believed(tmp_path, ending, content, message):
    path = tmp_path / f"images{ending}"
    path.write_bytes(gzip.compress(content, 1) if ending else content)
    with refused(rf"images(\.gz)? {message}"):
        read_idx(path)


def test_idx_files_of_other_things(tmp_path):
    write_dataset(tmp_path, "")
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx((40,), bytes([0] * 39 + [10])))
    with refused(r"train-labels-idx1-ubyte holds the label 10; allowed are 0 to 9"):
        load(at("fashion-mnist", tmp_path))
    labels.write_bytes(idx((39,), bytes(39)))
    with refused("train-images-idx3-ubyte and .*train-labels-idx1-ubyte do not belong together"):
        load(at("fashion-mnist", tmp_path))
    labels.unlink()
    labels.symlink_to("/proc/self/mem")
    with refused("cannot read .*train-labels-idx1-ubyte: "):
        load(at("fashion-mnist", tmp_path))


def test_a_name_is_shown_on_one_line_of_text():
    assert shown(f"a\nb\x1b{NOT_UTF8}\u2028ü 全") == r"a\nb\x1bcaf\udce9\u2028ü 全"


def mutated(content, chance):
    """Change a few bytes, bits or lengths, or cut, repeat or take out a piece."""
    changed = bytearray(content)
    place = chance.randrange(len(changed))
    length = chance.randrange(1, 40)
    kind = chance.randrange(6)
    if kind == 0:
        changed[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        changed[place : place + length] = chance.randbytes(len(changed[place : place + length]))
    elif kind == 2:
        del changed[place:]
    elif kind == 3:
        del changed[place : place + length]
    elif kind == 4:
        changed[place:place] = changed[place : place + length]
    else:
        changed[place : place + 4] = chance.choice([bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
    return bytes(changed)


def outcome(read):
    """Return what is read, or None for a sentence; nothing else may come out."""
    try:
        return read()
    except UsageError:
        return None


def small_idx(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    content = idx((3, 4, 5), bytes(range(60)))
    path.write_bytes(gzip.compress(content) if ending else content)
    return path, lambda: read_idx(path)


def small_cifar(tmp_path, ending):
    write_ten(tmp_path, ending, count=1)
    path = tmp_path / f"{TEN[1]}{ending}"
    return path, lambda: Cifar10(str(tmp_path)).read(None)


def small_tar(tmp_path, ending):
    data = tmp_path / "data"
    path = data / f"train.tar{ending}"
    write_tar(path, contents(2), f"w:{ending[1:]}")
    return path, lambda: uncached(data)


def small_cache(tmp_path, ending):
    write_folder(tmp_path / "data" / "train", contents(2))
    train(tmp_path / "data")
    return kept(tmp_path / "cache"), lambda: train(tmp_path / "data")


def uncached(data):
    source = folder.find_part(data, "train")
    return folder._decode(source, None)


def tensors(found):
    if isinstance(found, torch.Tensor):
        return [found]
    return [found[0], found[1]] if isinstance(found, tuple) else [*found.train, *found.test]


def check_mutations(tmp_path, make, ending, count, written=None):
    """Mutate a file: what is read must be what it was, or what `written` says of the changed file's content."""
    path, read = make(tmp_path, ending)
    whole = path.read_bytes()
    expected = [tensor.clone() for tensor in tensors(read())]  # a cache's are the file's own memory
    refusals = 0
    for seed in range(count):
        content = mutated(whole, random.Random(seed))
        path.write_bytes(content)
        found = outcome(read)
        refusals += found is None
        if found is not None and not all(map(torch.equal, tensors(found), expected)):
            assert written is not None, f"seed {seed}: other data"
            assert written(found) == content, f"seed {seed}: not what the file holds"
    return refusals


def as_idx(found):
    return idx(tuple(found.shape), found.numpy().tobytes())


def as_second_batch(found):
    images, labels = found.train
    count = len(labels) - 4  # all other batches have one record
    rows = zip(labels[1 : 1 + count].tolist(), images[1 : 1 + count].numpy(), strict=True)
    return b"".join(bytes([label]) + image.tobytes() for label, image in rows)


FUZZED = [
    (small_idx, "", as_idx),
    (small_idx, ".gz", None),
    (small_cifar, "", as_second_batch),
    (small_cifar, ".xz", None),
    (small_cifar, ".gz", None),
    (small_tar, ".gz", None),
    (small_tar, ".xz", None),
    (small_cache, "", None),
]


@pytest.mark.parametrize(("make", "ending", "written"), FUZZED)
def test_mutated_files_give_equal_data_or_a_sentence(tmp_path, make, ending, written):
    refusals = check_mutations(tmp_path, make, ending, 60, written)
    assert (refusals > 0) is (make is not small_cache)


@pytest.mark.hard
@pytest.mark.parametrize(("make", "ending", "written"), FUZZED)
def test_many_mutated_files(tmp_path, make, ending, written):
    check_mutations(tmp_path, make, ending, 2_000, written)


def check_headers(tmp_path, count):
    """Change single bytes between the images of a plain archive, where checksums see them."""
    path, read = small_tar(tmp_path, "")
    whole = path.read_bytes()
    expected = read()
    with tarfile.open(path) as archive:
        blocks = [member.offset for member in archive]
    for seed in range(count):
        chance = random.Random(seed)
        changed = bytearray(whole)
        changed[chance.choice(blocks) + chance.randrange(512)] = chance.randrange(256)
        path.write_bytes(changed)
        found = outcome(read)
        assert found is None or same(found, expected), f"seed {seed}"


def test_mutated_headers_of_a_plain_archive(tmp_path):
    check_headers(tmp_path, 60)


@pytest.mark.hard
def test_many_mutated_headers_of_a_plain_archive(tmp_path):
    check_headers(tmp_path, 2_000)


def check_images(kind, count):
    """No damaged image ends in anything but pixels or a sentence."""
    file = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(file, kind)
    for seed in range(count):
        content = mutated(file.getvalue(), random.Random(seed))
        found = outcome(lambda content=content: folder._tensor(folder.decoded("x", content), 4))
        assert found is None or (found.dtype, found.shape[2:]) == (torch.uint8, (4, 4))


IMAGES = ["PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF", "GIF"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", IMAGES)
def test_mutated_images(kind):
    check_images(kind, 60)


@pytest.mark.hard
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", IMAGES)
def test_many_mutated_images(kind):
    check_images(kind, 2_000)


def test_importing_the_data_imports_nothing_heavy():
    code = "import sys, tombola.data; print([m for m in ('sklearn', 'scipy', 'torchvision') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
