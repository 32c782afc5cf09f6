"""Locks that a dead process loses, whichever machine it was on."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tombola.storage import leases
from tombola.storage.leases import Lease, LeaseLost, LeaseTaken, held_alone, holder_of
from tombola.storage.store import DiskStore


def of_another_machine(path, age):
    """A lease that somebody elsewhere took, and last touched so many seconds ago."""
    path.mkdir(parents=True)
    (path / "3").write_text(json.dumps({"host": "far", "place": "far-1", "boot": "b", "process": 1, "since": 0.0}))
    os.utime(path / "3", (time.time() - age,) * 2)


def test_one_of_many_holds_a_lease_at_a_time(tmp_path):
    inside, most = 0, 0

    def work(number):
        nonlocal inside, most
        for _ in range(20):
            with Lease(tmp_path / "x"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert most == 1
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["120"], "one file, a tenure higher each time"


def test_of_many_who_find_the_holder_dead_one_takes_over(tmp_path):
    for trial in range(20):
        path, start, taken = tmp_path / str(trial), threading.Barrier(8), []
        of_another_machine(path, age=1000)

        def attempt(number, path=path, start=start, taken=taken):
            lease = Lease(path)
            start.wait()
            try:
                lease.acquire(wait=False)
            except LeaseTaken:
                return
            taken.append(lease)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(attempt, range(8)))
        assert len(taken) == 1
        assert holder_of(path).process == os.getpid()
        taken[0].release()
        assert holder_of(path) is None


def test_who_is_slow_to_take_over_finds_others_ahead(tmp_path, monkeypatch):
    """Between its look and its file others have had the lease, and one has it: the number is free once more."""
    path = tmp_path / "x"
    of_another_machine(path, age=1000)

    def slowly(file):
        file.rename(path / "5")
        return True

    monkeypatch.setattr(leases, "_is_over", slowly)
    with pytest.raises(LeaseTaken):
        Lease(path).acquire(wait=False)
    assert [file.name for file in path.iterdir()] == ["5"]


def test_a_lease_of_another_machine_is_believed_while_its_heart_beats(tmp_path):
    of_another_machine(tmp_path / "x", age=leases.EXPIRY_SECONDS - 10)
    assert holder_of(tmp_path / "x").host == "far"
    with pytest.raises(LeaseTaken, match="x is held by another process"):
        Lease(tmp_path / "x").acquire(wait=False)
    with held_alone([Lease(tmp_path / "x"), Lease(tmp_path / "y")]) as busy:
        assert busy == ["x"]
        assert holder_of(tmp_path / "y")
    assert holder_of(tmp_path / "y") is None


def test_clocks_of_machines_may_differ(tmp_path, monkeypatch):
    of_another_machine(tmp_path / "x", age=10)
    monkeypatch.setattr(leases.time, "time", lambda: 1e12)
    assert holder_of(tmp_path / "x").host == "far"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"process": 3}'])
def test_a_lease_that_is_being_written_is_held(tmp_path, content):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1").write_bytes(content)
    assert holder_of(tmp_path / "x") is not None
    os.utime(tmp_path / "x" / "1", (0, 0))
    assert holder_of(tmp_path / "x") is None


def test_a_number_of_a_process_that_is_used_again_holds_nothing(tmp_path):
    with Lease(tmp_path / "x") as lease:
        (file,) = lease.path.iterdir()
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"started": "1"}))
        assert holder_of(lease.path) is None


def test_who_stood_still_for_too_long_writes_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(leases, "_HEART", leases._Heart())
    entry = DiskStore(tmp_path).entry("fit", {})
    with entry.locked():
        entry.checkpoint({"step": 1})
        path = tmp_path / ".leases" / entry.directory.name
        (path / "2").write_text(json.dumps({"host": "far", "place": "far-1", "boot": "b", "process": 1, "since": 0}))
        time.sleep(0.2)
        for write in (lambda: entry.checkpoint({}), lambda: entry.put("x", 1), lambda: entry.record({})):
            with pytest.raises(LeaseLost, match="taken over by another process"):
                write()
    assert holder_of(path).host == "far", "what another holds is not given back"


def test_who_wakes_up_writes_nothing_before_the_next_heartbeat_either(tmp_path, monkeypatch):
    entry = DiskStore(tmp_path).entry("fit", {})
    with entry.locked():
        entry.checkpoint({"step": 1})
        path = tmp_path / ".leases" / entry.directory.name
        (path / "2").write_text(json.dumps({"host": "far", "place": "far-1", "boot": "b", "process": 1, "since": 0}))
        now = time.time()
        monkeypatch.setattr(leases.time, "time", lambda: now + 70)
        writes = {
            "record": lambda: entry.record({}),
            "put": lambda: entry.put("x", 1),
            "resume": entry.resume,
            "clear": entry.clear_checkpoint,
        }
        for name, write in writes.items():
            entry._lease._lost, entry._lease._beaten = False, now
            with pytest.raises(LeaseLost, match="taken over by another process"):
                write()
            assert (entry.directory / "checkpoint.pt").exists(), name
        assert {file.name for file in entry.directory.iterdir()} == {"identity.json", "checkpoint.pt"}


def test_who_wakes_up_and_was_not_missed_goes_on(tmp_path, monkeypatch):
    with Lease(tmp_path / "x") as lease:
        (file,) = lease.path.iterdir()
        os.utime(file, (0, 0))
        now = time.time()
        monkeypatch.setattr(leases.time, "time", lambda: now + 70)
        lease.check()
        assert file.stat().st_mtime > 0, "it says that it is alive"


def test_a_file_system_that_is_gone_for_a_moment_loses_nothing(tmp_path, monkeypatch):
    def gone(path):
        raise OSError(116, "Stale file handle")

    with Lease(tmp_path / "x") as lease:
        lease._beaten = 0.0
        with monkeypatch.context() as patched:
            patched.setattr(leases.os, "utime", gone)
            lease.check()
        lease.check()
        assert lease._beaten > 0


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(leases, "_HEART", leases._Heart())
    with Lease(tmp_path / "x") as lease:
        (file,) = lease.path.iterdir()
        os.utime(file, (0, 0))
        time.sleep(0.3)
        assert time.time() - file.stat().st_mtime < 10


def test_a_store_that_is_cleaned_away_takes_its_leases_along(tmp_path):
    lease = Lease(tmp_path / "x")
    lease.acquire()
    for file in lease.path.iterdir():
        file.unlink()
    lease.path.rmdir()
    lease.release()
    assert not lease.path.exists()


def test_who_is_interrupted_while_taking_a_lease_leaves_it_free(tmp_path, monkeypatch):
    first = Lease(tmp_path / "a")
    first.acquire()
    first.release()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)  # of the lease before, when the new one is there already
        with pytest.raises(KeyboardInterrupt):
            Lease(tmp_path / "a").acquire()
    Lease(tmp_path / "a").acquire(wait=False)
