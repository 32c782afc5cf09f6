"""What results are called and which way is better: measures, pooled metrics, and who reads them."""

import json

import pytest
import torch

from tombola.core.measure import ACCURACY, F1, MEAN_IOU, MEAN_SQUARED_ERROR, Measure, measure_in
from tombola.errors import UsageError
from tombola.networks.evaluation import evaluate
from tombola.networks.task import Measured, Pooled, Task
from tombola.networks.task.metrics import confusion_of, f1, mean_iou
from tombola.networks.task.named import TASKS
from tombola.storage.files import write_json
from tombola.studies.audit.connectivity import walk
from tombola.studies.audit.report import NOT_INFORMATIVE, Check
from tombola.studies.dense import DenseNetwork
from tombola.studies.figures.drawing import front
from tombola.studies.figures.scales import zoom
from tombola.studies.figures.scores import by_cost, by_density
from tombola.studies.outcome import CellOutcome
from tombola.studies.reading import falls, read
from tombola.studies.reading.questions import equal_cost
from tombola.studies.report import words
from tombola.studies.statistics import compare_paired
from tombola.studies.table import summary, tabulate

from . import made_studies
from .conftest import CPU


class _Cell:
    def __init__(self, label, density, seed):
        self.label, self.density, self.seed = label, density, seed
        self.recipe = ""


def outcome(label, density, seed, error, dense=1.0):
    values = made_studies.result(label, density, 0.0)
    del values["test_accuracy"], values["dense_test_accuracy"]
    values |= {"test_mean_squared_error": error, "dense_test_mean_squared_error": dense}
    return CellOutcome(_Cell(label, density, seed), values | MEAN_SQUARED_ERROR.noted())


def test_figures_are_shown_in_their_unit_with_their_sign():
    assert ACCURACY.shown(ACCURACY.of(0.8123)) == "81.23 %"
    assert MEAN_SQUARED_ERROR.shown(MEAN_SQUARED_ERROR.of(-0.012341)) == "0.01234"
    assert (MEAN_SQUARED_ERROR.test, F1.test, MEAN_IOU.dashed) == ("test_mean_squared_error", "test_f1", "mean-iou")
    assert MEAN_SQUARED_ERROR.gain(1.0, 3.0) == 2.0
    assert ACCURACY.gain(1.0, 3.0) == -2.0


def test_what_rounds_to_nothing_has_no_minus():
    assert [ACCURACY.signed(each) for each in (-0.001, 0.0, -0.006)] == ["+0.00", "+0.00", "-0.01"]
    assert ACCURACY.number(-0.004) == "0.00"


def test_a_result_says_its_measure_unless_it_is_the_one_that_old_results_have():
    assert ACCURACY.noted() == {}
    assert measure_in({"test_accuracy": 90.0}) == ACCURACY
    written = json.loads(json.dumps(MEAN_SQUARED_ERROR.noted(), allow_nan=False))
    assert measure_in(written) == MEAN_SQUARED_ERROR
    with pytest.raises(UsageError, match="cannot be read"):
        measure_in({"measure": {"nome": "x"}})


def test_f1_and_mean_iou_by_hand():
    assert f1(torch.tensor([2, 1, 1])) == pytest.approx(2 * 2 / (4 + 1 + 1))
    assert f1(torch.tensor([0, 0, 0])) == 1.0
    confusion = confusion_of(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)
    assert confusion.tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert mean_iou(confusion) == pytest.approx((1 / 2 + 2 / 3) / 2), "the class that is nowhere does not count"


class _Same(torch.nn.Module):
    def forward(self, x):
        return x


class _Batches:
    def __init__(self, *batches):
        self.batches = batches

    def epoch(self, number, skip=0):
        from tombola.data import Item

        return (Item(batch) for batch in self.batches)


def test_pooled_metrics_are_of_the_counts_of_all_batches_and_not_means_over_them():
    outputs = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    found = evaluate(
        _Same(), Task.multi_label("f1"), _Batches((outputs[:1], targets[:1]), (outputs[1:], targets[1:])), CPU
    )
    assert found.metric == pytest.approx(2 * 2 / (2 * 2 + 1 + 2)), "2 found rightly, 1 wrongly, 2 missed"


def test_pixels_that_do_not_count_are_no_part_of_the_mean_iou():
    scores = torch.tensor([[[[2.0, 0.0, 2.0]], [[0.0, 2.0, 0.0]]]])  # (1, 2, 1, 3): classes 0, 1, 0
    task = Task.segmentation(metric="mean-iou")
    assert task.metric(scores, (None, torch.tensor([[[0, 1, 255]]]))) == 1.0
    assert task.metric(scores, (None, torch.tensor([[[0, 1, 1]]]))) == pytest.approx((0.5 + 0.5) / 2)


def test_tasks_know_what_their_metric_is_called():
    found = {name: TASKS.read(name).build().measure.name for name in TASKS}
    assert found == {
        "classification": "accuracy", "binary": "accuracy", "multi-label": "F1", "regression": "mean squared error",
        "segmentation": "mean IoU", "text": "accuracy",
    }  # fmt: skip
    assert TASKS.read("binary:metric=f1").build().measure == F1

    def top_five(output, batch):
        return 0.5

    own = Task(loss=torch.nn.functional.l1_loss, metric=top_five)
    assert own.measure == Measure("top five")
    assert Task(metric=Measured(top_five, F1)).measure == F1
    assert Task(metric=Pooled(top_five, float, MEAN_IOU)).measure == MEAN_IOU
    with pytest.raises(UsageError, match="must be one of f1, label-accuracy"):
        TASKS.read("multi-label:metric=accuracy")


def test_the_smaller_error_is_the_better_one_in_every_verdict():
    lower, higher = [1.0, 1.1, 0.9, 1.0, 1.05], [2.0, 2.2, 1.8, 2.1, 2.0]
    assert compare_paired(lower, higher, measure=MEAN_SQUARED_ERROR).verdict == "better"
    assert compare_paired(higher, lower, measure=MEAN_SQUARED_ERROR).verdict == "worse"
    assert compare_paired(lower, higher).verdict == "worse"
    near = [value + 1e-3 * number for number, value in enumerate(lower)]
    assert compare_paired(near, lower, measure=MEAN_SQUARED_ERROR).verdict != "not worse", "half a point is for percent"
    assert Check.judged("shuffled", 1.0, lower, higher, MEAN_SQUARED_ERROR).verdict == NOT_INFORMATIVE


def test_the_front_the_zoom_and_the_barrier_follow_the_measure():
    points = [(1.0, 5.0), (2.0, 7.0), (3.0, 3.0)]
    assert front(points, MEAN_SQUARED_ERROR) == ((1.0, 5.0), (3.0, 3.0))
    assert zoom([1.0, 1.01, 1.02, 9.0], measure=MEAN_SQUARED_ERROR) == (1.0, 1.02)
    ends = {"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}
    hill = walk(*ends, lambda tensors: 1.0 + float(tensors["w"] * (1 - tensors["w"])), MEAN_SQUARED_ERROR)
    assert hill.barrier == pytest.approx(0.25)
    assert not hill.connected


def test_errors_along_a_line_are_what_the_measure_says_or_what_is_missing_to_all():
    ends = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    of_errors = Measure("error rate", "%", -100.0, 0.0, 100.0)
    assert set(walk(*ends, lambda tensors: 5.0, of_errors).errors) == {5.0}
    assert set(walk(*ends, lambda tensors: 5.0, ACCURACY).errors) == {95.0}


def rows_of_errors():
    errors = {("cts", 0.1): 1.05, ("cts", 0.01): 1.3, ("random", 0.1): 1.2, ("random", 0.01): 4.0}
    return [outcome(label, density, seed, error + seed / 100) for (label, density), error in errors.items()
            for seed in range(3)]  # fmt: skip


def test_tables_and_questions_of_errors_by_hand():
    outcomes = rows_of_errors()
    rows = tabulate(outcomes)
    first = next(row for row in rows if (row.finder, row.density) == ("cts", 0.01))
    assert first.words == "1.31 ± 0.01"
    assert first.differences["random"][0].summary.mean == pytest.approx(2.7), "a gain is above 0"
    assert first.to_dict()["test_mean_squared_error_mean"] == pytest.approx(1.31)
    assert "test_accuracy_mean" not in first.to_dict()
    assert summary(rows, outcomes)["dense_test_mean_squared_error_mean"] == 1.0
    dense = [DenseNetwork(("cts", "random"), dict.fromkeys(range(3), 1.0))]
    behind = {fall.finder: fall for fall in falls(rows, dense)}
    assert behind["random"].words == "above all densities", "1.21 is more than a tenth above 1"
    assert 0.01 < behind["cts"].density < 0.1
    best = [found for found in equal_cost(rows, "cts", "dense trainings") if found.density == 0.01]
    assert (best[0].score, best[0].gain.summary.mean) == (pytest.approx(4.01), pytest.approx(2.7))


def test_a_study_of_errors_is_read_drawn_and_described(tmp_path):
    (tmp_path / "s").mkdir()
    for found in rows_of_errors():
        cell = found.cell
        name = made_studies.write_run(tmp_path / "s", cell.label, cell.density, cell.seed, 0.0, tickets=False)
        write_json(tmp_path / "s" / name / "result.json", dict(found.values))
    study = read(tmp_path / "s")
    assert study.measure == MEAN_SQUARED_ERROR
    assert not study.problems
    figure = by_density(study)
    assert (figure.name, figure.title) == ("mean-squared-error-by-density", "Mean squared error against density")
    assert figure.panels[0].y.title == "test mean squared error"
    assert by_cost(study).panels[-1].front[0][1] == pytest.approx(1.31), "the smallest error is on the front"
    told = list(words.finding(study, "cts"))
    assert told[0] == "The dense network's mean squared error on the test data is 1 ± 0 (n = 3)."
    assert any("At 1 %, cts has the best mean: 1.31 ± 0.01 (n = 3), 0.31 above dense." in line for line in told)
    assert "test_mean_squared_error" in study.cells.columns
    one = next((tmp_path / "s").glob("run-*"))
    write_json(one / "result.json", made_studies.result("cts", 0.1, 50.0))
    assert len(read(tmp_path / "s").problems) in (1, 11), "results of two measures are not put into one table"
