"""What lies below an --out: its runs, how they stand, and what could be deleted."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.core.measure import ACCURACY, Measure, measure_in
from tombola.errors import TombolaError, UsageError
from tombola.runs.rundir import SHARED, STORE
from tombola.storage import digests
from tombola.storage.files import read_json_object, read_yaml, size_of, sweep
from tombola.storage.leases import Lease, held_alone, holder_of
from tombola.storage.store import CHECKPOINT, LOCKS

FINISHED, DRAWN, UNFINISHED, DAMAGED = "finished", "drawn", "unfinished", "damaged"
# Entries of the store that are only on the way to others: outputs of the dense network, networks along a training.
_ON_THE_WAY = ("teacher-", "course-")
# What entries of a store are called; the names of runs end in eight digits.
_ENTRY = re.compile(r"[a-z-]+-[0-9a-f]{16}")


@dataclass(frozen=True)
class ListedRun:
    """A run, a ticket's training or an audit.

    state: finished; drawn, where only its ticket is; unfinished; or damaged, where files are missing or not as they
    were written. score: on test data, of what is finished, as its measure shows it; an audit's is the ticket's own,
    mean over its seeds. bytes: on the disk, without what it shares in the store.
    """

    name: str
    finder: str | None
    density: float | None
    seed: int | None
    state: str
    score: float | None
    measure: Measure
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the score under the name of its measure."""
        known = ("name", "finder", "density", "seed", "state")
        values = {name: getattr(self, name) for name in known}
        return {**values, self.measure.test: self.score, **self.measure.noted(), "bytes": self.bytes}


def list_runs(out: Path) -> list[ListedRun]:
    """Return the runs below a directory, by name; raises UsageError where there is no such directory."""
    return [_listed(directory) for directory in _runs(out)]


def _runs(out: Path) -> list[Path]:
    """Return the run directories, without what patterns do not find: hidden names, links to elsewhere."""
    try:
        found = sorted(out.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"there is no directory {out}") from None
    return [path for path in found if not path.name.startswith(".") and _is_claimed(path) and not _is_entry(path)]


def _is_claimed(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and (path / "identity.json").is_file()


def _is_entry(path: Path) -> bool:
    return _ENTRY.fullmatch(path.name) is not None and _is_claimed(path)


def kept_by_sparsify(out: Path) -> list[Path]:
    """Return the entries that lie in a directory itself: what `tombola.sparsify(..., out=...)` goes on from."""
    return sorted(path for path in out.iterdir() if _is_entry(path))


def with_runs_below(out: Path) -> list[Path]:
    """Return the directories in a directory that hold runs, or what sparsify keeps, themselves."""
    found = {path.parent.parent for path in out.glob("[!.]*/[!.]*/identity.json") if not path.parent.is_symlink()}
    return sorted(path for path in found if not path.is_symlink() and not _is_claimed(path))


def _listed(directory: Path) -> ListedRun:
    state = _state(directory)
    # What a run found says more than what it was asked for: a training's options do not name its ticket's finder, and
    # a ticket made by hand has none.
    results = ("result.json", "audit.json") if state == FINISHED else ()
    found = {k: v for name in results for k, v in _read(directory / name).items()}
    values = _read(directory / "config.yaml") | ({"finder": "ticket"} if found else {}) | found
    measure = _measure(values)
    return ListedRun(
        name=directory.name,
        finder=_finder(values.get("finder")),
        density=_of_type(values.get("density"), float),
        seed=_of_type(values.get("seed"), int),
        state=state,
        score=_of_type(values.get(measure.test, values.get(f"{measure.test}_mean")), float),
        measure=measure,
        bytes=size_of(directory),
    )


def _measure(values: Mapping[str, Any]) -> Measure:
    try:
        return measure_in(values)
    except UsageError:
        return ACCURACY  # no result of ours: nothing by that name will be found


def _state(directory: Path) -> str:
    try:
        read_json_object(directory / "identity.json")
        known = digests.vouched(directory) or {}
    except (TombolaError, FileNotFoundError):
        return DAMAGED
    written = [name for name, digest in known.items() if digest is not None]
    if digests.unsound(directory, written):
        # A file may be newer than its digest while somebody writes both.
        return UNFINISHED if holder_of(directory.parent / STORE / LOCKS / directory.name) else DAMAGED
    if known and len(written) == len(known):
        return FINISHED
    return DRAWN if "ticket.safetensors" in written else UNFINISHED


def _read(path: Path) -> dict[str, Any]:
    """Return what a file says, nothing where it cannot be read: a damaged run is listed too."""
    try:
        return read_yaml(path, path.name) if path.suffix == ".yaml" else read_json_object(path)
    except (TombolaError, OSError):
        return {}


def _finder(value: Any) -> str | None:
    """Return a finder's name, which a configuration has among the finder's options."""
    name: str | None = _of_type(value.get("name") if isinstance(value, dict) else value, str)
    return name


def _of_type(value: Any, kind: type) -> Any:
    fits = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
    return value if fits else None


@dataclass(frozen=True)
class Cleaned:
    """What was deleted, or would be: paths and their bytes. busy: what another process works on, left alone."""

    paths: tuple[tuple[Path, int], ...]
    busy: tuple[str, ...]

    @property
    def freed(self) -> int:
        """Bytes in all."""
        return sum(size for _, size in self.paths)


def clean(out: Path, everything: bool = False, dry: bool = False, begun: bool = False) -> Cleaned:
    """Delete what can be made again and no finished run needs; results stay.

    A directory of `tombola.sparsify(..., out=...)` holds nothing but what its calls share.

    That is partial files of processes that are gone, files that no run shares any more, and, unless some run is
    unfinished and would begin anew, checkpoints and what is only on the way to other results. everything: the whole
    store, also what an unfinished run would go on from. dry: only say what. begun: whether something is unfinished that
    has no run yet, such as a study. Raises UsageError where there are no runs.
    """
    runs, kept = _runs(out), kept_by_sparsify(out)
    if not runs and not kept and not _is_shared(out):
        raise UsageError(f"{out} holds no runs of tombola; nothing was deleted")
    stores = (out / STORE, out)
    with held_alone([Lease(path) for store in stores for path in sorted((store / LOCKS).glob("*"))]) as busy:
        if everything and busy:
            raise UsageError(
                f"another process works below {out} ({', '.join(busy)}); nothing was deleted", option="all"
            )
        found = _cleaned(out, runs, kept, busy, everything, dry, begun or _is_unfinished(out, runs))
    return Cleaned(tuple(found), tuple(busy))


def could_free(out: Path, begun: bool = False) -> int:
    """Return how many bytes `clean` would delete, without keeping anybody out meanwhile."""
    runs = _runs(out)
    unfinished = begun or _is_unfinished(out, runs)
    found = _cleaned(out, runs, kept_by_sparsify(out), [], everything=False, dry=True, unfinished=unfinished)
    return sum(size for _, size in found)


def is_under_way(out: Path) -> bool:
    """Whether some run, or a call of sparsify, would go on from what lies in the store."""
    return _is_unfinished(out, _runs(out)) or any(map(_is_begun, kept_by_sparsify(out)))


def _cleaned(
    out: Path, runs: list[Path], kept: list[Path], busy: list[str], everything: bool, dry: bool, unfinished: bool
) -> list[tuple[Path, int]]:
    store = out / STORE
    found = [partial for directory in (out, *runs) for partial in sweep(directory, dry)]
    if store.is_dir():
        found += _delete_store(store, dry) if everything else _thin(store, busy, unfinished, dry)
    if everything:
        return found + [_delete(entry, dry) for entry in kept]
    return found + _thin_entries(kept, busy, any(map(_is_begun, kept)), dry)


def _is_unfinished(out: Path, runs: list[Path]) -> bool:
    """Whether some run is, or what the first ones share was begun alone."""
    return any(_state(directory) != FINISHED for directory in runs) or (not runs and _is_shared(out))


def _is_shared(out: Path) -> bool:
    """Whether a store of ours lies in a directory."""
    return (out / STORE / LOCKS).is_dir()


def _is_begun(entry: Path) -> bool:
    """Whether an entry's work was begun and has not come to a result."""
    return not any(path.name != CHECKPOINT for path in entry.glob("*.pt"))


def _delete_store(store: Path, dry: bool) -> list[tuple[Path, int]]:
    size = size_of(store)
    if not dry:
        # First out of the way, at once: a run that begins now makes a store of its own.
        doomed = store.with_name(f"{store.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)  # of an earlier time, which was stopped
        store.rename(doomed)
        shutil.rmtree(doomed)
    return [(store, size)]


def _thin(store: Path, busy: list[str], unfinished: bool, dry: bool) -> list[tuple[Path, int]]:
    entries = sorted(path for path in store.iterdir() if path.is_dir() and path.name not in {LOCKS, SHARED})
    found = _thin_entries(entries, busy, unfinished, dry) + sweep(store / SHARED, dry)
    unshared = [path for path in sorted((store / SHARED).glob("[!.]*")) if path.stat().st_nlink == 1]
    return found + [_delete(path, dry) for path in unshared if not busy]


def _thin_entries(entries: list[Path], busy: list[str], unfinished: bool, dry: bool) -> list[tuple[Path, int]]:
    found = []
    for entry in entries:
        if entry.name in busy:
            continue
        found += sweep(entry, dry)
        # While any run is under way, so are entries that it has let go of for the moment.
        if not unfinished and not busy:
            found += [_delete(path, dry) for path in _needless(entry)]
    return found


def _needless(entry: Path) -> Iterator[Path]:
    if entry.name.startswith(_ON_THE_WAY):
        yield entry
    elif (entry / CHECKPOINT).is_file():
        yield entry / CHECKPOINT


def _delete(path: Path, dry: bool) -> tuple[Path, int]:
    size = size_of(path) if path.is_dir() else path.stat().st_size
    if not dry:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path, size
