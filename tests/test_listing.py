"""What lies below an --out: its names, `tombola list`, `tombola clean`, and how much it takes."""

import json
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tombola
from tombola import UsageError
from tombola.cli.main import main
from tombola.cli.runs import read_config
from tombola.cli.show import size_words
from tombola.core.progress import Silent
from tombola.runs import pipeline
from tombola.runs.config import load_preset
from tombola.runs.inventory import clean, list_runs
from tombola.runs.rundir import run_name
from tombola.storage.files import size_of
from tombola.storage.leases import Lease
from tombola.storage.store import DiskEntry
from tombola.studies import manifest, plan, run_all

from .conftest import Killed, as_json, batches, command, dying, mlp
from .test_pipeline import contents

QUICK = ["--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--threads", "1"]
RANDOM = [*QUICK, "--finder", "random"]


def visible(out):
    return sorted(path for path in Path(out).iterdir() if not path.name.startswith("."))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two runs, a ticket alone, a training and an audit."""
    out = tmp_path_factory.mktemp("original")
    assert main(["run", *RANDOM, "--out", str(out)]) == 0
    (run,) = visible(out)
    assert main(["run", *RANDOM, "--density", "0.3", "--seed", "1", "--out", str(out)]) == 0
    assert main(["draw", *QUICK, "--finder", "magnitude", "--seed", "9", "--out", str(out)]) == 0
    assert main(["train", str(run), "--seed", "3", "--out", str(out)]) == 0
    assert main(["audit", str(run), "--seeds", "1"]) in {0, 1, 3}
    return out


@pytest.fixture
def out(original, tmp_path):
    return shutil.copytree(original, tmp_path / "out")


def test_runs_have_readable_names(original):
    prefixes = [path.name.rpartition("-")[0] for path in visible(original)]
    expected = [
        "audit-random-0.02-s0",
        "magnitude-0.02-s9",
        "random-0.02-s0",
        "random-0.3-s1",
        "trained-random-0.02-s3",
    ]
    assert prefixes == expected
    for path in visible(original):
        assert len(path.name.rpartition("-")[2]) == 8


@pytest.mark.parametrize(
    ("finder", "density", "name"),
    [
        ("cts", 0.02, "cts-0.02-s0"),
        ("cts", 0.8**22, "cts-0.007379-s0"),
        ("my_module:Mine", 1e-5, "my_module-Mine-1e-05-s0"),
        ("../../etc", 1.0, "etc-1-s0"),
        ("::", 1.0, "ticket-1-s0"),
        ("x" * 300, 1.0, "x" * 40 + "-1-s0"),
    ],
)
def test_names_of_runs(finder, density, name):
    assert run_name(finder, density, 0) == name


def test_what_runs_share_is_out_of_the_way_of_patterns(original):
    assert (original / ".store").is_dir()
    assert all((path / "identity.json").is_file() for path in visible(original))


def test_list_says_how_runs_stand(capsys, original):
    rows = as_json(capsys, "list", original)["runs"]
    by_name = {row["name"].rpartition("-")[0]: row for row in rows}
    assert [row["state"] for row in rows] == ["finished", "drawn", "finished", "finished", "finished"]
    first = by_name["random-0.02-s0"]
    (directory,) = original.glob("random-0.02-s0-*")
    result = json.loads((directory / "result.json").read_text())
    assert (first["finder"], first["density"], first["seed"]) == ("random", 0.02, 0)
    assert first["test_accuracy"] == result["test_accuracy"]
    assert first["bytes"] == sum(path.stat().st_size for path in directory.iterdir())
    assert by_name["magnitude-0.02-s9"]["test_accuracy"] is None
    assert by_name["trained-random-0.02-s3"]["finder"] == "random"
    assert by_name["audit-random-0.02-s0"]["density"] == 0.02
    status, text, _ = command(capsys, "list", original)
    assert status == 0
    assert all(row["name"] in text for row in rows)
    assert f"{result['test_accuracy']:.2f} %" in text


@pytest.mark.parametrize("name", ["weights.safetensors", "result.json", "config.yaml", "digests.json", "identity.json"])
@pytest.mark.parametrize("content", [None, b"junk", b"[]"])
def test_list_names_the_damaged(capsys, out, name, content):
    (directory,) = out.glob("random-0.02-s0-*")
    (directory / name).unlink() if content is None else (directory / name).write_bytes(content)
    states = {run.name: run.state for run in list_runs(out)}
    if (name, content) == ("identity.json", None):
        assert directory.name not in states, "whose it is cannot be known"
    else:
        # Without its list nothing vouches for a run, which is then done again.
        expected = "unfinished" if (name, content) == ("digests.json", None) else "damaged"
        assert states.pop(directory.name) == expected
    assert sorted(states.values()) == ["drawn", "finished", "finished", "finished"]
    assert command(capsys, "list", out)[0] == 0


def test_what_is_written_just_now_is_not_called_damaged(out):
    (directory,) = out.glob("random-0.02-s0-*")
    (directory / "environment.json").write_text("{}")
    with Lease(out / ".store" / ".leases" / directory.name):
        assert {run.name: run.state for run in list_runs(out)}[directory.name] == "unfinished"
    assert {run.name: run.state for run in list_runs(out)}[directory.name] == "damaged"


def test_list_says_what_cleaning_would_delete(capsys, out):
    assert "tombola clean deletes nothing of it while something is unfinished" not in command(capsys, "list", out)[1]
    clean(out)
    assert "tombola clean deletes nothing of it while something is unfinished" in command(capsys, "list", out)[1]
    for directory in out.glob("magnitude-*"):
        shutil.rmtree(directory)
    freed = clean(out, dry=True).freed
    assert f"tombola clean {out} deletes {size_words(freed)}\n" in command(capsys, "list", out)[1]
    clean(out)
    assert f"tombola clean {out} has nothing to delete; with --all, " in command(capsys, "list", out)[1]
    clean(out, everything=True)
    assert "tombola clean" not in command(capsys, "list", out)[1]


def test_list_names_the_finder_of_what_is_not_finished(original, out):
    (directory,) = out.glob("random-0.02-s0-*")
    (directory / "weights.safetensors").write_bytes(b"junk")
    found = {run.name.split("-")[0]: (run.finder, run.state) for run in list_runs(out)}
    assert found["magnitude"] == ("magnitude", "drawn")
    assert found["random"] in {("random", "damaged"), ("random", "finished")}
    assert all(finder for finder, _ in found.values())


def test_list_names_directories_further_below(capsys, out, tmp_path):
    assert f"more runs lie in {out}\n" in command(capsys, "list", tmp_path)[1]
    assert "more runs" not in command(capsys, "list", out)[1]


def test_what_sparsify_keeps_is_listed_and_cleaned_as_such(capsys, tmp_path):
    def sparsify():
        recipe = tombola.Recipe(epochs=3)
        return tombola.sparsify(
            mlp(), batches(), batches(), density=0.5, steps=60, recipe=recipe, out=tmp_path, progress=False
        )

    with pytest.raises(Killed), dying(1, "train"):
        sparsify()
    assert clean(tmp_path).paths == (), "the same call goes on from there"
    before = sparsify()
    assert as_json(capsys, "list", tmp_path)["runs"] == []
    text = command(capsys, "list", tmp_path)[1]
    assert "what tombola.sparsify keeps here by out=" in text
    assert f"tombola clean {tmp_path} deletes " in text
    clean(tmp_path)
    assert clean(tmp_path).paths == ()
    after = sparsify()
    assert after.ticket == before.ticket
    assert all(torch.equal(value, after.model.state_dict()[key]) for key, value in before.model.state_dict().items())
    clean(tmp_path, everything=True)
    assert [path.name for path in tmp_path.iterdir()] == [".leases"]


def test_info_names_what_is_damaged(capsys, out):
    (directory,) = out.glob("random-0.02-s0-*")
    assert "damaged" not in command(capsys, "info", directory)[1]
    (directory / "weights.safetensors").write_bytes(b"junk")
    assert "damaged: weights.safetensors; " in command(capsys, "info", directory)[1]
    assert as_json(capsys, "info", directory)["damaged"] == ["weights.safetensors"]


def test_list_of_something_else(capsys, tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "file").write_text("")
    assert as_json(capsys, "list", tmp_path)["runs"] == []
    for name in ("none", "file"):
        status, _, err = command(capsys, "list", tmp_path / name)
        assert (status, err) == (2, f"tombola list: there is no directory {tmp_path / name}\n")


def test_info_reads_an_audit(capsys, original):
    (directory,) = original.glob("audit-*")
    status, text, _ = command(capsys, "info", directory)
    assert status == 0
    assert "shuffled within layers" in text
    assert as_json(capsys, "info", directory)["checks"][0]["name"] == "shuffled within layers"
    before = (directory / "audit.json").read_bytes()
    for content in (before.replace(b"undecided", b"informative"), b"[]", b"\xff"):
        (directory / "audit.json").write_bytes(content)
        status, _, err = command(capsys, "info", directory)
        assert (status, err.count("\n")) == (2, 1)
        assert "audit.json is damaged" in err
    (directory / "audit.json").write_bytes(before)


def results(out):
    return {str(path.relative_to(out)): path.read_bytes() for run in visible(out) for path in run.iterdir()}


def test_clean_keeps_results_and_what_an_unfinished_run_needs(capsys, out):
    (checkpoint,) = (out / ".store").glob("dense-*/checkpoint.pt")
    before = results(out)
    # A copy of the directory has no hard links, so that what runs shared lies there for nobody.
    assert {Path(each["path"]).parent.name for each in as_json(capsys, "clean", out)["deleted"]} == {"shared"}
    assert checkpoint.exists(), "the drawn one goes on from there"
    for directory in out.glob("magnitude-*"):
        shutil.rmtree(directory)
    before = results(out)
    said = as_json(capsys, "clean", out, "--dry-run")
    assert checkpoint.exists()
    size = size_of(out)
    cleaned = as_json(capsys, "clean", out)
    assert cleaned | {"dry_run": True} == said
    assert str(checkpoint) in [each["path"] for each in cleaned["deleted"]]
    assert not checkpoint.exists()
    assert cleaned["bytes"] == size - size_of(out) > 0
    assert results(out) == before
    assert as_json(capsys, "clean", out)["deleted"] == []


def test_what_was_begun_before_the_first_run_is_kept_and_can_be_cleaned_away(capsys, out):
    for run in visible(out):
        shutil.rmtree(run)
    as_json(capsys, "clean", out)  # files that no run shares any more
    assert as_json(capsys, "clean", out)["deleted"] == []
    assert "tombola clean deletes nothing of it while something is unfinished" in command(capsys, "list", out)[1]
    assert list((out / ".store").glob("dense-*/checkpoint.pt")), "a study goes on from there"
    as_json(capsys, "clean", out, "--all")
    assert not (out / ".store").exists()
    assert "holds no runs of tombola" in command(capsys, "clean", out)[2]


def test_clean_all_deletes_the_store_and_no_result(capsys, original, out):
    before = results(out)
    text = command(capsys, "clean", out, "--all", "--dry-run")[1]
    assert (out / ".store").is_dir()
    assert "would be deleted" in text
    text = command(capsys, "clean", out, "--all")[1]
    assert str(out / ".store") in text
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert results(out) == before
    # What can be made again is, to the bit.
    (directory,) = out.glob("random-0.02-s0-*")
    expected = contents(directory)
    assert as_json(capsys, "run", *RANDOM, "--out", out)["repeated"]
    (directory / "weights.safetensors").unlink()
    assert not as_json(capsys, "run", *RANDOM, "--out", out)["repeated"]
    assert contents(directory) == expected


def test_clean_refuses_where_there_are_no_runs(capsys, tmp_path):
    (tmp_path / ".store").mkdir()
    (tmp_path / ".store" / "precious").write_text("")
    (tmp_path / "holiday").mkdir()
    for arguments in ([tmp_path], [tmp_path, "--all"], [tmp_path / "holiday"], [tmp_path / "none"]):
        status, _, err = command(capsys, "clean", *arguments)
        assert (status, err.count("\n")) == (2, 1)
    assert (tmp_path / ".store" / "precious").exists()


def hold(path, started):
    with Lease(path):
        started.set()
        time.sleep(60)


@pytest.mark.hard
def test_clean_leaves_alone_what_another_process_works_on(out):
    for directory in out.glob("magnitude-*"):
        shutil.rmtree(directory)
    (checkpoint,) = (out / ".store").glob("dense-*/checkpoint.pt")
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    path = out / ".store" / ".leases" / checkpoint.parent.name
    process = context.Process(target=hold, args=(path, started))
    process.start()
    assert started.wait(60)
    try:
        cleaned = clean(out)
        assert cleaned.busy == (checkpoint.parent.name,)
        assert checkpoint.exists()
        with pytest.raises(UsageError, match="another process works below"):
            clean(out, everything=True)
    finally:
        process.kill()
        process.join()
    assert clean(out).busy == ()
    assert not checkpoint.exists()


def test_what_an_unfinished_study_would_go_on_from_is_left_alone(capsys, tmp_path, monkeypatch):
    layers = [load_preset("digits"), {"epochs": 3, "rewind_to": 1, "milestones": (), "threads": 1}]
    cells = plan(layers, ["random"], [0.1], seeds=2)
    run_all(cells[:1], tmp_path, Silent())
    with monkeypatch.context() as patch:
        patch.setattr(DiskEntry, "due", lambda entry: True)
        with pytest.raises(Killed), dying(1, "dense"):
            run_all(cells, tmp_path, Silent())
    assert all(run.state == "finished" for run in list_runs(tmp_path)), "that of the second seed has no directory yet"
    assert "deletes nothing of it while something is unfinished" in command(capsys, "list", tmp_path)[1]
    assert as_json(capsys, "clean", tmp_path)["deleted"] == []
    assert manifest.is_unfinished(tmp_path)
    run_all(cells, tmp_path, Silent())
    assert not manifest.is_unfinished(tmp_path)


def test_clean_follows_no_links(out, tmp_path):
    elsewhere = shutil.copytree(out, tmp_path / "elsewhere")
    shutil.rmtree(out / ".store")
    (out / "link").symlink_to(elsewhere)
    clean(out, everything=True)
    assert (elsewhere / ".store").is_dir()


def test_an_interrupted_run_survives_cleaning(original, tmp_path):
    config = read_config(next(original.glob("random-0.02-s0-*")))
    config = replace(config, seed=5)
    expected = contents(pipeline.run(config, tmp_path / "straight", Silent()).directory)
    with pytest.raises(Killed), dying(1, "train"):
        pipeline.run(config, tmp_path / "killed", Silent(), checkpoint_seconds=0)
    (listed,) = list_runs(tmp_path / "killed")
    assert listed.state == "drawn"
    clean(tmp_path / "killed")
    assert contents(pipeline.run(config, tmp_path / "killed", Silent()).directory) == expected


def test_ltr_leaves_no_empty_entry(capsys, tmp_path):
    options = [*QUICK, "--finder", "ltr", "--density", "0.8", "--out", tmp_path]
    assert command(capsys, "run", *options)[0] == 0
    entries = [path for path in (tmp_path / ".store").iterdir() if path.name not in {".leases", "shared"}]
    assert entries
    assert all(list(entry.glob("*.pt")) for entry in entries)


def test_a_finished_run_keeps_little_twice(capsys, tmp_path):
    """No checkpoint; trained tickets compressed; the weights that all runs of a seed start from once."""
    for density in ("0.02", "0.05"):
        assert command(capsys, "run", *RANDOM, "--density", density, "--out", tmp_path)[0] == 0
    one, other = (path / "start.safetensors" for path in visible(tmp_path))
    assert one.samefile(other)
    assert not list((tmp_path / ".store").rglob("checkpoint.pt"))
    for path in (tmp_path / ".store").glob("train-*/trained.pt"):
        assert path.stat().st_size < one.stat().st_size / 4
    scores = one.with_name("scores.safetensors")
    assert scores.stat().st_size < one.stat().st_size, "float32"


def test_sizes_in_words():
    assert [size_words(size) for size in (0, 999, 1000, 311_000_000)] == ["0 bytes", "999 bytes", "1 kB", "311 MB"]
