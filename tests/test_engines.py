"""Engines: real ones, with workers that are killed in the middle; the results are those of one process, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .test_pipeline import contents

pytestmark = [pytest.mark.hard, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent
# A network that takes its time where it is asked to, and writes checkpoints often.
SLOW = """
import os, time
from torch import nn
from tombola.runs import pipeline, rundir

rundir.store_below.__defaults__ = pipeline.run.__defaults__ = (0.2,)

class Net(nn.Sequential):
    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ.get("SLOW", "0")))
        return super().forward(x)

def build(shape, classes):
    return Net(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
"""
STUDY = """
model: slow:build
data: digits
epochs: 4
milestones: []
steps: 30
threads: 1
finders: [cts, random, ltr:rate=0.5]
densities: [0.5, 0.2]
resources: {cpus: 1}
"""
# Of each step of training, in seconds; a training has 40.
SLOWLY = "0.08"


def environment(folder, slow="0"):
    """What workers see: this checkout, the slow network, and how slow it is to be."""
    path = os.pathsep.join([str(ROOT / "src"), str(folder), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "SLOW": slow, "OMP_NUM_THREADS": "1"}


def study(folder, out, *options, slow="0", **more):
    command = [sys.executable, "-m", "tombola", "study", str(folder / "few.yaml"), "--out", str(out), *options]
    given = {"env": environment(folder, slow), "cwd": folder, "text": True, **more}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **given)


def done(process):
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return out


def wait_for(look, seconds=600):
    """Look again and again until something is seen."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail("it did not come to that")


def in_the_middle(out):
    """A process that holds a task with a checkpoint, read from the files alone: it is seen while it lasts."""
    if not list((out / ".store").glob("*/checkpoint.pt")):
        return None
    for path in (out / ".store" / ".leases").glob("task-*/*"):
        try:
            found = json.loads(path.read_text())
        except ValueError:
            continue
        if "process" in found:
            return found["process"]
    return None


def results(out):
    found = {path.name: contents(path) for path in sorted(Path(out).iterdir()) if (path / "result.json").is_file()}
    assert len(found) == 6
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("study")
    (found / "slow.py").write_text(SLOW)
    (found / "few.yaml").write_text(STUDY)
    return found


@pytest.fixture
def status(folder, tombola_in_bash):
    """What `tombola status` says of a study, None where there is none yet."""

    def asked(out):
        words = f"{tombola_in_bash}tombola status {out} --json"
        found = subprocess.run(["bash", "-c", words], cwd=folder, capture_output=True, text=True, check=False)
        return json.loads(found.stdout) if found.returncode == 0 else None

    return asked


@pytest.fixture(scope="module")
def expected(folder):
    """What one process finds that nobody disturbs."""
    done(study(folder, folder / "straight"))
    return results(folder / "straight")


def trained_by(out):
    """How often each entry's work began anew is not seen in its results; that its journal is whole is."""
    rows = [json.loads(line) for line in next(out.glob("cts-0.5-*/metrics.jsonl")).read_text().splitlines()]
    return [row["epoch"] for row in rows if row["stage"] == "dense training"]


def test_two_processes_share_a_study_and_one_is_killed(folder, expected, status, tmp_path):
    out = tmp_path / "out"
    slow = "0.25"  # time for another process to import PyTorch, and to be looked at, also where much else runs
    one = study(folder, out, slow=slow)
    process = wait_for(lambda: in_the_middle(out))
    assert process == one.pid
    other = study(folder, out, slow=slow)
    wait_for(lambda: len({now["process"] for now in (status(out) or {"running": []})["running"]}) == 2)
    one.kill()
    one.communicate()
    done(other)
    assert results(out) == expected
    assert trained_by(out) == [1, 2, 3, 4]


def test_a_worker_of_several_is_killed(folder, expected, tmp_path):
    out = tmp_path / "out"
    process = study(folder, out, "--jobs", "2", slow=SLOWLY)
    worker = wait_for(lambda: in_the_middle(out))
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    assert "a worker was killed; its task goes on from its last checkpoint" in done(process)
    assert results(out) == expected


def test_workers_end_with_the_command_that_began_them(folder, expected, status, tmp_path):
    out = tmp_path / "out"
    process = study(folder, out, "--jobs", "2", slow=SLOWLY)
    wait_for(lambda: in_the_middle(out))
    process.kill()
    process.communicate()
    wait_for(lambda: not status(out)["running"])
    assert status(out)["tasks"]["waiting"], "nobody goes on"
    done(study(folder, out))
    assert results(out) == expected


def test_ray_with_a_machine_that_is_lost(folder, expected, tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    out = tmp_path / "out"
    before = dict(os.environ)
    os.environ.update(environment(folder, SLOWLY))  # what the cluster's processes inherit
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
        process = study(folder, out, "--engine", "ray", "--address", cluster.address, slow=SLOWLY)
        worker = wait_for(lambda: in_the_middle(out))
        mine = next(machine for machine in machines if worker in descendants(machine))
        cluster.remove_node(mine, allow_graceful=False)
        kill(worker)
        done(process)
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
    assert results(out) == expected
    assert trained_by(out) == [1, 2, 3, 4]


def descendants(machine):
    """The processes of one of the cluster's machines."""
    found = [process.process.pid for processes in machine.all_processes.values() for process in processes]
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = path.read_text().partition(" ")
        except OSError:
            continue
        children.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(number))
    for each in found:
        found += children.get(each, [])
    return found


def kill(process):
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


CONF = """
ClusterName=one
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")


@contextmanager
def slurm(folder):
    """A real Slurm of one node: Debian's slurmctld, slurmd, slurm-client and munge, started here."""
    missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"a Slurm of one node needs {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("a Slurm of one node is started by root alone")
    node = os.uname().nodename.partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(node=node, folder=folder, cpus=len(os.sched_getaffinity(0))))
    started = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    given = {**os.environ, **started}
    munge = []
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge")
        subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", "/usr/sbin/munged"], check=True)
        munge = [Path("/run/munge/munged.pid")]
    try:
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], env=given, check=True)
        try:
            wait_for(lambda: "idle" in asked(given, "sinfo", "-h"), 120)
        except pytest.fail.Exception:
            pytest.skip("the node of Slurm does not become idle on this machine")
        yield started
    finally:
        subprocess.run(["scancel", "--user", "root"], env=given, check=False)
        with suppress(pytest.fail.Exception):  # its daemons must see the jobs' end, which would wait for them otherwise
            wait_for(lambda: not asked(given, "squeue", "-h"), 120)
        for path in (folder / "slurmd.pid", folder / "slurmctld.pid", *munge):
            if path.is_file():
                os.kill(int(path.read_text()), signal.SIGTERM)


def asked(given, *command):
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False).stdout


def test_slurm_with_jobs_whose_time_is_over(folder, expected, status, tmp_path):
    out = tmp_path / "out"
    with slurm(tmp_path) as started:
        given = {**environment(folder, SLOWLY), **started}
        options = ["--engine", "slurm", "--slurm", "partition=main,time=10,parallel=2,cpus=1"]
        refused = study(folder, tmp_path / "refused", "--engine", "slurm", "--slurm", "partition=no,time=10", env=given)
        assert "invalid partition" in refused.communicate()[0]
        assert refused.returncode == 2
        text = done(study(folder, out, *options, env=given))
        assert "0 of 6 cells are finished; tombola status" in text
        wait_for(lambda: in_the_middle(out))
        logs = out / ".study" / "slurm"
        (script,) = logs.glob("*_submission.sh")
        # What Slurm does when a job's time is nearly over, to all jobs of the array.
        subprocess.run(["scancel", "--signal", "USR2", script.name.partition("_")[0]], env=given, check=True)
        wait_for(lambda: said(logs, "Requeued job"))
        assert status(out)["tasks"]["waiting"], "nobody goes on until the jobs start anew"
        last = wait_for(lambda: over(status(out)))
        wait_for(lambda: said(logs, "Job completed successfully") == 2)
    assert last["failed"] == []
    assert results(out) == expected
    assert trained_by(out) == [1, 2, 3, 4]


def said(logs, words):
    """In how many jobs' logs something stands."""
    return sum(words in path.read_text() for path in logs.glob("*_log.out"))


def over(found):
    return found if not found["tasks"]["waiting"] and not found["running"] else None
