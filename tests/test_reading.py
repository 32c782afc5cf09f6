"""Comparisons read back: from study.json or from runs alone, whole or not, as rows, frames and tables."""

import csv
import io
import json
import math
import shutil

import pandas as pd
import pytest
import torch
import yaml

import tombola
from tombola import SearchError, UsageError
from tombola.cli.main import main
from tombola.core.parts import identify
from tombola.core.progress import Silent
from tombola.finders import Random
from tombola.runs import pipeline
from tombola.runs.cell import stamp
from tombola.runs.config import built, load_preset
from tombola.storage.files import read_json_object, write_json
from tombola.studies import StudyPlan, comparison, manifest, plan, read, run_all, run_study, summary, tabulate
from tombola.studies.dense import DenseNetwork
from tombola.studies.engines import Local
from tombola.studies.figures import figures_of
from tombola.studies.figures.scores import by_cost, dense_level
from tombola.studies.outcome import CellOutcome
from tombola.studies.planning import Asked, expand
from tombola.studies.reading import equal_cost, falls
from tombola.studies.reading.found import discovered
from tombola.studies.reading.questions import base_name, cost_unit
from tombola.studies.reading.study import ReadCell
from tombola.studies.report import report
from tombola.studies.report.words import finding
from tombola.studies.study import study_below
from tombola.studies.table import dense_means
from tombola.studies.worker import work

from . import made_studies
from .conftest import as_json, command
from .test_startup import loaded

QUICK = {"epochs": 2, "rewind_to": 1, "milestones": [], "threads": 1}
FINDERS = ["cts", "snip", "random", "ltr"]
HOLES = {
    "missing": [("cts", 0.02, seed) for seed in range(3)] + [("snip", 0.05, 1)],
    "failed": [("ltr", 0.2, 0)],
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    study = tombola.compare(
        ["random", "cts"], densities=["10%"], seeds=2, out=out, progress=False, dynamics=True, steps=20, **QUICK
    )
    return out, study


@pytest.fixture(scope="module")
def holes(tmp_path_factory):
    return made_studies.study(tmp_path_factory.mktemp("holes") / "s", FINDERS, **HOLES)


def test_compare_from_python_returns_rows_and_frames(compared):
    out, study = compared
    assert [(row.finder, row.density) for row in study.rows] == [(finder, 0.1) for finder in ("random", "cts")]
    assert {"table.json", "table.csv", "study.json"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "table.json").read_text())["rows"] == [row.to_dict() for row in study.rows]
    assert study.rows[0].dynamics[-1][0] == 2
    cells = study.cells
    assert len(cells) == 4
    assert set(cells.state) == {"finished"}
    means = cells.groupby(["finder", "density"]).test_accuracy.mean()
    assert all(means[row.finder, row.density] == pytest.approx(row.score.mean) for row in study.rows)
    layers = study.layers
    assert set(layers.groupby(["finder", "seed"]).kept.sum()) == {5020}
    searched = study.metrics.query("stage == 'search'")
    assert set(searched.finder) == {"cts"}
    assert searched.expected_density.notna().all()


def test_a_finder_may_be_named_without_its_options(tmp_path, capsys):
    finders = ["random", "cts:steps=60", "snip:rounds=2", "snip:rounds=3"]
    found = read(made_studies.study(tmp_path / "s", finders, densities=(0.1,), seeds=2, tickets=False))
    assert set(found.differences("cts").finder) == {"cts:steps=60"}
    assert (found.chosen(), found.chosen("snip:rounds=3")) == ("random", "snip:rounds=3")
    with pytest.raises(UsageError, match="against must say which one: snip:rounds=2, snip:rounds=3, got snip"):
        found.chosen("snip")
    with pytest.raises(UsageError, match=r"against must be one of .*, got randm; did you mean random"):
        found.chosen("randm")


def test_a_study_is_printed_on_one_line(holes):
    assert repr(read(holes)) == (
        f"<Study {holes}: cts, snip, random, ltr at 20 %, 5 %, 2 % of the weights, 31 of 36 cells finished; "
        "see .summary(), .differences(), .cells>"
    )


def test_compare_from_python_refuses_what_cannot_be():
    for finders in ("cts", [tombola.Random()], None, {"cts": "snip"}):
        with pytest.raises(UsageError) as refused:
            tombola.compare(finders, densities=[0.1])
        assert str(refused.value) == (
            f"finders must be a list of finders as they are written, such as 'cts:steps=500', got {finders!r}"
        )
    with pytest.raises(UsageError, match=r"is unknown"):
        tombola.compare(["magic"], densities=[0.1])


def test_comparisons_run_without_the_autocast_around_them(tmp_path, monkeypatch):
    """Which their names would not tell."""
    seen = []
    monkeypatch.setattr(comparison, "carry_out", lambda *_, **__: seen.append(torch.is_autocast_enabled("cpu")))
    monkeypatch.setattr(comparison, "read", lambda _: None)
    with torch.autocast("cpu", torch.bfloat16):
        tombola.compare(["random"], densities=[0.1], out=tmp_path, progress=False)
        tombola.study("digits-mini", out=tmp_path, progress=False)
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"jobs": 0}, "jobs must be a whole number of at least 1, got 0"),
        ({"jobs": -1}, "jobs must be a whole number of at least 1, got -1"),
        ({"jobs": 1.5}, "jobs must be a whole number of at least 1, got 1.5"),
        ({"seeds": [0, 1]}, "seeds must be how many, a whole number, got [0, 1]"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"densities": 0.1}, "densities must be a list of densities such as [0.1, '2%'], got 0.1"),
        ({"densities": "10%"}, "densities must be a list of densities such as [0.1, '2%'], got '10%'"),
        ({"densities": {"*": 0.1}}, "densities must be a list of densities such as [0.1, '2%'], got {'*': 0.1}"),
        ({"densities": []}, "densities must be a list of densities such as [0.1, '2%'], got []"),
    ],
)
def test_numbers_that_compare_does_not_take_are_named_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(UsageError) as refused:
        tombola.compare(["random"], out=tmp_path / "out", progress=False, **{"densities": [0.1], **wrong})
    assert str(refused.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_finished_comparison_is_read_again_without_its_data(compared, monkeypatch):
    out, study = compared

    def never(*arguments):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(StudyPlan, "graph", never)
    cells = plan([load_preset("digits"), {**QUICK, "steps": 20}], ["random", "cts"], [0.1], seeds=2)
    before = manifest.read(out)
    outcomes = run_all(cells, out, Silent(), dynamics=True)
    assert tabulate(outcomes) == study.rows
    assert manifest.read(out).cells == before.cells


class Elsewhere:
    """An engine whose workers nobody waits for, as Slurm's."""

    workers = 1

    def threads(self, resources):
        return 1

    def run(self, tasks, board):
        yield from ()


def test_what_workers_did_for_whom_nobody_waited_is_read(tmp_path, monkeypatch):
    study = StudyPlan("later", tuple(plan([load_preset("digits"), QUICK], ["snip", "random"], [0.1], seeds=1)), True)
    assert run_study(study, tmp_path, Elsewhere(), Silent()) == []
    assert [len(each) for each in (read(tmp_path).done, read(tmp_path).missing)] == [0, 2]
    assert [each for each in work(study_below(tmp_path)[1], Silent()) if each.failure] == []
    found = read(tmp_path)
    assert found.finders == ["snip", "random"], "in the study's order"
    assert [row.dynamics[-1][0] for row in found.rows] == [2, 2]
    monkeypatch.setattr(StudyPlan, "graph", lambda *arguments: pytest.fail("it reads its data"))
    assert tabulate(run_study(study, tmp_path, Elsewhere(), Silent())) == found.rows


def test_what_failed_for_workers_for_whom_nobody_waited_is_read(tmp_path, monkeypatch):
    cells = plan([load_preset("digits"), QUICK], ["random", "magnitude"], [0.1], seeds=2)
    run_study(StudyPlan("later", tuple(cells)), tmp_path, Elsewhere(), Silent())
    pretrain = pipeline.pretrain

    def diverges(config, *arguments):
        if config.seed:
            raise SearchError("the loss is nan")
        pretrain(config, *arguments)

    def broken(self, problem, density):
        raise SearchError("numbers broke down")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "pretrain", diverges)
        patch.setattr(Random, "draw", broken)
        assert len([each for each in work(study_below(tmp_path)[1], Silent()) if each.failure]) == 2
    found = read(tmp_path)
    assert (len(found.done), found.missing) == (1, [])
    assert {(o.cell.label, o.cell.seed): o.failure for o in found.outcomes if o.failure} == {
        ("random", 0): "SearchError: numbers broke down",
        ("random", 1): "SearchError: the loss is nan",
        ("magnitude", 1): "SearchError: the loss is nan",
    }
    assert not manifest.is_unfinished(tmp_path)
    run_study(StudyPlan("later", tuple(cells)), tmp_path, Elsewhere(), Silent(), retry_failed=True)
    assert len(read(tmp_path).missing) == 3, "they are tried again"


def test_what_is_not_as_it_was_written_is_made_again(tmp_path):
    cells = plan([load_preset("digits"), QUICK], ["random"], [0.1], seeds=1)
    (first,) = run_all(cells, tmp_path, Silent())
    (directory,) = tmp_path.glob("random*")
    (directory / "result.json").write_text("{}")
    assert read(tmp_path).problems
    (again,) = run_all(cells, tmp_path, Silent())
    assert again.values["test_accuracy"] == first.values["test_accuracy"]
    for place in ("study.json", ".study/studies/cells.json"):
        (tmp_path / place).write_text("{")
    assert run_all(cells, tmp_path, Silent())[0].values == again.values
    assert len(read(tmp_path).done) == 1


def test_damaged_files_of_a_run_are_made_again_by_its_study(tmp_path):
    study = StudyPlan("two", tuple(plan([load_preset("digits"), QUICK], ["random", "magnitude"], [0.1], seeds=1)))
    run_study(study, tmp_path, Local(), Silent())
    lost = next(tmp_path.glob("random*")) / "ticket.safetensors"
    damaged = next(tmp_path.glob("magnitude*")) / "weights.safetensors"
    before = [path.read_bytes() for path in (lost, damaged)]
    lost.unlink()
    damaged.unlink()  # a link to what runs share, which is damaged alone
    damaged.write_bytes(b"x" + before[1][1:])
    run_study(study, tmp_path, Local(), Silent())
    assert [path.read_bytes() for path in (lost, damaged)] == before


def test_stamps_tell_what_names_alone_do_not(tmp_path, brought):
    def of(**changes):
        (cell,) = plan([load_preset("digits"), {**QUICK, **changes}], ["random"], [0.1], seeds=1)
        return stamp(cell.config)

    weights = tmp_path / "w.pt"
    weights.write_bytes(b"one")
    changes = (
        {},
        {"seed": 1},
        {"epochs": 3},
        {"weights": str(weights)},
        {"precision": "32-true"},
        {"execution": "dense"},
    )
    seen = {of(**each) for each in changes}
    weights.write_bytes(b"other")
    seen.add(of(weights=str(weights)))
    assert len(seen) == 7
    assert of() == of(threads=2)
    assert of(model="brought:build") is of(data="brought:datasets") is of(fit="brought:train") is None
    assert of(data="folder", data_dir=str(tmp_path)) is None


def test_stamps_tell_cards_apart_whatever_their_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", "cuda:1"):
        (cell,) = plan([load_preset("digits"), {**QUICK, "device": device}], ["random"], [0.1], seeds=1)
        seen = []
        for name in ("one", "another"):
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda _=None, name=name: name)
            seen.append(stamp(cell.config))
        assert seen[0] != seen[1]


def test_runs_alone_are_a_comparison_too(compared, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(compared[0], out, ignore=shutil.ignore_patterns(".store", "study.json"))
    (out / "notes").mkdir()
    found = read(out)
    assert sorted(found.finders) == ["cts", "random"]
    assert {(row.finder, row.density): row.scores for row in found.rows} == {
        (row.finder, row.density): row.scores for row in compared[1].rows
    }
    shutil.rmtree(out)
    run_all(plan([load_preset("digits"), QUICK], ["snip", "snip:rounds=2"], [0.1], seeds=1), out, Silent())
    (out / "study.json").unlink()
    assert sorted(read(out).finders) == ["snip", "snip:rounds=2"]


def epochs(number):
    return {"training": {"name": "recipe", "epochs": number}}


@pytest.fixture
def two_lengths(tmp_path):
    """Runs made one by one, of 30 and of 4 epochs, each with the dense network of its length."""
    for seed in range(2):
        made_studies.write_run(tmp_path, "cts", 0.05, seed, 96.0 + seed, dense=97.2 + seed, options=epochs(30))
        made_studies.write_run(tmp_path, "snip", 0.05, seed, 93.0 + seed, dense=94.0 + seed, options=epochs(4))
    return tmp_path


def of_digits(values):
    return built([load_preset("digits"), {"density": 0.1, "threads": 1, "device": "cpu", **values}])


def made_alone(out, *asked):
    """Write a run, as its command would describe it, of each configuration; return the labels that they get."""
    for number, values in enumerate(asked):
        config = of_digits(values)
        name = made_studies.write_run(out, str(number), 0.1, 0, 90.0, tickets=False, options=config.to_dict())
        write_json(out / name / "identity.json", {"config": identify(config)})
    return {cell.label for cell in discovered(out)}


def test_runs_made_one_by_one_are_named_as_commands_take_them(tmp_path):
    asked = {
        "cts:controller=proportional --epochs 30": {},
        "cts:steps=300:controller=proportional --epochs 40": {"finder": "cts:steps=300", "epochs": 40},
        "cts:objective=loss:controller=gradbalance:momentum=0.8 --epochs 30": {
            "finder": "cts:objective=loss:controller=gradbalance:momentum=0.8"
        },
        "random": {"finder": "random"},
        "snip --milestones [15,25]": {"finder": "snip"},
        "snip --draw-at init --model resnet20:width=8 --milestones [9,10] --optimizer sgd:momentum=0.5": {
            "finder": "snip", "model": "resnet20:width=8", "draw_at": "init", "milestones": [9, 10],
            "optimizer": "sgd:momentum=0.5",
        },
    }  # fmt: skip
    labels = made_alone(tmp_path, *asked.values())
    assert labels == set(asked)
    for label in labels:
        finder, *rest = label.split(" --")
        given = dict(each.split(" ", 1) for each in rest)
        assert of_digits({"finder": finder, **given}) == of_digits(asked[label])


def test_runs_of_which_defaults_are_not_known_are_named_in_full(tmp_path):
    made_alone(tmp_path, {"finder": "snip", "rounds": 1}, {"finder": "snip", "rounds": 2})
    assert {cell.label for cell in discovered(tmp_path)} == {"snip", "snip:rounds=2"}
    for path in tmp_path.glob("*/identity.json"):
        path.write_text("{")
    assert {cell.label for cell in discovered(tmp_path)} == {"snip:rounds=1", "snip:rounds=2"}


def test_runs_that_the_machine_sets_apart_are_no_seeds_of_one_finder(tmp_path):
    labels = made_alone(tmp_path, {"finder": "snip"}, {"finder": "snip", "precision": "bf16-mixed"}, {"finder": "cts"})
    assert labels == {"snip --precision auto", "snip --precision bf16-mixed", "cts"}


def test_runs_that_nothing_tells_apart_go_by_their_directories(tmp_path):
    labels = made_alone(tmp_path, {"finder": "snip"}, {"finder": "snip"})
    assert labels == {f"snip in {run.name}" for run in tmp_path.iterdir()}
    assert {row.seeds for row in read(tmp_path).rows} == {(0,)}


def made_by_layer(out, made, seed, options=None, **layers):
    """Write a run of densities by layer, and of the density that came of them."""
    name = made_studies.write_run(out, "snip", made, seed, 91.0, options=options)
    config = yaml.safe_load((out / name / "config.yaml").read_text())
    config["density"] = {"fc3*": 1.0, "*": 0.05, **layers}
    (out / name / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_json(out / name / "identity.json", {"config": {"finder": {"name": "snip"}}})


def test_runs_with_densities_by_layer_are_cells_of_the_density_that_they_made(tmp_path):
    name = made_studies.write_run(tmp_path, "snip", 0.05, 0, 90.0)
    write_json(tmp_path / name / "identity.json", {"config": {"finder": {"name": "snip"}}})
    for seed, made in enumerate((0.068924, 0.068925)):  # groups do not fit alike in every seed
        made_by_layer(tmp_path, made, seed)
    found = {(row.finder, row.density): row.seeds for row in read(tmp_path).rows}
    assert found == {("snip", 0.05): (0,), ("snip --density 'fc3*=1; *=0.05'", 0.068924): (0, 1)}


def test_no_seed_of_densities_by_layer_counts_twice(tmp_path):
    for place, near in enumerate((0.32768, 0.3277)):
        made_by_layer(tmp_path, 0.06 + place / 1000, 0, fc1=near)
    made_by_layer(tmp_path, 0.062, 0, {"threads": 2}, fc1=0.3277)
    assert [row.seeds for row in read(tmp_path).rows] == [(0,)] * 3


@pytest.mark.parametrize("key", ["test_accuracy", "dense_test_accuracy"])
def test_a_result_that_is_no_number_is_a_problem_and_no_best(tmp_path, key):
    for seed, value in enumerate((90.0, math.nan)):
        name = made_studies.write_run(tmp_path, "snip", 0.05, seed, 91.0)
        values = read_json_object(tmp_path / name / "result.json")
        (tmp_path / name / "result.json").write_text(json.dumps(values | {key: value}))
    study = read(tmp_path)
    assert [row.seeds for row in study.rows] == [(0,)]
    (problem,) = study.problems
    assert f"{name}/result.json: {key} is no number but nan" in problem


def test_the_density_of_a_moving_mask_is_not_the_cells(tmp_path):
    name = made_studies.write_run(tmp_path, "gradual", 0.05, 0, 90.0)
    row = {"stage": "gradual", "epoch": 2, "density": 0.0555}
    (tmp_path / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (line,) = read(tmp_path).metrics.to_dict("records")
    assert (line["density"], line["mask_density"]) == (0.05, 0.0555)


def test_dense_networks_of_two_precisions_are_two(tmp_path):
    for label, dense, precision in (("cts", 97.0, "32-true"), ("snip", 96.0, "bf16-mixed")):
        options = {"precision": precision}
        made_studies.write_run(tmp_path, label, 0.05, 0, 90.0, dense=dense, options=options)
    assert {each.finders: each.summary.mean for each in read(tmp_path).dense} == {
        ("cts",): 97.0,
        ("snip",): 96.0,
    }


def test_each_row_is_held_against_its_own_dense_network(two_lengths, capsys):
    found = read(two_lengths)
    networks = {each.finders: each.scores for each in found.dense}
    assert networks == {("cts",): {0: 97.2, 1: 98.2}, ("snip",): {0: 94.0, 1: 95.0}}
    _, out, _ = command(capsys, "info", two_lengths)
    assert "The dense network of cts reaches 97.70 ± 0.71 % of the test data (n = 2)." in out
    assert "The dense network of snip reaches 94.50 ± 0.71 % of the test data (n = 2)." in out
    assert "At 5 %, cts has the best mean: 96.50 ± 0.71 % (n = 2), 1.20 points below dense." in out
    _, out, _ = command(capsys, "table", two_lengths)
    assert "dense network:" not in out
    lines = {line.split()[1]: line for line in out.splitlines() if "5 %" in line}
    assert "97.70 %" in lines["cts"]
    assert "94.50 %" in lines["snip"]
    _, out, _ = command(capsys, "table", two_lengths, "--format", "csv")
    assert {row["finder"]: row["dense"] for row in csv.DictReader(io.StringIO(out))} == {"cts": "97.7", "snip": "94.5"}
    assert "<td>97.70</td>" in report(found, "cts", two_lengths / "report.html")
    assert dense_level(found) is None
    assert not any("beside the dense network's" in figure.caption for figure in figures_of(found, "cts"))


def test_finders_fall_behind_their_own_dense_network(tmp_path):
    for density, accuracy in ((0.2, 94.0), (0.05, 93.5)):
        made_studies.write_run(tmp_path, "cts", density, 0, accuracy, dense=98.0, options=epochs(30))
        made_studies.write_run(tmp_path, "snip", density, 0, accuracy, dense=94.0, options=epochs(4))
    found = read(tmp_path)
    falls_at = dict(zip(found.falls().finder, found.falls().falls_at, strict=True))
    assert falls_at == {"cts": "above all densities", "snip": "not down to 5 %"}
    assert "Within a point of its own dense network down to 5 % of the weights: snip." in list(finding(found, "cts"))


def test_a_study_of_several_recipes_has_no_one_dense_network(tmp_path):
    layers = [load_preset("digits"), {}]
    asked = [Asked("snip", "snip"), Asked("random", "random"), Asked("snip", "longer", {"epochs": 40})]
    cells = expand(layers, asked, [0.1], range(1))
    outcomes = [
        CellOutcome(cell, made_studies.result(cell.label, 0.1, 90.0, dense=float(cell.config.training.epochs)))
        for cell in cells
    ]
    found = summary(tabulate(outcomes), outcomes)
    assert "dense_test_accuracy_mean" not in found
    assert dense_means(found) == {"snip": 30.0, "random": 30.0, "longer": 40.0}
    found = summary(tabulate(outcomes[:2]), outcomes[:2])
    assert (found["dense_test_accuracy_mean"], "dense_networks" in found) == (30.0, False)
    assert dense_means(found) == {"snip": 30.0, "random": 30.0}


def test_what_is_missing_is_said_and_the_rest_is_shown(holes, capsys):
    found = read(holes)
    assert [row.finder for row in found.rows if row.density == 0.02] == ["snip", "random", "ltr"]
    assert len(found.missing) == 4
    states = found.cells.state.value_counts()
    assert (states["finished"], states["missing"], states["failed"]) == (31, 4, 1)
    status, out, _ = command(capsys, "table", holes)
    assert status == 0
    assert "4 of 36 cells are missing." in out
    assert "failed: ltr at 0.2, seed 0: SearchError: it broke" in out
    status, out, _ = command(capsys, "info", holes)
    assert status == 0
    assert "31 of 36 cells are finished, 1 failed and 4 are missing" in out
    assert as_json(capsys, "info", holes)["missing"] == 4


def test_counts_are_whole_where_a_cell_is_missing(tmp_path, capsys):
    out = made_studies.study(tmp_path / "s", ["cts"], densities=(0.1,), seeds=2, missing=[("cts", 0.1, 1)])
    whole, missing = read(out).cells["kept"]
    assert missing is pd.NA
    for style, between in (("csv", ","), ("markdown", " | ")):
        assert f"{between}{whole:d}{between}" in command(capsys, "table", out, "--what", "cells", "--format", style)[1]


def test_counts_that_are_not_whole_stay_as_they_are(tmp_path):
    out = made_studies.study(tmp_path / "s", ["cts"], densities=(0.1,), seeds=2)
    path = next(out.glob("*/result.json"))
    values = json.loads(path.read_text())
    write_json(path, values | {"cost": {**values["cost"], "forward": 10.5}})
    assert 10.5 in set(read(out).cells["forward"])


@pytest.mark.parametrize("what", ["differences", "equal-cost"])
def test_one_finder_differs_from_none(what, tmp_path, capsys):
    out = made_studies.study(tmp_path / "s", ["cts"], densities=(0.1,), seeds=1)
    message = f"tombola table: --what: {what} needs two finders; {out} has cts alone\n"
    assert command(capsys, "table", out, "--what", what)[::2] == (2, message)


def test_where_nothing_is_finished_there_is_no_table(tmp_path, capsys):
    out = made_studies.study(tmp_path / "s", ["cts"], densities=(0.1,), seeds=1, missing=[("cts", 0.1, 0)])
    for what in ("summary", "differences", "equal-cost", "falls", "metrics", "layers"):
        assert command(capsys, "table", out, "--what", what)[::2] == (
            2,
            f"tombola table: no cell of {out} is finished yet\n",
        )
    assert command(capsys, "table", out, "--what", "cells")[0] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ('{"format": 9}', "has format 9"),
        ('{"format": 1, "cells": [{}], "command": []}', "is damaged"),
        (
            '{"format": 1, "command": [], "cells": [{"label": "a", "density": 0.1, "seed": 0, "run": "../x"}]}',
            "is damaged",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, content, message, capsys):
    (tmp_path / "study.json").write_text(content)
    status, _, err = command(capsys, "table", tmp_path)
    assert status == 2
    assert "study.json" in err
    assert message in err


def row_of(finder, density, accuracies, work=1.0):
    return [
        CellOutcome(ReadCell(finder, density, seed), made_studies.result(finder, density, accuracy, work=work))
        for seed, accuracy in enumerate(accuracies)
    ]


def test_where_finders_fall_behind_by_hand():
    values = {"a": {0.4: 90.5, 0.1: 88.5}, "b": {0.4: 90.0, 0.1: 89.2}, "c": {0.4: 88.0, 0.1: 89.9}}
    outcomes = [each for name, at in values.items() for density, x in at.items() for each in row_of(name, density, [x])]
    found = {fall.finder: fall for fall in falls(tabulate(outcomes), [DenseNetwork(("a", "b", "c"), {0: 90.0})])}
    # From 1.5 above the mark of 89 to 0.5 below: three quarters of the way from 0.4 to 0.1, in the logarithm.
    assert found["a"].density == pytest.approx(0.4 * 0.25**0.75)
    assert (found["a"].holds, found["a"].words) == (0.4, "14.1 %")
    assert (found["b"].density, found["b"].holds, found["b"].words) == (None, 0.1, "not down to 10 %")
    assert (found["c"].density, found["c"].holds, found["c"].words) == (None, None, "above all densities")


def test_a_finder_without_some_seeds_is_held_against_the_others_of_its_own_seeds():
    # The seed that is left is an easy one: beside it snip is worse than ltr, and more than a point below dense.
    rows = tabulate([*row_of("ltr", 0.1, [90.0, 70.0]), *row_of("snip", 0.1, [85.0])])
    dense = [DenseNetwork(("ltr", "snip"), {0: 90.5, 1: 70.5})]
    assert {row.finder: row.speed_up for row in rows} == {"ltr": None, "snip": None}
    assert [fall.words for fall in falls(rows, dense)] == ["not down to 10 %", "above all densities"]


def test_trainings_of_other_lengths_or_images_are_no_common_unit(tmp_path):
    out = tmp_path / "several"
    out.mkdir()
    for label, seconds, options in (
        ("cts", 10.0, {}), ("snip", 100.0, {"training": {"epochs": 20}}), ("ltr", 50.0, {"image_size": 16}),
        ("random", 9.0, {"training": {"learning_rate": 0.5}}),
    ):  # fmt: skip
        for density in (0.2, 0.05):
            made_studies.write_run(out, label, density, 0, 90.0, options=options, seconds=seconds)
    study = read(out)
    assert cost_unit(study.rows, study.dense) == "seconds"
    lines = list(study.equal_cost("cts").itertuples())
    assert {line.other for line in lines if line.verdict == "costs more"} == {"snip", "ltr"}
    assert all(line.unit == "seconds" for line in lines)
    assert "not all the same work" in by_cost(study).caption
    alike = [network for network in study.dense if {"cts", "random"} & {*network.finders}]
    assert (len(alike), cost_unit(study.rows, alike)) == (2, "dense trainings")


def test_accuracy_at_equal_cost_by_hand():
    outcomes = [
        *row_of("cts", 0.1, [90.0, 91.0], work=2.0),
        *row_of("snip", 0.1, [85.0, 86.0], work=1.0),
        *row_of("snip:rounds=9", 0.1, [88.0, 89.5], work=2.05),
        *row_of("snip:rounds=99", 0.1, [92.0, 93.0], work=3.0),
        *row_of("ltr", 0.1, [95.0, 95.0], work=20.0),
    ]
    snip, ltr = equal_cost(tabulate(outcomes), "cts", "dense trainings")
    assert (snip.finder, snip.label, snip.score, snip.cost) == ("snip", "snip:rounds=9", 88.75, 2.05)
    assert snip.gain.summary.mean == 1.75
    assert (ltr.label, ltr.cost, ltr.score, ltr.gain) == (None, 20.0, None, None)


def test_names_without_options():
    labels = ["cts", "cts:steps=5", "cts:published:steps=5", "cts:steps=5 --data my:sets", "mine:Best", "mine:Best:p=2"]
    assert [base_name(label) for label in labels] == ["cts", "cts", "cts", "cts", "mine:Best", "mine:Best"]


def test_tables_in_every_format(holes, tmp_path, capsys):
    _, text, _ = command(capsys, "table", holes, "--format", "csv", "--against", "snip")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 11
    expected = {(row.finder, row.density): row for row in read(holes).rows}
    for line in rows:
        row = expected[line["finder"], float(line["density"])]
        assert (float(line["mean"]), int(line["n"])) == (row.score.mean, row.score.n)
        gain = {**expected}["snip", row.density].differences.get(row.finder)
        assert line["verdict"] == (gain[0].verdict if gain else "")
    _, text, _ = command(capsys, "table", holes, "--format", "markdown", "--what", "falls")
    assert text.splitlines()[1] == "| --- | --- | --- | --- |"
    _, text, _ = command(capsys, "table", holes, "--format", "latex", "--what", "differences")
    assert text.startswith("\\begin{tabular}")
    assert "p holm" in text
    for what in ("summary", "differences", "equal-cost", "falls", "cells", "metrics", "layers"):
        path = tmp_path / f"{what}.parquet"
        assert main(["table", str(holes), "--what", what, "--format", "parquet", "--out", str(path)]) == 0
        assert len(pd.read_parquet(path)) > 0
        assert main(["table", str(holes), "--what", what]) == 0


def test_a_table_says_who_is_held_against_the_others(holes, capsys):
    for given, who in (((), "cts"), (("--against", "random"), "random")):
        _, text, _ = command(capsys, "table", holes, *given)
        assert f"The last column says what {who} is beside the row's finder, by the 95 % interval" in text


def test_a_table_is_shown_without_pytorch(holes):
    assert loaded([["table", str(holes)]]) == [["scipy"]]


def test_names_do_not_break_tables(tmp_path, capsys):
    made_studies.study(tmp_path / "s", ["a|b<i>", "c_d&e%"], densities=(0.1,), seeds=1, tickets=False)
    _, text, _ = command(capsys, "table", tmp_path / "s", "--format", "markdown")
    assert "| a\\|b&lt;i> |" in text
    _, text, _ = command(capsys, "table", tmp_path / "s", "--format", "latex")
    assert r"c\_d\&e\%" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "word"], "--format must be one of rich, csv, parquet, markdown, latex, got word"),
        (["--what", "all"], "--what must be one of summary, "),
        (["--format", "parquet"], "--format needs --out"),
        (["--out", "x.txt"], "--format is for a terminal; with --out, choose another"),
        (["--out", "no/x.csv", "--format", "csv"], "--out must be a file in a directory that exists, got no/x.csv"),
        (["--against", "imp"], "--against must be one of cts, snip, random, ltr, got imp"),
    ],
)
def test_tables_that_cannot_be_made(arguments, message, holes, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, err = command(capsys, "table", holes, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_directories_without_a_comparison(tmp_path, capsys):
    for name in ("table", "report"):
        status, _, err = command(capsys, name, tmp_path)
        assert status == 2
        assert "holds no comparison" in err
        status, _, err = command(capsys, name, tmp_path / "nowhere")
        assert (status, "there is no directory" in err) == (2, True)
    made_studies.study(tmp_path / "s", ["cts"], missing=[("cts", 0.1, 0)], densities=(0.1,), seeds=1)
    status, _, err = command(capsys, "table", tmp_path / "s")
    assert (status, "no cell of" in err) == (2, True)
