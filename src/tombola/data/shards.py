"""Shards of WebDataset: tar files whose members, called alike up to the first point, are one sample."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from tombola.data.archive import Place, places
from tombola.data.folder import is_image
from tombola.data.stored import InShards
from tombola.errors import UsageError, shown

# The member that says the class where nothing else is asked for, and the one that holds fields by name.
CLASS, FIELDS = "cls", "json"


def find_shards(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the shards of a part, by the first of some names that has any: NAME/*.tar, NAME.tar or NAME-0001.tar."""
    for name in names:
        beside = [path for path in root.glob("*.tar") if path.stem.removeprefix(f"{name}-") != path.stem]
        found = [*(root / name).glob("*.tar"), *root.glob(f"{name}.tar"), *beside]
        if found:
            return sorted(found)
    return []


@dataclass
class _Sample:
    """What is known of a sample. shard: its number. rest: the contents of what is no image, by ending."""

    shard: int
    image: Place | None = None
    rest: dict[str, bytes] = field(default_factory=dict)


def read_shards(shards: Sequence[Path], target: str | None) -> tuple[InShards, list[str]]:
    """Return where the images of shards lie, in the order of shards and members, and what each one's class is called.

    target: the ending of the member, or the field of the .json, that says the class; .cls, or the fields label or class
    of the .json, where there is none. Raises UsageError naming a sample without image or class, or with two.
    """
    samples: dict[str, _Sample] = {}
    wanted = {target or CLASS, FIELDS}

    def is_read(name: str) -> bool:
        return _ending(name) in wanted

    for number, shard in enumerate(shards):
        for place in places(shard, lambda name: _is_image(name) or is_read(name), is_read):
            key = f"{number}/{_key(place.name)}"
            sample = samples.setdefault(key, _Sample(number))
            _add(sample, place, f"{shown(shard)}: {shown(place.name)}")
    found, classes = [], []
    for key, sample in samples.items():
        called = f"{shown(shards[sample.shard])}: sample {shown(key.partition('/')[2])}"
        if sample.image is None:
            raise UsageError(f"{called} has no image", option="data_dir")
        found.append((sample.image.name, sample.shard, sample.image.offset, sample.image.size))
        classes.append(_class_of(sample, target, called))
    names = tuple(name for name, *_ in found)
    return InShards(tuple(shards), names, torch.tensor([rest for _, *rest in found]).reshape(-1, 3)), classes


def _key(name: str) -> str:
    """Return what members of one sample have in common: everything up to the first point of the file's name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0]))


def _ending(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[2].lower()


def _is_image(name: str) -> bool:
    """Whether a member is the image of its sample; others, such as a mask called seg.png, have longer endings."""
    return is_image(name) and "." not in _ending(name)


def _add(sample: _Sample, place: Place, called: str) -> None:
    ending = _ending(place.name)
    if not _is_image(place.name):
        if ending in sample.rest:
            raise UsageError(f"{called} is there twice", option="data_dir")
        sample.rest[ending] = place.content
    elif sample.image is not None:
        raise UsageError(f"{called} is a second image of one sample", option="data_dir")
    else:
        sample.image = place


def _class_of(sample: _Sample, target: str | None, called: str) -> str:
    """Return what the class of a sample is called."""
    own = sample.rest.get(target or CLASS)
    if own is not None:
        return _text(own, called).strip()
    fields = _fields(sample, called)
    for name in (target,) if target else ("label", "class", CLASS):
        if isinstance(fields.get(name), str | int) and not isinstance(fields.get(name), bool):
            return str(fields[name])
    wanted = f".{target}, or the field {target} of a .json" if target else ".cls, or the field label of a .json"
    raise UsageError(f"{called} has no class ({wanted})", option="targets")


def _fields(sample: _Sample, called: str) -> dict[Any, Any]:
    text = sample.rest.get(FIELDS)
    if text is None:
        return {}
    try:
        found = json.loads(_text(text, called))
    except (ValueError, RecursionError):
        raise UsageError(f"{called} has a .json that is none", option="data_dir") from None
    return found if isinstance(found, dict) else {}


def _text(content: bytes, called: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{called} has a class that is no text", option="data_dir") from None
