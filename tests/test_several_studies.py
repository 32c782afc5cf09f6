"""Several studies below one --out, cells that are prepared once, and studies that come with the package."""

import json
import threading

import pytest
import torch
import yaml
from PIL import Image

from scripts.results import equal
from tombola import UsageError
from tombola.core.parts import identify, plain
from tombola.core.progress import Silent
from tombola.finders import FINDERS
from tombola.runs.cell import Cell
from tombola.storage.identity import digest
from tombola.studies import StudyPlan, manifest, plan, read, read_study, run_study, runner
from tombola.studies.engines import Local
from tombola.studies.ledger import Ledger
from tombola.studies.measured import Enough, Stopwatch
from tombola.studies.status import status_of
from tombola.studies.study import study_below

from .conftest import as_json, command

SHARED = {"data": "digits", "train_samples": 32, "epochs": 2, "batch_size": 32, "draw_at": "init", "threads": 1}


def made(finders, seeds=1, density=0.25, name="comparison", **options):
    return StudyPlan(name, tuple(plan([{}, {**SHARED, **options}], finders, [density], seeds)))


class Idle:
    """An engine that submits a study and does nothing of it."""

    def threads(self, resources):
        return 1

    def run(self, graph, progress):
        return iter(())


def done(study, out):
    return run_study(study, out, Local(), Silent())


def test_one_directory_remembers_every_study(tmp_path, capsys):
    prepared = []
    original = Cell._made.__func__

    def counted(cls, config, *rest):
        prepared.append(config)
        return original(cls, config, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cell, "_made", classmethod(counted))
        done(made(["random"]), tmp_path)
    # The cell that is looked at before anything is written is the one that is drawn, trained and evaluated.
    assert len(prepared) == len(set(prepared)) == 2, "a cell, and its dense training"
    done(made(["magnitude"]), tmp_path)
    done(made(["random"], seeds=2), tmp_path)  # more of the first: the same study
    assert [study_below(tmp_path, name)[0].name for name in ("comparison", "comparison-2")] == [
        "comparison", "comparison-2",
    ]  # fmt: skip
    last, other = read(tmp_path), read(tmp_path, "comparison-2")
    assert (last.name, last.finders, last.seeds, last.others) == ("comparison", ["random"], [0, 1], ("comparison-2",))
    assert (other.finders, other.seeds, len(other.done)) == (["magnitude"], [0], 1)
    # Fewer cells than there were are another study, and its runs are those that are there.
    done(made(["random"]), tmp_path)
    assert read(tmp_path).name == "comparison-3"
    assert len(read(tmp_path, "comparison").done) == 2
    # The very same again is the last one run, under its own name.
    done(made(["magnitude"]), tmp_path)
    assert read(tmp_path).name == status_of(tmp_path, "comparison-2").name == "comparison-2"
    assert status_of(tmp_path).studies == ("comparison", "comparison-2", "comparison-3")

    _, text, _ = command(capsys, "table", tmp_path)
    assert "holds also comparison, comparison-3; --study NAME shows one of them" in text
    assert "magnitude" in text
    assert as_json(capsys, "info", tmp_path, "--study", "comparison")["seeds"] == [0, 1]
    assert as_json(capsys, "status", tmp_path, "--study", "comparison")["tasks"]["done"] == 6
    status, _, err = command(capsys, "table", tmp_path, "--study", "other")
    assert (status, err) == (
        2, "tombola table: --study must be one of comparison, comparison-2, comparison-3, got other\n",
    )  # fmt: skip
    status, _out, _ = command(capsys, "report", tmp_path, "--study", "comparison", "--out", tmp_path / "page.html")
    assert status == 0
    assert "--study comparison" in (tmp_path / "page.html").read_text()


def test_another_configuration_under_the_same_labels_is_another_study(tmp_path):
    done(made(["random"]), tmp_path)
    done(made(["random"], learning_rate=0.01), tmp_path)
    done(made(["random"], tracker="csv"), tmp_path)  # which changes nothing
    assert manifest.names(tmp_path) == Ledger(tmp_path).plans() == ["comparison", "comparison-2"]


def test_a_comparison_in_another_precision_is_another_study(tmp_path):
    names = []
    for precision in ("32-true", "bf16-mixed", "32-true", "auto"):
        run_study(made(["random"], precision=precision), tmp_path, Idle(), Silent())
        names.append(json.loads(Ledger(tmp_path).plan_file().read_text())["name"])
    assert names == ["comparison", "comparison-2", "comparison", "comparison-3"]
    # Where none of these options is given, cells are known as they were before.
    (cell,) = made(["random"]).on_threads(1).cells
    told = [cell.label, identify(cell.config), plain(cell.config.data), None, None]
    assert [each["key"] for each in json.loads(Ledger(tmp_path).plan_file().read_text())["cells"]] == [digest(told)]


def test_a_study_that_another_comes_before_takes_the_next_name(tmp_path, monkeypatch):
    original = runner._check_some

    def meanwhile(cells):
        monkeypatch.setattr(runner, "_check_some", original)
        run_study(made(["magnitude"]), tmp_path, Idle(), Silent())

    monkeypatch.setattr(runner, "_check_some", meanwhile)
    run_study(made(["random"]), tmp_path, Idle(), Silent())
    assert manifest.names(tmp_path) == Ledger(tmp_path).plans() == ["comparison", "comparison-2"]
    found = {name: study_below(tmp_path, name)[0].cells[0].label for name in Ledger(tmp_path).plans()}
    assert found == {"comparison": "magnitude", "comparison-2": "random"}


def test_studies_take_their_names_one_after_another(tmp_path):
    begun = []
    other = threading.Thread(target=lambda: begun.append(made(["random"]).begin(tmp_path).study))
    with Ledger(tmp_path).naming():
        other.start()
        other.join(0.3)
        assert (begun, Ledger(tmp_path).plans()) == ([], [])
    other.join()
    assert begun == ["comparison"]


def test_a_cell_whose_data_have_changed_is_prepared_anew(tmp_path):
    from tombola.data import shared
    from tombola.runs.cell import prepared_once, resolve

    config = resolve(made(["random"]).cells[0].config)
    assert Cell.prepare(config) is not Cell.prepare(config)
    with prepared_once():
        with shared():
            first = Cell.prepare(config)
            assert Cell.prepare(config) is first
        with shared():  # read again, and nothing says that it is the same
            assert Cell.prepare(config) is not first


@pytest.mark.parametrize("name", ["fashion-mnist-all", "resnet50-imagenet"])
def test_shipped_studies_expand(name):
    study, many = (
        read_study(name),
        {"fashion-mnist-all": len(list(FINDERS)) * 6 * 5, "resnet50-imagenet": (8 * 6 + 2) * 3},
    )
    cells = {(cell.label, cell.density, cell.seed) for cell in study.cells}
    assert len(cells) == len(study.cells) == many[name]


@pytest.mark.hard
def test_a_cluster_study_can_be_looked_at_on_a_few_images(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for label in ("hen", "tench"):
            folder = tmp_path / "imagenet" / part / label
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = torch.randint(256, (40, 40, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    from importlib.resources import files

    values = yaml.safe_load((files("tombola.studies") / "shipped" / "resnet50-imagenet.yaml").read_text())
    finders = [each for each in values["finders"] if each in ("cts", "random")]
    less = {"image_size": 32, "held_out": 0.2, "threads": 1, "finders": finders, "densities": 0.1, "seeds": 1}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({**values, **less}))
    found = as_json(capsys, "study", "few.yaml", "--dry-run")
    kinds = [task["kind"] for task in found["tasks"]]
    assert sorted(kinds) == ["cell", "cell", "dense", "dense", "teacher", "ticket", "ticket"]
    seconds = {task["task"]: task["seconds"] for task in found["tasks"]}
    assert all(value > 0 for value in seconds.values())
    # 5,000 steps of search, and a training as the other's.
    assert seconds["cts 0.1 s0, ticket"] > 10 * seconds["random 0.1 s0, ticket"]
    assert not (tmp_path / "studies").exists()


class Feed:
    """Ten batches, each of which takes its time to load."""

    length = 10

    def epoch(self, number, skip=0):
        from tombola.data import Item

        return (Item(torch.full((4,), float(place)), torch.arange(4)) for place in range(skip, 10))


def test_a_stopwatch_ends_the_work_and_gives_a_teachers_outputs_everywhere():
    watch = Stopwatch(Feed(), torch.device("cpu"))
    seen = []

    def look():
        for item in watch.epoch(0):
            seen.append(item)

    with pytest.raises(Enough):
        look()
    assert len(seen) == 5
    assert watch.step >= 0
    calls = []

    def compute(batch):
        calls.append(batch)
        return batch[:, None]

    table = watch.remember(compute)
    assert len(calls) == 2, "of ten batches the first alone, twice"
    assert torch.equal(table(seen[3]), torch.zeros(4, 1))


def test_runs_are_compared_to_the_bit(tmp_path, capsys):
    for place in ("one", "two"):
        done(made(["random"]), tmp_path / place)
    assert equal.main(str(tmp_path / "one"), str(tmp_path / "two")) == 0
    (run,) = (tmp_path / "two").glob("random-*")
    (run / "result.json").write_text(json.dumps({"test_accuracy": 1.0}))
    assert equal.main(str(tmp_path / "one"), str(tmp_path / "two")) == 1
    assert capsys.readouterr().out.splitlines() == [
        "1 of 1 runs are equal", "0 of 1 runs are equal", f"differs: {run.name}: result.json",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="there is no directory"):
        read(tmp_path / "three")
