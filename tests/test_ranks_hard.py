"""Commands in several real processes: the same tickets, interrupted, killed and gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tombola
from tests.conftest import TinyConv, images
from tests.ranks import on_ranks

pytestmark = [pytest.mark.hard, pytest.mark.timeout(1800)]
RUN = ["--preset", "digits", "--steps", "300", "--epochs", "3", "--milestones", "2", "--sparsity", "95%"]


def digits():
    from sklearn.datasets import load_digits

    # Whole batches: those that are too small to divide are in the quick tests.
    x, y = (torch.tensor(each[: 28 * 64]) for each in load_digits(return_X_y=True))
    return list(zip((x.float() / 16).split(64), y.split(64), strict=True))


def searched(fabric, learning_rate):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
    finder = tombola.finders.CTS(steps=200, objective="loss", learning_rate=learning_rate)
    ticket = tombola.draw(model, digits(), density=0.05, finder=finder, fabric=fabric, progress=False)
    return dict(ticket), dict(ticket.scores)


# Where Adam's steps are of 1, as in so short a search by default, it makes much of gradients that are but rounding: a
# percent of the logits then ends elsewhere, none of them of weights that are nearly kept.
@pytest.mark.parametrize(("processes", "learning_rate", "alike"), [(2, 0.1, 1.0), (4, 0.1, 1.0), (2, 1.0, 0.98)])
def test_several_processes_draw_the_ticket_of_one(processes, learning_rate, alike):
    masks, logits = searched(None, learning_rate)
    found = on_ranks(processes, searched, learning_rate)
    kept = sum(int(mask.sum()) for mask in masks.values())
    for others, values in found:
        assert sum(int((masks[name] & others[name]).sum()) for name in masks) >= 0.99 * kept
        off = torch.cat([(logits[name] - values[name]).abs().flatten() for name in logits])
        assert float((off < 1e-3).float().mean()) >= alike
        assert all(torch.equal(values[name], found[0][1][name]) for name in values)


def normalised(fabric=None):
    torch.manual_seed(0)
    data = images(3, 16)
    recipe = tombola.Recipe(epochs=2, learning_rate=0.05)
    found = tombola.sparsify(
        TinyConv(), data, data, density=0.5, finder="cts:steps=20", recipe=recipe, fabric=fabric, progress=False
    )
    return dict(found.model.state_dict())


def test_networks_with_batch_norm_and_dropout_repeat_themselves_with_as_many_processes():
    first, again = on_ranks(2, normalised), on_ranks(2, normalised)
    for values in (*first, *again):
        assert all(torch.equal(values[name], first[0][name]) for name in values)
    one = normalised()
    assert any(not torch.allclose(one[name].float(), first[0][name].float(), atol=1e-4) for name in one)


def started(out, *arguments, command="run", by=("-m", "tombola")):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *by, command, *RUN, "--out", str(out), *arguments]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def children(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def journals(out):
    return {path: path.stat().st_mtime_ns for path in out.glob(".store/draw-*/metrics.jsonl")}


def in_the_search(out, process, before):
    """Wait until something of the search is written that was not there before."""
    while journals(out) == before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)


def result(out):
    (directory,) = (path for path in out.iterdir() if path.name.startswith("cts-"))
    return (
        directory.name,
        dict(tombola.Ticket.load(directory / "ticket.safetensors")),
        load_file(directory / "weights.safetensors"),
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The results of one process, and of two that nobody disturbs."""
    out = tmp_path_factory.mktemp("straight")
    for name, arguments in (("one", ()), ("two", ("--devices", "2"))):
        process = started(out / name, *arguments)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return result(out / "one"), result(out / "two")


def test_devices_give_the_ticket_of_one_process_under_the_same_name(straight):
    (name, masks, _), (same_name, others, _) = straight
    assert name == same_name
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert sum(int((masks[each] & others[each]).sum()) for each in masks) >= 0.99 * kept


# Who is stopped how, the exit status of all, and what is said.
STOPS = [
    (signal.SIGKILL, 1, 1, "process 1 was killed (SIGKILL), and the others were ended; the same command goes on"),
    (signal.SIGKILL, 0, 1, "process 0 was killed (SIGKILL), and the others were ended; the same command goes on"),
    (signal.SIGINT, None, 130, "tombola run: interrupted; the same command goes on from the last checkpoint"),
]


def test_who_is_stopped_ends_all_and_goes_on_to_the_same_bits(straight, tmp_path):
    for number, rank, status, words in STOPS:
        before = journals(tmp_path)
        process = started(tmp_path, "--devices", "2")
        in_the_search(tmp_path, process, before)
        mine = children(process)
        os.kill(process.pid if rank is None else mine[rank], number)
        _, errors = process.communicate()
        assert process.returncode == status, errors
        assert words in errors
        assert "Traceback" not in errors
        assert not any(Path(f"/proc/{each}").exists() for each in mine)
    kept = any(tmp_path.glob(".store/draw-*/checkpoint.pt"))  # of the last ten seconds, if it took as many
    again = started(tmp_path, "--devices", "2")
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert ("goes on at step" in errors) == kept
    name, masks, weights = result(tmp_path)
    expected_name, expected_masks, expected_weights = straight[1]
    assert name == expected_name
    assert all(torch.equal(masks[each], expected_masks[each]) for each in masks)
    assert all(torch.equal(weights[each], expected_weights[each]) for each in weights)


def test_torchrun_starts_the_same(straight, tmp_path):
    by = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tombola")
    process = started(tmp_path, "--json", command="draw", by=by)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.count('"run_dir"') == 1
    (directory,) = (path for path in tmp_path.iterdir() if path.name.startswith("cts-"))
    assert directory.name == straight[1][0]
    masks = tombola.Ticket.load(directory / "ticket.safetensors")
    assert all(torch.equal(masks[each], straight[1][1][each]) for each in masks)


def test_mistakes_are_said_once_and_nothing_is_written(tmp_path):
    process = started(tmp_path / "out", "--devices", "2", "--weights", "missing.pt")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.count("missing.pt") == 1, errors
    assert not (tmp_path / "out").exists()


def test_commands_of_one_process_refuse_several(tmp_path):
    by = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tombola")
    process = started(tmp_path, command="compare", by=by)
    _, errors = process.communicate()
    assert process.returncode
    assert "compare works in one process, and 2 were started" in errors
