"""Trackers get what a run's journal gets, each row once, however often the run is stopped."""

import csv
import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest

from tombola import UsageError
from tombola.core.progress import Silent
from tombola.runs.config import built
from tombola.runs.pipeline import run
from tombola.storage.store import DiskEntry
from tombola.trackers import TRACKERS, Csv, MLflow, TensorBoard, Trackio, WandB, follow
from tombola.trackers.base import Row, TrackedRun, Tracker

SMALL = {
    "data": "digits", "train_samples": 128, "epochs": 3, "rewind_to": 1, "batch_size": 32,
    "threads": 1, "density": 0.3,
}  # fmt: skip
ROWS = [
    {"stage": "search", "step": 0, "objective": 2.0, "turnover": None, "note": "words", "flag": True},
    {"stage": "search", "step": 20, "objective": 1.5, "turnover": 0.25},
    {"stage": "joint, round 1", "epoch": 1, "loss": 0.5},
]


def small(**more):
    return built([{**SMALL, **more}])


def figures_of(rows):
    """Return every number of a journal: (stage, epoch or step, name) and value."""
    return [
        (row["stage"], row.get("step", row.get("epoch")), name, value)
        for row in rows
        for name, value in row.items()
        if name not in ("stage", "epoch", "step") and isinstance(value, float | int)
    ]


def lines_of(path):
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert all(bool(line["epoch"]) != bool(line["step"]) for line in lines)
    return [(l["stage"], int(l["epoch"] or l["step"]), l["metric"], float(l["value"])) for l in lines]  # noqa: E741


def journal_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("finder", ["cts:steps=21:batch_size=8", "ltr:rate=0.5"])
def test_a_csv_file_has_what_the_journal_has_however_often_the_run_is_stopped(tmp_path, monkeypatch, finder):
    config = small(finder=finder, tracker="csv")
    record, stops = DiskEntry.record, iter([("dense training", 1), ("search", 0), ("ticket training", 2), ()])

    def stopped_at(place):
        def record_and_stop(entry, row):
            record(entry, row)
            if (row["stage"], row.get("step", row.get("epoch"))) == place:
                raise KeyboardInterrupt

        return record_and_stop

    for place in stops:
        monkeypatch.setattr(DiskEntry, "record", stopped_at(place))
        try:
            # Without a checkpoint in between, rows of a search that was stopped are measured again.
            found = run(config, tmp_path, Silent(), checkpoint_seconds=1e9)
        except KeyboardInterrupt:
            continue
    rows = lines_of(found.directory / "metrics.csv")
    assert sorted(row for row in rows if row[0] != "result") == sorted(figures_of(journal_of(found.directory)))
    result = {name: value for stage, _, name, value in rows if stage == "result"}
    assert result["test_accuracy"] == found.values["test_accuracy"]
    assert result["kept"] == found.values["kept"]
    assert len(result) == 8
    # Whoever asks for another tracker later gets the whole.
    (found.directory / "metrics.csv").unlink()
    assert run(config, tmp_path, Silent()).repeated
    assert sorted(lines_of(found.directory / "metrics.csv")) == sorted(rows)


def test_a_tracker_is_no_part_of_a_runs_name_and_without_one_there_is_no_file(tmp_path):
    config = small(finder="random", train_samples=32, epochs=2)
    plain = run(config, tmp_path, Silent())
    assert not list(plain.directory.glob("*.csv"))
    assert not (plain.directory / "tracker.json").exists()
    tracked = run(small(finder="random", train_samples=32, epochs=2, tracker="csv"), tmp_path, Silent())
    assert tracked.directory == plain.directory
    assert tracked.repeated


def test_a_line_that_was_cut_off_is_written_again(tmp_path):
    sink = Csv().open(TrackedRun(tmp_path, {}))
    sink.log(Row("search", "step", 0, {"objective": 0.1 + 0.2}))
    path = tmp_path / "metrics.csv"
    whole = path.read_text()
    assert whole == "stage,epoch,step,metric,value\nsearch,,0,objective,0.30000000000000004\n"
    path.write_text(whole + "search,,20,objec")
    again = Csv().open(TrackedRun(tmp_path, {}))
    assert again.sent == {}, "the last row may lack figures"
    again.log(Row("search", "step", 0, {"objective": 0.1 + 0.2}))
    assert path.read_text() == whole


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_row_that_was_cut_off_between_its_lines_or_in_one_is_completed_without_a_line_twice(tmp_path, cut):
    rows = [{"stage": "train", "epoch": epoch, "loss": 1 / epoch, "metric": 0.5, "rate": 0.1} for epoch in (1, 2)]

    def send():
        with follow(Csv(), tmp_path, {}, print) as following:
            following.watch("train")
            for row in rows:
                following.see("train", row)

    send()
    path = tmp_path / "metrics.csv"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    half, odd = divmod(cut, 2)
    path.write_text("".join(lines[: 4 + half]) + (lines[4 + half][:9] if odd else ""))
    send()
    assert path.read_text() == whole
    send()
    assert path.read_text() == whole


# Stand-ins of other people's packages, with as much of their interfaces as is used.


class FakeWandB:
    def __init__(self):
        self.opened, self.rows, self.axes, self.ended = [], [], {}, []
        self.module = SimpleNamespace(init=self.init, Settings=lambda **given: given)

    def init(self, **given):
        self.opened.append(given)
        return SimpleNamespace(define_metric=self.define_metric, log=self.rows.append, finish=self.finish)

    def define_metric(self, name, step_metric=None, hidden=False):
        self.axes[name] = step_metric

    def finish(self, exit_code):
        self.ended.append(exit_code)


def test_wandb_gets_each_stage_over_its_own_axis_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake.module)
    tracker = TRACKERS.read("wandb:project=lottery:mode=offline")
    with follow(tracker, tmp_path, {"seed": 3}, print) as following:
        following.watch("draw")
        following.see("draw", ROWS[0])
        following.see("train", {"stage": "ticket training", "epoch": 1, "loss": 9.0})  # a round of a finder's own
        following.see("draw", {"stage": "search", "objective": 1.0})  # without a number: at the end
    with follow(tracker, tmp_path, {"seed": 3}, print) as following:
        following.watch("draw")
        following.see("draw", ROWS[0])  # measured again
        following.catch_up(ROWS, {"test_accuracy": 90.0, "seed": 3})
    first, second = fake.opened
    assert first["project"] == "lottery"
    assert first["mode"] == "offline"
    assert first["name"] == tmp_path.name
    assert first["config"] == {"seed": 3}
    assert first["resume"] == "allow"
    assert first["id"] == second["id"]
    assert fake.rows == [
        {"search/objective": 2.0, "search/step": 0},
        {"search/objective": 1.5, "search/turnover": 0.25, "search/step": 20},
        {"joint-round-1/loss": 0.5, "joint-round-1/epoch": 1},
        {"result/test_accuracy": 90.0, "result/step": 0},
    ]
    assert fake.axes["search/*"] == "search/step"
    assert fake.axes["joint-round-1/*"] == "joint-round-1/epoch"
    assert fake.ended == [1, 0]


class FakeMLflow:
    def __init__(self, experiments=()):
        self.experiments, self.calls = dict(experiments), []

    def install(self, monkeypatch):
        entities = SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values)
        monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=self.client, entities=entities))
        monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
        return self

    def client(self, tracking_uri=None):
        self.calls.append(("client", tracking_uri))
        return self

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        self.experiments[name] = "7"
        return "7"

    def create_run(self, where, run_name):
        self.calls.append(("create", where, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def update_run(self, run_id, status):
        self.calls.append(("update", run_id, status))

    def log_batch(self, run_id, metrics=(), params=()):
        self.calls.append(("log", run_id, [(m[0], m[1], m[3]) for m in metrics], list(params)))

    def set_terminated(self, run_id, status):
        self.calls.append(("end", run_id, status))


def test_mlflow_gets_parameters_once_and_a_row_in_one_request(tmp_path, monkeypatch):
    fake = FakeMLflow().install(monkeypatch)
    tracker = TRACKERS.read("mlflow:experiment=lottery:uri=[http://host:5000]")
    config = {"finder": {"name": "cts", "steps": 5}, "weights": None, "note": "x" * 900}
    for _ in range(2):
        with follow(tracker, tmp_path, config, print) as following:
            following.watch("draw")
            for row in ROWS[:2]:
                following.see("draw", row)
    with follow(tracker, tmp_path, config, print) as following:
        following.catch_up(ROWS, {"kept": 5})
    assert fake.calls == [
        ("client", "http://host:5000"),
        ("create", "7", tmp_path.name),
        ("log", "abc", [], [("finder.name", "cts"), ("finder.steps", "5"), ("note", "x" * 500)]),
        ("log", "abc", [("search/objective", 2.0, 0)], []),
        ("log", "abc", [("search/objective", 1.5, 20), ("search/turnover", 0.25, 20)], []),
        ("end", "abc", "KILLED"),  # the second time there was nothing to send, and nothing was opened
        ("client", "http://host:5000"),
        ("update", "abc", "RUNNING"),
        ("log", "abc", [("joint-round-1/loss", 0.5, 1)], []),
        ("log", "abc", [("result/kept", 5, 0)], []),
        ("end", "abc", "FINISHED"),
    ]


def test_trackio_says_what_it_says_beside_the_results(tmp_path, monkeypatch, capsys):
    calls = []

    def init(**given):
        print("* Trackio project initialized")
        calls.append(given)
        log = lambda figures, step: calls.append((figures, step))  # noqa: E731
        return SimpleNamespace(log=log, finish=lambda: print("* finished"))

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    for _ in range(2):
        with follow(Trackio(project="lottery"), tmp_path, {"seed": 1}, print) as following:
            following.catch_up(ROWS[:1], {})
    opened, row = calls
    assert opened["project"] == "lottery"
    assert opened["resume"] == "allow"
    assert opened["config"] == {"seed": 1}
    assert opened["name"].startswith(tmp_path.name)
    assert row == ({"search/objective": 2.0}, 0)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "initialized" in shown.err
    assert "finished" in shown.err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_back_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoard(folder=str(tmp_path / "events"))
    directory = tmp_path / "cts-0.02-s0-12345678"
    directory.mkdir()
    for count in (1, 2, 3):  # stopped twice
        with follow(tracker, directory, {"finder": {"steps": 5}}, print) as following:
            following.catch_up(ROWS[:count], {})
    read = EventAccumulator(str(tmp_path / "events" / directory.name))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("search/objective")] == [(0, 2.0), (20, 1.5)]
    assert [(event.step, event.value) for event in read.Scalars("joint-round-1/loss")] == [(1, 0.5)]
    assert b"finder.steps: 5" in read.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0]


@dataclass(frozen=True)
class Breaking(Tracker):
    """A tracker whose network goes away at the second row."""

    name: ClassVar[str] = "breaking"
    rows: ClassVar[list] = []

    def open(self, run):
        return SimpleNamespace(known_as="run", sent=None, log=self.log, close=lambda finished: None)

    def log(self, row):
        if self.rows:
            raise ConnectionError("no route to host")
        self.rows.append(row)


def test_a_tracker_that_fails_stops_no_run_and_gets_the_rest_later(tmp_path):
    said, tracker = [], Breaking()
    with follow(tracker, tmp_path, {}, said.append) as following:
        following.catch_up(ROWS, {})
    assert said == [
        "tracker breaking failed (ConnectionError: no route to host); "
        "the run goes on without it, and the same command sends later what is missing"
    ]
    assert json.loads((tmp_path / "tracker.json").read_text())["sent"] == {"search": 0}


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "tensorboard"])
def test_a_missing_package_is_one_sentence_before_anything_is_written(monkeypatch, name):
    import tombola.trackers.base as base

    monkeypatch.setattr(base, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match=rf'{name} needs the package {name}: pip install "tombola\[{name}\]"'):
        small(tracker=name).check()


def test_no_package_is_imported_before_it_is_asked_for():
    for tracker in (Csv, TensorBoard, WandB, MLflow, Trackio):
        small(tracker=tracker.name)
    import tombola.trackers

    assert not {"wandb", "mlflow", "trackio"} & set(sys.modules) - {"wandb.proto"}
    assert tombola.trackers.Csv().check() is None


def test_brackets_around_a_text_with_colons_are_no_part_of_it():
    assert TRACKERS.read("mlflow:uri=[sqlite:///runs.db]").uri == "sqlite:///runs.db"
    assert TRACKERS.read("mlflow:uri=[odd]").uri == "[odd]"
