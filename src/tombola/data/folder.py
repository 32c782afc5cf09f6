"""Images in class folders: train and test as subfolders or tar files, decoded once and cached."""

import hashlib
import io
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tombola.data.archive import MOST_BYTES, members
from tombola.data.packed import UNREADABLE, read_up_to
from tombola.data.resizing import resize
from tombola.data.tree import tree
from tombola.errors import UsageError, in_words, shown
from tombola.storage.files import write_bytes
from tombola.storage.identity import digest_tensors

_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp")
# Formats that Pillow knows by their first bytes, and reads no image from.
_NO_IMAGES = {"BUFR", "GRIB", "HDF5", "MPEG"}
# A file of a few kilobytes can say that it holds any number of pixels, all of one colour.
_MOST_PIXELS = 8_192 * 8_192

Part = tuple[Tensor, Tensor, list[str]]


def load_part(data_dir: Path, part: str, size: int | None = None) -> Part:
    """Return images (N, C, H, W) uint8, labels (N,) and class names of `data_dir/part`.

    A part is a folder or a tar file (plain, gz, xz) of class folders, inside one wrapping folder or not. size: images
    are resized to size x size pixels. Decoded images lie in the cache ($TOMBOLA_CACHE, else ~/.cache/tombola).
    Raises UsageError that names what is at fault.
    """
    source = find_part(data_dir, part)
    if source is None:
        allowed = ", ".join(candidate.name for candidate in _candidates(data_dir, part))
        raise UsageError(f"{shown(data_dir)} holds none of {allowed}", option="data_dir")
    cached = _cache_file(source, size)
    found = _read_cache(cached)
    if found is None:
        found = _decode(source, size)
        _write_cache(cached, found)
    return found


def find_part(data_dir: Path, part: str) -> Path | None:
    """Return the folder or tar file of a part, or None where there is neither."""
    found = (path for path in _candidates(data_dir, part) if os.path.isdir(path) or os.path.isfile(path))
    return next(found, None)


def _candidates(data_dir: Path, part: str) -> list[Path]:
    return [data_dir / part, *(data_dir / f"{part}{ending}" for ending in _TAR_ENDINGS)]


def is_image(name: str) -> bool:
    """Whether a file's name is an image's."""
    return PurePosixPath(name).suffix.lower() in _IMAGE_ENDINGS


def listed(source: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files below a folder; raises UsageError like `tree`, and for images that are not read.

    Those are images with other endings, in class folders.
    """
    folders, files = tree(source, is_image)
    unread = next((path for path in files if _is_unread(path.name) and path.parent != source), None)
    if unread is not None:
        raise _unread(source, unread.relative_to(source).as_posix())
    return folders, files


def _is_unread(name: str) -> bool:
    """Whether a file's name is that of an image which is not read."""
    ending = os.path.splitext(name)[1].lower()
    return ending not in _IMAGE_ENDINGS and ending in _openable()


def _unread(source: Path, name: str) -> UsageError:
    allowed = ", ".join(_IMAGE_ENDINGS)
    return UsageError(f"{shown(source)}: {shown(name)} is an image that is not read; allowed are {allowed}")


@cache
def _openable() -> frozenset[str]:
    """Return the endings of images that Pillow can read, all of whose plugins are loaded for it."""
    kinds = Image.registered_extensions()
    return frozenset(ending for ending, kind in kinds.items() if kind in Image.OPEN and kind not in _NO_IMAGES)


def _cache_file(source: Path, size: int | None) -> Path:
    """Return where the decoded form of a source lies; the name changes with any file or folder in the source."""
    root = Path(os.environ.get("TOMBOLA_CACHE") or Path.home() / ".cache" / "tombola")
    seen = hashlib.sha256(os.fsencode(f"{source.resolve()}|{size}|upright"))
    folders, files = listed(source) if source.is_dir() else ([], [source])
    for path in files:
        status = path.stat()
        # With its class folder: a rename leaves size and time as they are.
        seen.update(os.fsencode(f"{path.relative_to(source).as_posix()}|{status.st_size}|{status.st_mtime_ns}"))
    for path in folders:
        seen.update(os.fsencode(f"{path.relative_to(source).as_posix()}/"))
    return root / f"folder-{seen.hexdigest()[:24]}.safetensors"


def _read_cache(cached: Path) -> Part | None:
    """Return what was decoded, or None where there is no cache, or one that is not, to the bit, what was written."""
    try:
        with safe_open(cached, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it cannot be iterated
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if expected != digest_tensors(found):
        return None
    return found["images"], found["labels"], bytes(found["names"].tolist()).decode().split("\n")


def _write_cache(cached: Path, part: Part) -> None:
    images, labels, names = part
    text = torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8)
    tensors = {"images": images, "labels": labels, "names": text}
    content = tensors_to_bytes(tensors, {"sha256": digest_tensors(tensors)})
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cached, content)
    except OSError as error:
        raise UsageError(
            f"decoded images cannot be kept in {shown(cached)} ({error.strerror}); "
            "the variable TOMBOLA_CACHE names another folder for them"
        ) from error


def _decode(source: Path, size: int | None) -> Part:
    pixels: dict[str, Tensor] = {}
    folders: set[str] = set()
    for name, content in _entries(source):
        if content is None:
            folders.add(name)
            continue
        if shown(name) != name:
            raise UsageError(f"{shown(source)}: {shown(name)} has a name that is not one line of UTF-8; rename it")
        pixels[name] = _tensor(decoded(f"{shown(source)}: {name}", content), size)
    if not pixels:
        raise UsageError(f"{shown(source)} holds no images in class folders")
    ordered = sorted(pixels)
    classes = classes_of(source, ordered)
    _check_folders(source, folders, ordered)
    names = sorted(set(classes.values()))
    first = pixels[ordered[0]]
    for name in ordered:
        if pixels[name].shape != first.shape:
            hint = " (image_size makes them so)" if pixels[name].shape[1] == first.shape[1] else ""
            sizes = f"{name} is {_size(pixels[name])}, and {ordered[0]} is {_size(first)}"
            raise UsageError(f"{shown(source)}: {sizes}; all must be alike{hint}")
    images = torch.cat([pixels[name] for name in ordered])
    return images, torch.tensor([names.index(classes[name]) for name in ordered]), names


def decoded(what: str, content: bytes) -> Image.Image:
    """Return an upright grey or RGB image of 8 bits a channel; raises UsageError, beginning with `what`, for none."""
    if not content:
        raise UsageError(f"{what} is not an image: it is empty")
    try:
        image = Image.open(io.BytesIO(content))
        if not 0 < image.width * image.height <= _MOST_PIXELS:
            size = f"{image.width}x{image.height}"
            raise UsageError(f"{what} has {size} pixels; images of 1 to {_MOST_PIXELS:,} pixels are read")
        image.load()
        return ImageOps.exif_transpose(_of_bytes(what, image))
    except UsageError:
        raise
    except UnidentifiedImageError as error:
        raise UsageError(f"{what} is not an image of a known format") from error
    except Exception as error:  # of a damaged image Pillow may raise anything
        raise UsageError(f"{what} is not an image ({in_words(error)})") from error


def _of_bytes(what: str, image: Image.Image) -> Image.Image:
    # Pillow gives grey images of 16 bits as I;16 or, of some formats, as I. Its own conversion would clip them at 255.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):
        return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
    if image.mode in {"I", "F"}:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise UsageError(f"{what} has {kind} pixels; images must have 8 or 16 bits a channel")
    return image if image.mode == "L" else image.convert("RGB")


def _tensor(image: Image.Image, size: int | None) -> Tensor:
    """Return an image as (1, C, H, W)."""
    array = np.asarray(image)
    pixels = torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1).unsqueeze(0).contiguous()
    return pixels if size is None else resize(pixels, size)


def _size(pixels: Tensor) -> str:
    _, channels, height, width = pixels.shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def classes_of(source: Path, names: list[str]) -> dict[str, str]:
    """Return the class of each image: the folder it lies in, which is the first, or the second in a wrapping one."""
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    depth = len(folders[names[0]])
    wrapping = {parts[0] for parts in folders.values() if parts} if depth == 2 else {""}
    for name, parts in folders.items():
        if len(parts) != depth or depth not in {1, 2} or len(wrapping) > 1:
            raise UsageError(
                f"{shown(source)}: {name} does not lie in a class folder, or in one wrapping folder of them"
            )
    return {name: parts[-1] for name, parts in folders.items()}


def _check_folders(source: Path, folders: set[str], names: list[str]) -> None:
    """Raise UsageError naming a class folder that holds no images; hidden ones are of programs."""
    filled = {PurePosixPath(name).parts[:-1] for name in names}
    beside = {parts[:-1] for parts in filled}
    for folder in sorted(folders):
        parts = PurePosixPath(folder).parts
        if parts and parts[:-1] in beside and parts not in filled and not parts[-1].startswith("."):
            raise UsageError(f"{shown(source)}: the class folder {shown(folder)} holds no images")


def _entries(source: Path) -> Iterator[tuple[str, bytes | None]]:
    """Give the names of a source's folders (content None) and of its images, with their contents."""
    if not source.is_dir():
        yield from members(source, lambda name: _is_read(source, name))
        return
    folders, files = listed(source)
    for path in folders:
        yield path.relative_to(source).as_posix(), None
    for path in files:
        if is_image(path.name):
            yield path.relative_to(source).as_posix(), content_of(path)


def _is_read(source: Path, name: str) -> bool:
    """Whether a file of an archive is read; raises UsageError for an image in a class folder that is not."""
    if "/" in name and _is_unread(name):
        raise _unread(source, name)
    return is_image(name)


def content_of(path: Path) -> bytes:
    """Return what is in a file; raises UsageError for one that cannot be read, or that no image is as large as."""
    try:
        with path.open("rb") as file:
            content = read_up_to(file, MOST_BYTES + 1)
    except UNREADABLE as error:
        raise UsageError(f"{shown(path)} cannot be read ({in_words(error)})") from error
    if len(content) > MOST_BYTES:
        raise UsageError(f"{shown(path)} has more than {MOST_BYTES:,} bytes; no larger image is read")
    return bytes(content)
