"""Kills at any moment, from outside."""

import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress

import pytest

from tombola.cli.main import main
from tombola.runs import pipeline

from .test_pipeline import contents

pytestmark = [pytest.mark.hard, pytest.mark.timeout(900)]
# Processes begin with what they import; a signal meanwhile is for tests/test_startup.py.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.conftest", "torch._dynamo", "sklearn.datasets", "numba"])
OPTIONS = ["--epochs=8", "--rewind-to=2", "--steps=300", "--threads=1", "--milestones=[6]", "--json"]
KILLS = 6


def work(out):
    run = pipeline.run
    pipeline.run = lambda *arguments, **more: run(*arguments, **more, checkpoint_seconds=0.05)
    os._exit(main(["run", *OPTIONS, "--out", str(out)]))  # at once: a signal behind the command has no meaning


def started(out):
    process = PROCESSES.Process(target=work, args=(out,))
    process.start()
    return process


def rows(out):
    """How many figures the run has written, however fast the machine."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob(".store/*/metrics.jsonl"))


def result(out):
    (directory,) = (path for path in out.iterdir() if not path.name.startswith("."))
    return contents(directory)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    process = started(out)
    process.join()
    assert process.exitcode == 0
    assert rows(out) > 25
    return result(out)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_killed_again_and_again_a_run_ends_in_the_same_bits(expected, tmp_path, how, status):
    chance, ends = random.Random(int(how)), []
    for _ in range(KILLS):
        # More than stood there: a process that is only starting has not been told yet what to do with a signal.
        written = rows(tmp_path) + chance.randint(1, 6)
        process = started(tmp_path)
        while process.is_alive() and rows(tmp_path) < written:
            time.sleep(0.02)
        time.sleep(chance.random() / 10)
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)
        process.join()
        ends.append(process.exitcode)
    assert set(ends) <= {status, 0}, "0 where the run was quicker"
    assert status in ends
    process = started(tmp_path)
    process.join()
    assert process.exitcode == 0
    assert result(tmp_path) == expected
