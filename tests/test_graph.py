"""Studies as files and as graphs, done by workers that may fail, be stopped, or be several."""

import errno
import json
import os
import socket
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from joblib.externals import loky
from joblib.externals.loky.process_executor import TerminatedWorkerError

from tombola import SearchError, TombolaError, UsageError
from tombola.cli import compare
from tombola.core.parts import called
from tombola.core.progress import Silent
from tombola.finders import LTR, ContinuousSparsification, Random
from tombola.runs import cell as cells_of_runs
from tombola.runs import pipeline
from tombola.runs.config import density_list, load_preset
from tombola.storage import leases, stopping
from tombola.storage.identity import digest
from tombola.storage.leases import LeaseLost
from tombola.storage.store import DiskEntry, DiskStore
from tombola.studies import StudyPlan, plan, read_study, run_study
from tombola.studies import graph as graphs
from tombola.studies.comparison import carry_out
from tombola.studies.engines import Local, OnRay, on_ray
from tombola.studies.engines.local import see_one_gpu
from tombola.studies.engines.on_slurm import SlurmOptions
from tombola.studies.graph import basis_of, data_key, graph_of
from tombola.studies.ledger import Ledger, survey
from tombola.studies.shipped import study_names
from tombola.studies.status import duration_words, status_of
from tombola.studies.study import Resources, memory_bytes, study_below
from tombola.studies.worker import _attempt as attempt
from tombola.studies.worker import work

from .conftest import as_json, command
from .test_pipeline import contents
from .test_readme import GUIDE, ROOT, blocks

QUICK = [load_preset("digits"), {"epochs": 3, "rewind_to": 1, "milestones": (), "threads": 1, "steps": 10}]


def quick(finders, densities, seeds=1, **changes):
    return StudyPlan("quick", tuple(plan([*QUICK, changes], finders, densities, seeds)))


def needs(graph):
    """What each task needs, both by name without the hash."""
    return {_short(name): [_short(other) for other in task.needs] for name, task in graph.tasks.items()}


def _short(name):
    return name.rpartition("-")[0]


def test_what_cells_share_is_a_task_of_its_own(tmp_path):
    found = needs(quick(["cts", "random", "ltr:rate=0.5"], [0.5, 0.2]).graph(tmp_path))
    assert found == {
        "dense-1-s0": [],
        "dense-3-s0": ["dense-1-s0"],
        "teacher-s0": ["dense-1-s0"],
        "round-1-s0": ["dense-1-s0", "dense-3-s0"],
        "round-2-s0": ["round-1-s0"],
        "ticket-cts-0.5-s0": ["dense-1-s0", "teacher-s0"],
        "cell-cts-0.5-s0": ["ticket-cts-0.5-s0", "dense-3-s0"],
        "ticket-random-0.5-s0": ["dense-1-s0"],
        "cell-random-0.5-s0": ["ticket-random-0.5-s0", "dense-3-s0"],
        # The training of this ticket is that of the first round.
        "ticket-ltr-0.5-s0": ["dense-1-s0", "dense-3-s0", "round-1-s0"],
        "cell-ltr-0.5-s0": ["ticket-ltr-0.5-s0", "dense-3-s0"],
        "ticket-cts-0.2-s0": ["dense-1-s0", "teacher-s0"],
        "cell-cts-0.2-s0": ["ticket-cts-0.2-s0", "dense-3-s0"],
        "ticket-random-0.2-s0": ["dense-1-s0"],
        "cell-random-0.2-s0": ["ticket-random-0.2-s0", "dense-3-s0"],
        "ticket-ltr-0.2-s0": ["dense-1-s0", "dense-3-s0", "round-2-s0"],
        "cell-ltr-0.2-s0": ["ticket-ltr-0.2-s0", "dense-3-s0"],
    }
    assert list(tmp_path.iterdir()) == []


def test_seeds_and_recipes_share_nothing(tmp_path):
    two = quick(["random"], [0.5], seeds=2).cells
    other = quick(["random"], [0.5], learning_rate=0.05).cells
    cells = [*two, *other]
    names = set(graph_of(cells, basis_of(cells), tmp_path).tasks)
    assert sum(name.startswith("dense-3") for name in names) == 3
    dynamics = graph_of(two, basis_of(two), tmp_path, dynamics=True)
    assert needs(dynamics)["dynamics-random-0.5-s1"] == ["cell-random-0.5-s1"]


def test_other_data_under_the_same_name_are_other_tasks(tmp_path):
    cells = quick(["random"], [0.5]).cells
    basis = dict(basis_of(cells))
    other = dict.fromkeys(basis, "changed")
    assert not set(graph_of(cells, basis, tmp_path).tasks) & set(graph_of(cells, other, tmp_path).tasks)


# Of cells at density 0.5: the hash of a stamp, and of the names of all tasks. A change here has studies that are done
# looked through, or trained, once more; it is right where a method has changed, and never where an option was added.
NAMED = {
    ("cts", ""): ("176d522f5151", "a7a2ed33d06f"),
    ("joint", ""): ("951d63d148ee", "89dc8dd9fe4c"),
    ("ltr", ""): ("13be5b807375", "ca089e1a8851"),
    ("random", ""): ("1e20a32229a9", "25f04f3e15a4"),
    ("rigl", ""): ("344cd9b09bb5", "f4fd34f73483"),
    ("gem-miner", ""): ("3110a7fe591d", "f3bf1925d513"),
    ("continuous-sparsification", ""): ("8d7ea1364a54", "f8c0fd5376b1"),
    ("cts", "execution"): ("38416d1cbe3d", "18e66306aa2c"),
}
# What older versions called those whose method has changed since.
OLDER = {
    ("joint", "summed"): ("b071194fc41e", "17fadfbe66fd"),
    ("continuous-sparsification", "allocation"): (None, "c295ed1d48c9"),
}
CHANGES = {
    "": {},
    "execution": {"execution": "sparse"},
    "summed": {"summed": True},
    "allocation": {"allocation": "erk"},
}


def named(finder, change, out):
    """The hashes of a cell's stamp and of its tasks' names, data left aside."""
    cells = quick([finder], [0.5], device="cpu", **CHANGES[change]).cells
    tasks = graph_of(cells, {data_key(cells[0].config): "data"}, out).tasks
    return cells_of_runs.stamp(cells[0].config)[:12], digest(sorted(tasks))[:12]


@pytest.fixture
def elsewhere(monkeypatch):
    """Stamps and names as one machine has them, and one release."""
    for module in (cells_of_runs, graphs):
        monkeypatch.setattr(module, "VERSIONS", {"training": 4, "evaluation": 2, "selection": 1})
    monkeypatch.setattr(cells_of_runs, "numba_works", lambda: True)
    monkeypatch.setattr(torch, "__version__", "2")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


@pytest.mark.usefixtures("elsewhere")
def test_tasks_and_stamps_are_named_by_the_method_of_their_results_and_others_keep_their_names(tmp_path):
    assert {each: named(*each, tmp_path) for each in NAMED} == NAMED
    for each, older in OLDER.items():
        stamp, tasks = named(*each, tmp_path)
        assert stamp != older[0], each
        assert tasks != older[1], each


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", ["sparse", "arithmetic", "data", "models"])
def test_a_version_that_is_raised_names_tasks_and_stamps_anew(name, tmp_path, monkeypatch):
    before = named("random", "", tmp_path)
    monkeypatch.setitem(cells_of_runs.FURTHER_VERSIONS, name, 9)
    stamp, tasks = named("random", "", tmp_path)
    assert stamp != before[0]
    assert tasks != before[1]


@pytest.mark.parametrize(
    ("rate", "density", "rounds"),
    [
        (0.2, 1.0, 0),
        (0.2, 0.8, 0),
        (0.2, 0.79, 1),
        (0.2, 0.8**2, 1),
        (0.2, 0.8**22, 21),
        (0.5, 0.125, 2),
        (0.9, 0.05, 1),
    ],
)
def test_rounds_above_a_density(rate, density, rounds):
    assert LTR(rate=rate).stages(density) == rounds
    assert Random().stages(density) == 0
    assert ContinuousSparsification(rounds=3).stages(density) == 3


FILE = """
about: three finders
preset: digits
epochs: 3
milestones: []
steps: 10
finders:
  - {name}
  - finder: {{name: snip, rounds: 3}}
  - finder: magnitude
    label: magnitude at init
    draw_at: init
    densities: [0.5]
densities: {densities}
seeds: {seeds}
resources: {{cpus: 2, gpus: 0.5, memory: 2 GB}}
"""


def written(folder, name="cts:objective=loss", densities="0.8**[2..3]", seeds="[4, 7]"):
    path = folder / "three.yaml"
    path.write_text(FILE.format(name=name, densities=densities, seeds=seeds))
    return path


def test_a_study_file(tmp_path):
    found = read_study(str(written(tmp_path)))
    labels = ["cts:objective=loss", "snip:rounds=3"]
    expected = [(label, density) for density in (0.64, 0.512) for label in labels] + [("magnitude at init", 0.5)]
    cells = [(cell.label, pytest.approx(cell.density), cell.config.seed) for cell in found.cells]
    assert [(*each, seed) for seed in (4, 7) for each in expected] == cells
    assert found.resources == Resources(2, 0.5, 2 * 10**9)
    assert [cell.config.draw_at for cell in found.cells[:5]] == ["rewind"] * 4 + ["init"]
    assert found.cells[0].config.finder.steps == 10
    assert found.title == "lenet-300-100 on digits"


def test_cells_that_differ_in_their_execution_alone_are_tasks_of_their_own(tmp_path):
    path = tmp_path / "e.yaml"
    each = "".join(f"\n  - {{finder: random, label: {way}, execution: {way}}}" for way in ("sparse", "dense", "auto"))
    path.write_text(f"preset: digits\nfinders:{each}\ndensities: [0.1]\n")
    graph = read_study(str(path)).graph(tmp_path)
    assert len({names for _, names in graph.cells}) == 3
    for cell, (name,) in graph.cells:
        assert graph.tasks[name].config.execution == cell.label


def test_titles_tell_networks_of_other_widths_apart():
    assert read_study("joint-or-ltr-resnet20").title == "resnet20 of width 8 on cifar10"
    assert read_study("joint-or-ltr-cifar10").title == "resnet20 on cifar10"
    assert called({"name": "hf:bert", "layers": None, "width": None}) == "hf:bert"


def test_the_study_of_the_guide(tmp_path):
    (text,) = blocks(GUIDE, "yaml")
    (tmp_path / "guide.yaml").write_text(text)
    found = read_study(str(tmp_path / "guide.yaml"))
    labels = [cell.label for cell in found.cells if cell.config.seed == 1]
    assert labels == ["cts:steps=300", "ltr"] * 3 + ["SNIP in ten rounds"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("finders:", "finder:"), "finders must be given"),
        (("seeds:", "sedes:"), "unknown key 'sedes'; did you mean seed?"),
        (("seeds: [4, 7]", "seeds: 0"), "seeds must be how many, or a list without repetitions"),
        (("0.8**[2..3]", "0.8**[3..2]"), "density takes powers such as"),
        (("0.8**[2..3]", "[0.5, 0.5]"), "densities must be densities without patterns and repetitions"),
        (("preset: digits", "data: digits"), "preset must be given, or model and data"),
        (("preset: digits", "preset: digits\ndevices: 2"), "devices is for run, draw and train"),
        (("rounds: 3", "rounds: 0"), "rounds must be a whole number of at least 1"),
        (("draw_at: init", "draw_at: nowhere"), "draw_at must be"),
        (("memory: 2 GB", "memory: much"), "memory must be a size with its unit, such as 8 GB or 500 MB, got much"),
        (("memory: 2 GB", "memory: 4096"), "memory must be a size with its unit, such as 8 GB or 500 MB, got 4096"),
        (("cpus: 2", "processors: 2"), "resources must have keys of cpus, gpus, memory"),
        (("gpus: 0.5", "gpus: one"), "resources must be at least one CPU and no negative number of GPUs"),
        (("gpus: 0.5", "gpus: .nan"), "resources must be at least one CPU and no negative number of GPUs"),
        (("preset: digits", "preset: 5"), "preset must be a name, got 5"),
        (("preset: digits", "preset: digits\ndensity: 0.5"), "density is called densities in a study"),
        (("preset: digits", "preset: digits\nsearch: publishd"), "search must be default, published, published-files"),
        (("preset: digits", "preset: digits\nrecipe: [a]"), "recipe must be a name, got ['a']"),
        (
            ("finder: magnitude", "finders: magnitude"),
            "finders must be texts such as cts:steps=500, or",
        ),
        (("preset: digits", "preset: digits\nfinder: cts"), "finder is called finders in a study, a list"),
        (("preset: digits", "preset: digits\nseed: 5"), "seed must be left out where seeds says which ones"),
        (("densities: [0.5]", "density: 0.5"), "density is called densities where it is a finder's own"),
        (
            ("finder: {name: snip, rounds: 3}", "finder: {name: snip, granularity: '2:4'}"),
            "density must be 0.5 where the granularity fixes it, or 1 by a pattern, got 0.64 (finder",
        ),
        (
            ("finder: magnitude", "finder: 'rigl:granularity=2:4'"),
            "must be global or uniform where the granularity fixes the density, got erk, the default of rigl",
        ),
        (("label: magnitude at init", "label: snip:rounds=3"), "finders must be a list without repetitions"),
    ],
)
def test_study_files_that_cannot_be_run(tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path)
    path.write_text(path.read_text().replace(*change))
    status, out, err = command(capsys, "study", "three.yaml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [each.name for each in tmp_path.iterdir()] == ["three.yaml"]


def test_studies_that_are_shipped():
    assert study_names() == [
        "cifar10-granularity", "cifar10-headline", "cifar10-published", "digits-granularity", "digits-mini",
        "digits-nine", "enlarged-cifar10-resnet18", "enlarged-cifar10-vit", "equal-cost-resnet20", "fashion-mnist-all",
        "fashion-mnist-lenet", "fashion-mnist-resnet20-w8", "fashion-mnist-sixteen", "joint-or-ltr",
        "joint-or-ltr-cifar10", "joint-or-ltr-resnet20", "resnet20-cifar10", "resnet50-imagenet", "sst2-granularity",
        "sst2-transformer", "vgg16-cifar10",
    ]  # fmt: skip
    for name in study_names():
        assert read_study(name).cells
    paper = read_study("resnet20-cifar10")
    densities = sorted({cell.density for cell in paper.cells}, reverse=True)
    assert densities == pytest.approx([0.8**power for power in range(2, 33, 2)])
    assert {cell.config.seed for cell in paper.cells} == {0, 1, 2}
    (first, *_) = paper.cells
    assert (first.config.training.epochs, first.config.rewind_to, first.config.batch_size) == (160, 9, 512)
    with pytest.raises(
        UsageError, match="there is no study nothing: give a YAML file, or one of cifar10-granularity, "
    ):
        read_study("nothing")


@pytest.mark.parametrize("name", ["digits-nine", "fashion-mnist-resnet20-w8", "fashion-mnist-sixteen"])
def test_a_study_holds_the_cells_of_the_comparison_that_measured(name, monkeypatch, tmp_path):
    class Asked(Exception):
        pass

    def asked(study, *_, **__):
        raise Asked(study)

    monkeypatch.setattr("tombola.studies.comparison.carry_out", asked)
    monkeypatch.chdir(tmp_path)
    before, _, _ = (ROOT / "docs" / "results.md").read_text().partition(f"`tombola study {name}`")
    words = blocks(before, "")[-1].split()
    assert words[:2] == ["tombola", "compare"]
    with pytest.raises(Asked) as found:
        compare.main(words[2:])
    cells = [[(cell.label, cell.config) for cell in each.cells] for each in (found.value.args[0], read_study(name))]
    assert sorted(cells[0], key=str) == sorted(cells[1], key=str)


def test_lists_of_densities():
    assert density_list("0.5**[1..3]") == [0.5, 0.25, 0.125]
    assert density_list("0.5 ** [1..5..2]") == [0.5, 0.125, 0.03125]
    assert density_list("2%") == [0.02]
    for text in ("0.5**[2..1]", "0.5**[1..3..0]", "0.5**[1..99999]"):
        with pytest.raises(UsageError, match="takes powers such as"):
            density_list(text)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A study that one process has done, cell by cell, without tasks for what they share."""
    out, study = tmp_path_factory.mktemp("straight"), quick(["cts", "ltr:rate=0.5"], [0.5, 0.3])
    for cell in study.cells:
        pipeline.run(cell.config, out, Silent())
    return study, results(out)


def results(out):
    return {path.name: contents(path) for path in sorted(Path(out).iterdir()) if (path / "result.json").is_file()}


def test_a_graph_gives_the_results_of_its_cells_alone(straight, tmp_path, capsys):
    study, expected = straight
    outcomes = run_study(study, tmp_path, Local(), Silent())
    assert [outcome.cell.label for outcome in outcomes] == ["cts", "ltr:rate=0.5"] * 2
    assert results(tmp_path) == expected
    found = as_json(capsys, "status", tmp_path)
    assert found["tasks"] == {"done": 12, "running": 0, "waiting": 0, "failed": 0, "blocked": 0}
    assert (found["seconds_left"], found["running"]) == (0.0, [])
    assert [row["n"] for row in found["rows"]] == [1] * 4
    _, text, _ = command(capsys, "status", tmp_path)
    assert text.startswith("quick: 12 done\nlenet-300-100 on digits\n")
    # What is done is neither done nor looked at again.
    assert list(work(study_below(tmp_path)[1], Silent())) == []


def test_a_worker_waits_for_another_and_goes_on_for_it(straight, tmp_path):
    study, expected = straight
    graph = study.begin(tmp_path)
    finished = []

    def run():
        finished.extend(each.task.name for each in work(study_below(tmp_path)[1], Silent()))

    other = threading.Thread(target=run)
    held = graph.tasks[next(iter(graph.tasks))]
    with Ledger(tmp_path).lease(held):
        other.start()
        other.join(1.0)
        assert other.is_alive(), "it waits for what somebody else holds"
        assert status_of(tmp_path).running[held.words].holder.process == os.getpid()
    other.join()
    assert sorted(finished) == sorted(graph.tasks)
    assert attempt(held, Ledger(tmp_path), Silent()) is None, "nor does who comes too late do it again"
    assert results(tmp_path) == expected


def test_stopped_at_a_checkpoint_a_study_goes_on(straight, tmp_path, monkeypatch):
    study, expected = straight
    original = DiskEntry.due

    def told(entry):
        stopping.request()
        return original(entry)

    monkeypatch.setattr(stopping, "_wished", False)
    monkeypatch.setattr(DiskEntry, "due", told)
    with pytest.raises(stopping.Stopped):
        run_study(study, tmp_path, Local(), Silent())
    monkeypatch.undo()
    assert list((tmp_path / ".store").glob("*/checkpoint.pt"))
    assert status_of(tmp_path).counts["running"] == 0
    run_study(study, tmp_path, Local(), Silent())
    assert results(tmp_path) == expected


def test_asked_to_stop_work_ends_with_a_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(stopping, "_wished", False)
    entry = DiskStore(tmp_path).entry("fit", {})
    assert not entry.due()
    stopping.request()
    assert entry.due()
    with pytest.raises(stopping.Stopped):
        entry.checkpoint({"step": 3})
    assert entry.resume() == {"step": 3}


def broken(self, problem, density):
    raise SearchError("numbers broke down")


def test_a_failure_is_kept_with_its_traceback_until_it_is_to_be_tried_again(tmp_path, capsys, monkeypatch):
    study = quick(["random", "magnitude"], [0.5])
    monkeypatch.setattr(Random, "draw", broken)
    first = run_study(study, tmp_path, Local(), Silent())
    assert [outcome.failure for outcome in first] == ["SearchError: numbers broke down", ""]
    monkeypatch.undo()
    assert run_study(study, tmp_path, Local(), Silent())[0].failure, "not tried again by itself"
    found = as_json(capsys, "status", tmp_path)
    assert found["tasks"]["failed"] == found["tasks"]["blocked"] == 1
    (failed,) = found["failed"]
    assert failed["task"] == "random 0.5 s0, ticket"
    assert "in broken\n" in failed["traceback"]
    _, text, _ = command(capsys, "status", tmp_path, "--tracebacks")
    assert "failed: random 0.5 s0, ticket: SearchError: numbers broke down" in text
    assert "in broken" in text
    again = run_study(study, tmp_path, Local(), Silent(), retry_failed=True)
    assert [outcome.failure for outcome in again] == ["", ""]
    assert not (tmp_path / "failures.json").exists()


def test_what_all_cells_need_fails_for_all(tmp_path, monkeypatch):
    def diverges(config, out, progress, epoch):
        raise SearchError("the loss is nan")

    monkeypatch.setattr(pipeline, "pretrain", diverges)
    outcomes = run_study(quick(["random", "magnitude"], [0.5]), tmp_path, Local(), Silent())
    assert [outcome.failure for outcome in outcomes] == ["SearchError: the loss is nan"] * 2
    assert all("in diverges" in outcome.traceback for outcome in outcomes)
    with pytest.raises(TombolaError, match=r"^every cell failed; the first said: SearchError: ") as caught:
        carry_out(quick(["random", "magnitude"], [0.5]), tmp_path, Silent())
    assert not isinstance(caught.value, UsageError), "nothing is wrong with what was asked for"


def test_a_task_that_another_process_took_over_is_no_failure(tmp_path, monkeypatch):
    lost = []

    def loses(config, out, progress, epoch):
        if not lost:
            lost.append(epoch)
            raise LeaseLost("taken over")
        return original(config, out, progress, epoch)

    original = pipeline.pretrain
    monkeypatch.setattr(pipeline, "pretrain", loses)
    (outcome,) = run_study(quick(["random"], [0.5]), tmp_path, Local(), Silent())
    assert outcome.values
    assert lost == [1]


@pytest.mark.parametrize("ends", [lambda: {}, lambda: broken(None, None, None)])
def test_a_task_that_another_process_took_over_meanwhile_is_not_written_down(tmp_path, monkeypatch, ends):
    graph = quick(["random"], [0.5]).begin(tmp_path)
    task, ledger = next(iter(graph.tasks.values())), Ledger(tmp_path)

    def stood_still(config, out, progress, epoch):
        (path,) = ledger.lease(task).path.iterdir()
        (path.parent / f"{int(path.name) + 1}").write_text("{}")
        now = leases.time.time()
        monkeypatch.setattr(leases.time, "time", lambda: now + 70)
        ends()

    monkeypatch.setattr(pipeline, "pretrain", stood_still)
    assert attempt(task, ledger, Silent()) is None
    assert ledger.done(task) is ledger.failure(task) is None


def test_results_that_are_gone_are_made_again(tmp_path):
    study = quick(["random"], [0.5])
    run_study(study, tmp_path, Local(), Silent())
    (path,) = tmp_path.glob("random-*/result.json")
    before = path.read_bytes()
    for harm in (path.unlink, lambda: path.write_bytes(b"{}")):
        harm()
        graph = study_below(tmp_path)[1]
        states = survey(graph, Ledger(tmp_path))
        assert sorted(states.values()) == ["done"] * 3 + ["ready"], "what it needs is there"
        run_study(study, tmp_path, Local(), Silent())
        assert json.loads(path.read_bytes())["test_accuracy"] == json.loads(before)["test_accuracy"]


def test_a_study_at_a_glance_before_it_is_begun(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, densities="0.5", seeds="1")
    found = as_json(capsys, "study", path, "--dry-run", "--engine", "local", "--jobs", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["three.yaml"], "nothing is written"
    assert {task["state"] for task in found["tasks"]} == {"ready", "waiting"}
    assert found["work_seconds"] == pytest.approx(sum(task["seconds"] for task in found["tasks"]))
    assert 0 < found["start_seconds"] < found["seconds"] <= found["work_seconds"] + found["start_seconds"]
    weights = 53_200 * 4
    assert 6 * weights < found["bytes"] < 20 * weights
    assert found["gpu_hours"] == 0
    _, text, _ = command(capsys, "study", path, "--dry-run", "--jobs", "2")
    assert ("GPU hours" in text) == (found["gpu_hours"] > 0), "of no machine without a GPU"
    assert "0 of 8 tasks are done" in text
    assert "With 2 at a time, their start included: " in text
    assert "Guessed: that later steps take as long as the first; how many files a task writes." in text

    monkeypatch.setattr("tombola.cli.study.MOST_LISTED", 7)
    _, text, _ = command(capsys, "study", path, "--dry-run")
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in text.splitlines() if "│" in line]
    kinds = {words.partition(" of ")[0] for words, _, _ in rows}
    assert kinds == {task["kind"] for task in found["tasks"]}
    assert ["dense", "2", "0"] in rows
    assert sum(int(count) for _, count, _ in rows) == 8
    assert "--json lists them one by one." in text


def test_a_search_shorter_than_what_is_measured_is_forecast(tmp_path, capsys):
    # It comes to its end, where its mask is looked at on batches longer than its own.
    path = written(tmp_path, name="cts:objective=reverse-kl:steps=2", densities="0.5", seeds="1")
    assert as_json(capsys, "study", path, "--dry-run")["work_seconds"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "grid"], "--engine must be one of local, ray, slurm, got grid"),
        (["--jobs", "-1"], "--jobs must be a whole number of at least 1, got -1"),
        (["--jobs", "0"], "--jobs must be a whole number of at least 1, got 0"),
        (["--jobs", "0", "--engine", "ray"], "--jobs must be a whole number of at least 1, got 0"),
        (["--address", "auto"], "--address needs --engine ray"),
        (["--slurm", "time=1"], "--slurm needs --engine slurm"),
        (["--engine", "slurm", "--jobs", "2"], "--jobs is not for Slurm: say --slurm parallel="),
        (["--engine", "slurm", "--slurm", "parallel=2"], "--slurm must have time="),
        (
            ["--engine", "slurm", "--slurm", "time=1,nodes=2"],
            "--slurm must have time=, and may have values of",
        ),
        (["--engine", "slurm", "--slurm", "time=soon,gpus=0"], "--slurm must have a time such as 30, 4:00:00"),
        (
            ["--engine", "slurm", "--slurm", "time=3,parallel=0,gpus=1"],
            "--slurm must have a whole number of at least 1",
        ),
        (["--engine", "slurm", "--slurm", "time=1"], "--slurm must say gpus=, since Slurm has no 0.5 of one"),
        (
            ["--engine", "slurm", "--slurm", "time=10,gpus=1,memory=4096"],
            "--slurm: memory must be a size with its unit, such as 8 GB or 500 MB, got 4096",
        ),
        *(
            (
                ["--engine", "slurm", "--slurm", f"time={time},gpus=1"],
                "--slurm must have a time of more than 2 minutes, since jobs checkpoint 2 minutes before their end, "
                f"got {time}\n",
            )
            for time in ("0", "1", "2", "0:30", "0:02:00")
        ),
    ],
)
def test_engines_that_cannot_be_had(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    status, out, err = command(capsys, "study", "three.yaml", *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["three.yaml"]


@pytest.mark.parametrize(
    ("given", "count", "seen"),
    [(None, 4, "2"), (None, 1, None), (None, 0, None), ("4,5,7", 8, "4"), ("GPU-3", 8, "GPU-3"), ("", 0, "")],
)
def test_several_jobs_have_a_gpu_each_in_turns(monkeypatch, given, count, seen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    see_one_gpu(6)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


class Ray:
    """What stands for Ray: it says which addresses it was asked for."""

    def __init__(self):
        self.asked = []

    def is_initialized(self):
        return False

    def init(self, address, **options):
        self.asked.append(address)
        raise ConnectionError("it is no cluster")


def test_a_cluster_where_nobody_listens_is_refused_at_once(tmp_path, monkeypatch):
    graph, ray = quick(["random"], [0.5]).graph(tmp_path), Ray()
    monkeypatch.setattr(on_ray, "_ray", lambda: ray)
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_port = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"^address: no cluster can be reached at '{open_port}': it is no cluster"):
            list(OnRay(open_port).run(graph, Silent()))
    for address in (open_port, "127.0.0.1:99999", f"{'x' * 70}.invalid:1"):
        with pytest.raises(UsageError, match=f"^address: no cluster can be reached at '{address}': "):
            list(OnRay(address).run(graph, Silent()))
    assert ray.asked == [open_port], "Ray itself would try for minutes"
    for address in ("auto", "ray://127.0.0.1:1", ""):
        with pytest.raises(UsageError, match="it is no cluster"):
            list(OnRay(address).run(graph, Silent()))


class Futures:
    """Workers of a pool, whose ends are known."""

    def __init__(self, *ends):
        self.ends, self.made = ends, 0

    def __call__(self, max_workers):
        self.made += 1
        return self

    def submit(self, work, number, *study):
        future = Future()
        future.set_exception(self.ends[number])
        return future

    def shutdown(self, wait, kill_workers):
        pass


def test_what_a_worker_raises_itself_is_raised_and_no_loss(tmp_path, monkeypatch):
    graph = quick(["random"], [0.5]).begin(tmp_path)
    lost, full = TerminatedWorkerError("killed"), OSError(errno.ENOSPC, "No space left on device")
    pool = Futures(lost, full)
    monkeypatch.setattr(loky, "ProcessPoolExecutor", pool)
    with pytest.raises(OSError, match="No space left") as raised:
        list(Local(2).run(graph, Silent()))
    assert raised.value is full
    assert pool.made == 1
    killed = Futures(lost, lost)
    monkeypatch.setattr(loky, "ProcessPoolExecutor", killed)
    with pytest.raises(TombolaError, match="workers are killed again and again; fewer --jobs take less memory"):
        list(Local(2).run(graph, Silent()))
    assert killed.made == 3


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("3", 3), ("30", 30), ("2:30", 3), ("4:00:00", 240), ("1-12", 2160), ("1-12:30", 2190), ("1-12:30:01", 2191)],
)
def test_times_as_slurm_reads_them(text, minutes):
    assert SlurmOptions.read(f"time={text}", Resources()).minutes == minutes


def test_what_jobs_ask_slurm_for():
    found = SlurmOptions.read("partition=gpu, time=60,parallel=8,gpus=1,memory=1.5GB", Resources(cpus=4, gpus=0.5))
    assert found.parameters("x") == {
        "partition": "gpu", "job_name": "tombola-x", "time": 60, "cpus_per_task": 4, "array_parallelism": 8,
        "signal_delay_s": 120, "additional_parameters": {"requeue": True}, "gpus_per_node": 1, "mem": "1500MB",
    }  # fmt: skip


def test_status_of_something_else(tmp_path, capsys):
    status, _, err = command(capsys, "status", tmp_path)
    assert status == 2
    assert "holds no study; `tombola study` and `tombola compare` begin one" in err
    (tmp_path / ".study").mkdir()
    for content in ("{", "{}", '{"cells": [{"label": 3}]}'):
        (tmp_path / ".study" / "plan.json").write_text(content)
        status, _, err = command(capsys, "status", tmp_path)
        assert (status, err.count("\n")) == (2, 1)
        assert "plan.json is damaged" in err


def test_a_study_whose_modules_are_gone_is_not_called_damaged(brought, tmp_path, capsys):
    cells = ["--model", "brought:build", "--data", "brought:datasets", "--epochs", "2", "--rewind-to", "1"]
    cells += ["--milestones", "[]", "--threads", "1", "--finders", "random", "--density", "0.3", "--seeds", "1"]
    command(capsys, "compare", *cells, "--out", tmp_path / "o")
    (brought / "brought.py").unlink()
    sys.modules.pop("brought")
    status, _, err = command(capsys, "status", tmp_path / "o")
    assert status == 2
    assert "'brought:datasets' cannot be imported" in err
    assert "damaged" not in err


def test_sizes_and_durations():
    assert [memory_bytes(text) for text in ("8 GB", "1.5g", "7 B", "20kB")] == [8 * 10**9, 15 * 10**8, 7, 20_000]
    for text in ("7", 4096, "0.0001", "0.4 B", "0 GB", "1..2 GB", "9" * 400 + " GB"):
        with pytest.raises(UsageError, match="must be a size with its unit, such as 8 GB or 500 MB"):
            memory_bytes(text)
    assert [duration_words(seconds) for seconds in (0, 59.6, 3700)] == ["0 s", "1 min 0 s", "1 h 1 min"]
