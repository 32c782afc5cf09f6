"""Kills at any moment, from outside."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .test_pipeline import contents

pytestmark = [pytest.mark.hard, pytest.mark.timeout(900)]


def command(out):
    options = ["--epochs=12", "--rewind-to=2", "--steps=600", "--threads=2", "--milestones=[8]", "--json"]
    code = (
        "import sys, tombola.runs.pipeline as p; from tombola.cli.main import main\n"
        "run = p.run\n"
        "p.run = lambda *arguments, **more: run(*arguments, **more, checkpoint_seconds=0.05)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code, "run", *options, "--out", str(out)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_again_and_again_a_run_ends_in_the_same_bits(tmp_path, how):
    straight = subprocess.run(command(tmp_path / "straight"), capture_output=True, text=True, check=True)
    expected = contents(Path(json.loads(straight.stdout)["run_dir"]))
    moments = random.Random(int(how))
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            command(tmp_path / "killed"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            # The imports alone take seconds; later tries get longer, so that the run ends at last.
            output, _ = process.communicate(timeout=2 + moments.random() * (3 + kills / 2))
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0
        break
    else:
        pytest.fail("the run never ended")
    assert kills >= 1
    found = contents(Path(json.loads(output)["run_dir"]))
    assert found == expected
