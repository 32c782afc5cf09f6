import errno
import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tombola.errors import TombolaError, UsageError
from tombola.storage.archives import read_archive, write_archive
from tombola.storage.files import digest_of, sweep, write_atomically, write_bytes, write_shared
from tombola.storage.identity import differing_keys, digest, digest_tensors
from tombola.storage.store import DiskStore, MemoryStore, claim

STORES = {"disk": DiskStore, "memory": lambda path: MemoryStore()}


@pytest.mark.parametrize("kind", STORES)
def test_artefacts_checkpoints_and_rows(tmp_path, kind):
    store = STORES[kind](tmp_path)
    entry = store.entry("fit", {"a": 1})
    assert entry.get("x") is None
    assert entry.resume() is None
    value = torch.ones(2)
    entry.record({"step": 0})
    entry.checkpoint({"value": value, "step": 1})
    value.zero_()
    again = store.entry("fit", {"a": 1})
    assert again.resume()["value"].tolist() == [1, 1]
    assert again.rows() == [{"step": 0}]
    again.put("x", {"y": [torch.ones(1), 3, "text"]})
    assert again.get("x")["y"][1:] == [3, "text"]
    again.clear_checkpoint()
    assert store.entry("fit", {"a": 1}).resume() is None
    assert store.entry("fit", {"a": 2}).get("x") is None


def test_the_journal_is_cut_back_to_the_checkpoint(tmp_path):
    entry = DiskStore(tmp_path).entry("fit", {})
    entry.record({"step": 0})
    entry.checkpoint({})
    entry.record({"step": 1})
    entry.resume()
    assert entry.rows() == [{"step": 0}]
    entry.clear_checkpoint()
    entry.resume()
    assert entry.rows() == []


def test_checkpoints_fall_due_by_time(tmp_path):
    assert not DiskStore(tmp_path, checkpoint_seconds=60).entry("a", {}).due()
    entry = DiskStore(tmp_path, checkpoint_seconds=0).entry("a", {})
    assert entry.due()
    assert not MemoryStore().entry("a", {}).due()


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for content in (b"first", b"second"):  # what it points to is made, then replaced
        write_bytes(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_bytes() == content
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as other:
        read = other.submit((tmp_path / "pipe").read_bytes)
        digest_of_written = write_bytes(tmp_path / "pipe", b"second")
        assert read.result() == b"second"
    assert (tmp_path / "pipe").is_fifo()
    assert digest_of_written == digest_of(tmp_path / "file")


def test_what_is_open_already_is_added_to(tmp_path):
    path = tmp_path / "notes"
    path.write_text("a year old, ")
    with path.open("a") as notes:  # as a shell's >> opens it
        write_bytes(Path(f"/dev/fd/{notes.fileno()}"), b"and new")
        assert path.read_text() == "a year old, and new"


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_called_so(tmp_path):
    """torch.save closes its archive in a hurry and says something else."""

    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    path = tmp_path / "file"
    with pytest.raises(OSError, match=r"No space left on device: .*file'") as caught:
        write_atomically(path, lambda file: torch.save({"a": torch.ones(3)}, Full()))
    assert caught.value.filename == str(path)
    with pytest.raises(RuntimeError, match="of the archive"):
        write_atomically(path, lambda file: raise_runtime_error())
    assert not any(tmp_path.iterdir())


def test_ctrl_c_while_a_file_is_written_is_an_interruption(tmp_path):
    class Interrupted:
        written = 0

        def write(self, content):
            self.written += 1
            if self.written == 2:
                raise KeyboardInterrupt(15)
            return len(content)

        def flush(self):
            pass

    with pytest.raises(KeyboardInterrupt, match="15"):
        write_atomically(tmp_path / "file", lambda file: torch.save({"a": torch.ones(3)}, Interrupted()))
    assert not any(tmp_path.iterdir())


def raise_runtime_error():
    raise RuntimeError("of the archive")


def test_another_configuration_is_refused_with_the_differing_keys(tmp_path):
    claim(tmp_path / "run", {"config": {"steps": 5, "seed": 0}, "data": "x"})
    claim(tmp_path / "run", {"config": {"steps": 5, "seed": 0}, "data": "x"})
    with pytest.raises(UsageError, match=r"it differs in config\.seed, data: choose another --out"):
        claim(tmp_path / "run", {"config": {"steps": 5, "seed": 1}, "data": "y"})


def test_damaged_artefacts_say_what_to_do(tmp_path):
    entry = DiskStore(tmp_path).entry("a", {})
    entry.put("x", 1)
    (entry.directory / "x.pt").write_bytes(b"junk")
    with pytest.raises(TombolaError, match=r"x\.pt is damaged .* delete it"):
        entry.get("x")


def said_by(path, lines):
    """Return an entry that tells what it says to a list."""
    return DiskStore(path, say=lines.append).entry("fit", {})


def lose(journal):
    journal.unlink()


def empty(journal):
    journal.write_bytes(b"")


def cut(journal):
    journal.write_bytes(journal.read_bytes()[:-3])


def change(journal):
    journal.write_bytes(journal.read_bytes().replace(b"0", b"7"))


def zeros(journal):
    journal.write_bytes(bytes(journal.stat().st_size))


@pytest.mark.parametrize("harm", [lose, empty, cut, change, zeros])
def test_a_journal_that_its_checkpoint_does_not_know_is_begun_anew(tmp_path, harm):
    lines = []
    entry = said_by(tmp_path, lines)
    entry.record({"step": 0})
    entry.record({"step": 10})
    entry.checkpoint({"step": 11})
    harm(entry.directory / "metrics.jsonl")
    again = said_by(tmp_path, lines)
    assert again.resume() is None
    assert again.rows() == []
    (line,) = lines
    assert "checkpoint.pt cannot be gone on from" in line
    assert "begins anew" in line
    assert again.resume() is None
    assert len(lines) == 1, "said once"
    again.record({"step": 0})
    assert again.rows() == [{"step": 0}]


@pytest.mark.parametrize("content", [{"state": {}, "journal": 10**12, "sha256": ""}, {"state": {}, "journal": -1}, 3])
@pytest.mark.parametrize("signed", [True, False])
def test_a_checkpoint_that_makes_no_sense_is_begun_anew(tmp_path, content, signed):
    lines = []
    entry = said_by(tmp_path, lines)
    entry.record({"step": 0})
    entry.checkpoint({"step": 1})
    path = entry.directory / "checkpoint.pt"
    write_archive(path, content) if signed else torch.save(content, path)
    assert said_by(tmp_path, lines).resume() is None
    assert len(lines) == 1
    assert not path.exists()
    assert not (entry.directory / "metrics.jsonl").exists()


def test_a_store_without_a_listener_warns(tmp_path):
    entry = DiskStore(tmp_path).entry("fit", {})
    entry.checkpoint({})
    (entry.directory / "checkpoint.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="begins anew"):
        DiskStore(tmp_path).entry("fit", {}).resume()


@pytest.mark.parametrize("harm", [lose, empty, cut, change, zeros])
@pytest.mark.parametrize("also", [False, True])
def test_the_journal_of_finished_work_is_what_it_was(tmp_path, harm, also):
    entry = DiskStore(tmp_path).entry("fit", {})
    entry.record({"step": 0})
    entry.put("trained", 1)
    assert DiskStore(tmp_path).entry("fit", {}).rows() == [{"step": 0}]
    harm(entry.directory / "metrics.jsonl")
    if also:
        (entry.directory / "journal.json").unlink()
    with pytest.raises(TombolaError, match=r"metrics\.jsonl is damaged; delete the directory .*fit-"):
        DiskStore(tmp_path).entry("fit", {}).rows()


def test_work_that_goes_on_behind_an_artefact_keeps_its_journal(tmp_path):
    """As the dense training does, which is asked for one epoch first and for all of them later."""
    entry = DiskStore(tmp_path).entry("dense", {})
    for epoch in (1, 2):
        assert (entry.resume() or {"epoch": 0})["epoch"] == epoch - 1
        entry.record({"epoch": epoch})
        entry.checkpoint({"epoch": epoch})
        entry.put(f"epoch-{epoch}", epoch)
    entry.clear_checkpoint()
    again = DiskStore(tmp_path).entry("dense", {})
    assert again.rows() == [{"epoch": 1}, {"epoch": 2}]
    assert (again.get("epoch-1"), again.get("epoch-2")) == (1, 2)


def test_an_entry_that_is_only_looked_at_leaves_nothing(tmp_path):
    root = tmp_path / "store"
    entry = DiskStore(root).entry("draw", {})
    assert (entry.get("x"), entry.resume(), entry.rows(), entry.due()) == (None, None, [], False)
    assert not root.exists()
    with entry.locked():
        assert not entry.directory.exists()


@pytest.mark.parametrize("value", [torch.zeros(3000), {"a": torch.ones(3000), "b": [1, "x"]}, 3, None])
def test_every_flipped_bit_of_an_artefact_is_damage(tmp_path, value):
    """Written plainly, or compressed where it is mostly zeros."""
    path = tmp_path / "x.pt"
    write_archive(path, value)
    before = path.read_bytes()
    assert (len(before) < 3000) == (not isinstance(value, dict))
    assert str(read_archive(path)) == str(value)
    for at in [*range(0, len(before), 97), *range(len(before) - 80, len(before))]:
        changed = bytearray(before)
        changed[at] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="digest"):
            read_archive(path)


def test_an_artefact_of_another_place_is_none_of_this(tmp_path):
    store = DiskStore(tmp_path)
    one, other = store.entry("fit", {"a": 1}), store.entry("fit", {"a": 2})
    one.put("x", 1)
    other.put("x", 2)
    (one.directory / "x.pt").write_bytes((other.directory / "x.pt").read_bytes())
    with pytest.raises(TombolaError, match=r"x\.pt is damaged"):
        one.get("x")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 5000])
def test_damaged_json_says_so(tmp_path, content):
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(TombolaError, match=r"identity\.json is damaged .* delete it"):
        claim(tmp_path, {})


def test_of_many_claims_at_once_one_wins(tmp_path):
    for trial in range(20):
        directory, start = tmp_path / str(trial), threading.Barrier(8)

        def attempt(number, directory=directory, start=start):
            start.wait()
            try:
                claim(directory, {"number": number})
            except UsageError as error:
                return str(error)
            return number

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(attempt, range(8)))
        winners = [each for each in found if isinstance(each, int)]
        assert len(winners) == 1
        assert json.loads((directory / "identity.json").read_text()) == {"number": winners[0]}
        assert [path.name for path in directory.iterdir()] == ["identity.json"]


def no_links(source, target):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_claims_and_shared_files_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    claim(tmp_path / "run", {"a": 1})
    claim(tmp_path / "run", {"a": 1})
    with pytest.raises(UsageError, match="differs in a"):
        claim(tmp_path / "run", {"a": 2})
    write_shared(tmp_path / "x", b"content", tmp_path / "pool")
    assert (tmp_path / "x").read_bytes() == b"content"
    assert list((tmp_path / "pool").iterdir()) == []


def test_equal_files_are_shared_and_damage_of_one_is_not_taken_over(tmp_path):
    one, other, third, pool = (tmp_path / name for name in ("one", "other", "third", "pool"))
    digests = {write_shared(path, b"content", pool) for path in (one, other)}
    assert digests == {digest_of(one)}
    assert one.samefile(other)
    one.write_bytes(b"c0ntent")
    assert write_shared(third, b"content", pool) in digests
    assert write_shared(other, b"content", pool) in digests
    assert third.read_bytes() == other.read_bytes() == b"content"


def write_half(path, started):
    def half(sink):
        sink.write(b"half")
        sink.flush()
        started.set()
        time.sleep(60)

    write_atomically(path, half)


def test_what_a_killed_process_left_of_a_file_is_swept_away(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=write_half, args=(tmp_path / "weights", started))
    process.start()
    assert started.wait(60)
    (partial,) = tmp_path.iterdir()
    assert sweep(tmp_path) == [], "it is being written"
    process.kill()
    process.join()
    assert sweep(tmp_path, dry=True) == [(partial, 4)]
    assert partial.exists()
    claim(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]


def test_partial_files_of_other_machines_are_swept_away_when_they_are_old(tmp_path):
    names = [".x.elsewhere-123.1-0.partial", ".x.partial", ".x.other.partial"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert sweep(tmp_path) == []
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    assert [path.name for path, _ in sweep(tmp_path)] == names[:1]


def test_a_name_as_long_as_a_directory_can_hold(tmp_path):
    write_bytes(tmp_path / ("x" * 250), b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 250]


def hold(path, started):
    with DiskStore(path).entry("a", {}).locked():
        started.set()
        time.sleep(60)


def test_a_lock_falls_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=hold, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    process.kill()
    process.join()
    with DiskStore(tmp_path).entry("a", {}).locked():
        assert not process.is_alive()


def test_hashes_depend_on_content_not_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    ones = {"a": torch.ones(2), "b": torch.zeros(2, 1)}
    assert digest_tensors(ones) == digest_tensors(dict(reversed(ones.items())))
    others = (
        {"a": torch.ones(2), "b": torch.zeros(1, 2)},
        {"a": torch.ones(2).double(), "b": torch.zeros(2, 1)},
        {"a": torch.ones(2), "c": torch.zeros(2, 1)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2, 1)},
    )
    assert all(digest_tensors(other) != digest_tensors(ones) for other in others)
    assert digest_tensors({"a": torch.tensor(3)}) != digest_tensors({"a": torch.tensor(4)})


def test_differing_keys_are_dotted():
    assert differing_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 9}, "e": 3}) == ["a.c", "d", "e"]
    assert json.dumps(differing_keys({"a": None}, {})) == '["a"]'
