import errno
import json
import multiprocessing
import time

import pytest
import torch

from tombola.errors import TombolaError, UsageError
from tombola.files import write_atomically, write_bytes
from tombola.identity import differing_keys, digest, digest_tensors
from tombola.store import DiskStore, MemoryStore, claim

STORES = {"disk": DiskStore, "memory": lambda path: MemoryStore()}


@pytest.mark.parametrize("kind", STORES)
def test_artefacts_checkpoints_and_rows(tmp_path, kind):
    store = STORES[kind](tmp_path)
    stage = store.stage("fit", {"a": 1})
    assert stage.get("x") is None
    assert stage.resume() is None
    value = torch.ones(2)
    stage.record({"step": 0})
    stage.checkpoint({"value": value, "step": 1})
    value.zero_()
    again = store.stage("fit", {"a": 1})
    assert again.resume()["value"].tolist() == [1, 1]
    assert again.rows() == [{"step": 0}]
    again.put("x", {"y": [torch.ones(1), 3, "text"]})
    assert again.get("x")["y"][1:] == [3, "text"]
    again.clear_checkpoint()
    assert store.stage("fit", {"a": 1}).resume() is None
    assert store.stage("fit", {"a": 2}).get("x") is None


def test_the_journal_is_cut_back_to_the_checkpoint(tmp_path):
    stage = DiskStore(tmp_path).stage("fit", {})
    stage.record({"step": 0})
    stage.checkpoint({})
    stage.record({"step": 1})
    stage.resume()
    assert stage.rows() == [{"step": 0}]
    stage.clear_checkpoint()
    stage.resume()
    assert stage.rows() == []


def test_checkpoints_fall_due_by_time(tmp_path):
    assert not DiskStore(tmp_path, checkpoint_seconds=60).stage("a", {}).due()
    stage = DiskStore(tmp_path, checkpoint_seconds=0).stage("a", {})
    assert stage.due()
    assert not MemoryStore().stage("a", {}).due()


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


def raise_runtime_error():
    raise RuntimeError("of the archive")


def test_another_configuration_is_refused_with_the_differing_keys(tmp_path):
    claim(tmp_path / "run", {"config": {"steps": 5, "seed": 0}, "data": "x"})
    claim(tmp_path / "run", {"config": {"steps": 5, "seed": 0}, "data": "x"})
    with pytest.raises(UsageError, match=r"it differs in config\.seed, data: choose another --out"):
        claim(tmp_path / "run", {"config": {"steps": 5, "seed": 1}, "data": "y"})


def test_damaged_artefacts_say_what_to_do(tmp_path):
    stage = DiskStore(tmp_path).stage("a", {})
    stage.put("x", 1)
    (stage.directory / "x.pt").write_bytes(b"junk")
    with pytest.raises(TombolaError, match=r"x\.pt is damaged .* delete it"):
        stage.get("x")


def hold(path, started):
    with DiskStore(path).stage("a", {}).locked():
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
    with DiskStore(tmp_path).stage("a", {}).locked():
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
