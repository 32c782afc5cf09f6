"""Datasets that the cells of a study share: loaded once in a process, and with them their fingerprints."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tombola.data import sources
from tombola.data.sources import DATASETS, Source
from tombola.data.sources.folder import FolderAt
from tombola.data.splits import Normalisation, Splits, Wanted
from tombola.data.targets import IGNORED_PIXEL, Targets

# A study has one dataset; two where it is looked at beside another.
MOST = 2
_shared: OrderedDict[Hashable, Splits] | None = None


@contextmanager
def shared() -> Iterator[None]:
    """Load each dataset once inside the block, as long as its files stay as they are.

    Outside of such a block every `load` reads anew: data of the user's own may come from anywhere.
    """
    global _shared
    before = _shared
    _shared = OrderedDict() if before is None else before
    try:
        yield
    finally:
        _shared = before


def load(
    source: Source | Mapping[str, Any] | str,
    held_out: float = 0.1,
    normalisation: Normalisation | None = None,
    image_size: int | None = None,
    train_samples: int | None = None,
    targets: Targets = Targets.CLASSES,
    ignored: int = IGNORED_PIXEL,
) -> Splits:
    """Return a dataset, as `Wanted` describes it, once for all inside of `shared()`.

    train_samples: see `Splits.with_training`; None: all.
    """
    source = DATASETS.read(source)
    wanted = Wanted(held_out, normalisation or Normalisation(), image_size, targets, ignored)

    def read() -> Splits:
        found = sources.load(source, wanted)
        return found if train_samples is None else found.with_training(train_samples)

    if _shared is None:
        return read()
    folder = source.name if isinstance(source, FolderAt) else getattr(source, "data_dir", None)
    key = (source, wanted, train_samples)
    before = (*key, file_stamp(folder))
    if before not in _shared:
        found = read()
        _shared[(*key, file_stamp(folder))] = found  # a download or a cache may have come to lie there
        while len(_shared) > MOST:
            _shared.popitem(last=False)
        return found
    _shared.move_to_end(before)
    return _shared[before]


def file_stamp(name: str | None) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of change of a file or of a folder's, down to class folders, not of each image."""
    if name is None or not (place := Path(name)).exists():
        return ()
    paths = sorted((place, *place.glob("*"), *place.glob("*/*")))
    found = [(path, path.stat()) for path in paths if path.exists()]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found)
