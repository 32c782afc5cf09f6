"""Images in class folders: train and test as subfolders or tar files, decoded once and cached."""

import hashlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tombola.data.resizing import resize
from tombola.errors import UsageError, in_words
from tombola.files import write_bytes

_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
_IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp"}
# Bytes read at once behind an archive's last file.
_AT_ONCE = 1 << 20


def load_part(data_dir: Path, part: str, size: int | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """Return images (N, C, H, W) uint8, labels (N,) and class names of `data_dir/part`.

    A part is a folder or a tar file (plain, gz, xz) of class folders, inside one wrapping folder or not. size: images
    are resized to size x size pixels. Decoded images are kept in the cache ($TOMBOLA_CACHE, else ~/.cache/tombola).
    Raises UsageError that names what is at fault.
    """
    source = _source(data_dir, part)
    kept = _cache_file(source, size)
    if kept.is_file():
        found = load_file(kept)
        names = bytes(found["names"].tolist()).decode().split("\n")
        return found["images"], found["labels"], names
    images, labels, names = _decode(source, size)
    kept.parent.mkdir(parents=True, exist_ok=True)
    text = torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8)
    write_bytes(kept, tensors_to_bytes({"images": images, "labels": labels, "names": text}))
    return images, labels, names


def _source(data_dir: Path, part: str) -> Path:
    candidates = [data_dir / part, *(data_dir / f"{part}{ending}" for ending in _TAR_ENDINGS)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    names = ", ".join(candidate.name for candidate in candidates)
    raise UsageError(f"--data-dir: {data_dir} holds none of {names}")


def _cache_file(source: Path, size: int | None) -> Path:
    """Return where the decoded form of a source lies; the name changes with any file in the source."""
    root = Path(os.environ.get("TOMBOLA_CACHE") or Path.home() / ".cache" / "tombola")
    seen = hashlib.sha256(f"{source.resolve()}|{size}".encode())
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for path in files:
        status = path.stat()
        # With its class folder: a rename leaves size and time as they are.
        seen.update(f"{path.relative_to(source).as_posix()}|{status.st_size}|{status.st_mtime_ns}".encode())
    return root / f"folder-{seen.hexdigest()[:24]}.safetensors"


def _decode(source: Path, size: int | None) -> tuple[Tensor, Tensor, list[str]]:
    pixels: dict[str, Tensor] = {}
    for name, content in _files(source):
        if PurePosixPath(name).suffix.lower() not in _IMAGE_ENDINGS:
            continue
        image = _image(f"{source}: {name}", content)
        pixels[name] = _tensor(image if image.mode == "L" else image.convert("RGB"), size)
    if not pixels:
        raise UsageError(f"{source} holds no images in class folders")
    ordered = sorted(pixels)
    classes = _classes(source, ordered)
    names = sorted(set(classes.values()))
    first = pixels[ordered[0]]
    for name in ordered:
        if pixels[name].shape != first.shape:
            hint = " (--image-size makes them so)" if pixels[name].shape[1] == first.shape[1] else ""
            sizes = f"{name} is {_size(pixels[name])}, and {ordered[0]} is {_size(first)}"
            raise UsageError(f"{source}: {sizes}; all must be alike{hint}")
    images = torch.cat([pixels[name] for name in ordered])
    return images, torch.tensor([names.index(classes[name]) for name in ordered]), names


def _image(what: str, content: bytes) -> Image.Image:
    """Return an image of 8 bits a channel; raises UsageError, beginning with `what`, where there is none."""
    # Beside OSError, these are what Pillow raises of damaged files.
    damage = (SyntaxError, ValueError, Image.DecompressionBombError)
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, *damage) as error:
        raise UsageError(f"{what} is not an image ({error})") from error
    # Pillow gives grey images of 16 bits as I;16 or, of some formats, as I. Its own conversion would clip them at 255.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):
        return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
    if image.mode in {"I", "F"}:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise UsageError(f"{what} has {kind} pixels; images must have 8 or 16 bits a channel")
    return image


def _tensor(image: Image.Image, size: int | None) -> Tensor:
    """Return an image as (1, C, H, W)."""
    array = np.asarray(image)
    pixels = torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1).unsqueeze(0).contiguous()
    return pixels if size is None else resize(pixels, size)


def _size(pixels: Tensor) -> str:
    _, channels, height, width = pixels.shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"


def _classes(source: Path, names: list[str]) -> dict[str, str]:
    """Return the class of each image: the folder it lies in, which is the first, or the second in a wrapping one."""
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    depth = len(folders[names[0]])
    wrapping = {parts[0] for parts in folders.values() if parts} if depth == 2 else {""}
    for name, parts in folders.items():
        if len(parts) != depth or depth not in {1, 2} or len(wrapping) > 1:
            raise UsageError(f"{source}: {name} does not lie in a class folder, or in one wrapping folder of them")
    return {name: parts[-1] for name, parts in folders.items()}


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield str(PurePosixPath(member.name)), file.read()
            _check_end(archive)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise UsageError(f"{source} is not a tar file, or a damaged one ({in_words(error)})") from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Read on behind the last member found, which compares a compressed file's checksum.

    Raises ReadError unless only zeros follow, with which a tar file ends: tarfile takes a damaged header for the end.
    """
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    found = 0
    while chunk := stream.read(_AT_ONCE):
        if chunk.count(0) < len(chunk):
            raise tarfile.ReadError(f"after {archive.offset:,} bytes there is neither a file nor the end")
        found += len(chunk)
    if found < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off")
