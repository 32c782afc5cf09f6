"""Studies: planned, run, resumed, put into a table; and `tombola compare` on top of them."""

import io
import json

import pytest
from rich.console import Console
from rich.table import Table

from tombola import CTS, Random, SearchError, UsageError
from tombola.cli.board import Board
from tombola.cli.main import main
from tombola.cli.options import split_list
from tombola.core.progress import Silent
from tombola.finders import IMP, SNIP
from tombola.objectives import FeatureMSE
from tombola.runs import pipeline
from tombola.runs.config import built, load_preset
from tombola.studies import CellOutcome, StudyCell, plan, run_all, tabulate

QUICK = [load_preset("digits"), {"epochs": 2, "rewind_to": 1, "milestones": (), "threads": 1}]


def labels(cells):
    return [(m.label, m.config.finder.name, m.config.density, m.config.seed) for m in cells]


def test_a_plan_has_every_finder_at_every_density_for_every_seed():
    cells = plan([*QUICK, {"seed": 3, "steps": 9}], ["cts", "random"], [0.1, 0.05], seeds=2)
    assert labels(cells) == [
        (name, name, density, seed) for seed in (3, 4) for density in (0.1, 0.05) for name in ("cts", "random")
    ]
    finders = [m.config.finder for m in cells[:2]]
    assert finders == [CTS(steps=9), Random()], "an option goes to the finders that have it"


def test_finders_with_options_of_their_own():
    found = plan(QUICK, ["cts", "cts:objective=loss:steps=7", "snip:rounds=3", "imp:rate=0.5"], [0.1], seeds=1)
    finders = [CTS(), CTS(objective="loss", steps=7), SNIP(rounds=3), IMP(rate=0.5)]
    assert [m.config.finder for m in found] == finders
    assert [m.config.draw_at for m in found] == ["rewind", "rewind", "rewind", "init"]


@pytest.mark.parametrize(
    ("finders", "changes", "message"),
    [
        (["cts", "magic"], {}, "finders 'magic' is unknown; allowed are "),
        (["cts", "cts"], {}, "finders must be a list without repetitions"),
        ([], {}, "finders must be a list"),
        (["random"], {"steps": 3}, "steps is not an option of any of random"),
        (["random", "snip"], {"search": "published"}, "search must be default for random, snip, got published"),
        (["cts", "snip"], {"search": "publishd"}, "search must be default, published, published-files for cts, snip"),
        (
            ["snip:steps=3"],
            {},
            "finders 'snip:steps=3': 'steps' is not an option of snip, which has allocation, granularity, rounds",
        ),
        (["cts:steps"], {}, "finders 'cts:steps': steps needs a value, such as steps="),
        (["cts:steps=many"], {}, "finders 'cts:steps=many': steps must be a whole number of at least 1, got 'many'"),
        (["cts:controller=pid"], {}, "finders 'pid' is unknown; allowed are gradbalance, "),
        (["cts:objective=feature-mse:features=[a"], {}, "features must be a list of texts such as .*, got '.a'"),
        (["snip:rounds=0"], {}, "rounds must be a whole number of at least 1"),
        (
            ["random"],
            {"optimizer": "adamw", "momentum": 0.5},
            "^momentum is not an option of the training recipe, which has --epochs",
        ),
    ],
)
def test_plans_that_cannot_be_run(finders, changes, message):
    with pytest.raises(UsageError, match=message):
        plan([*QUICK, changes], finders, [0.1], seeds=1)
    with pytest.raises(UsageError, match="seeds must be at least 1"):
        plan(QUICK, ["cts"], [0.1], seeds=0)


def outcome(label, density, seed, accuracy, seconds=60.0, failure=""):
    values = {
        "test_accuracy": accuracy, "kept": 10, "dense_equivalents": 2.0,
        "cost": {"seconds": seconds, "forward": 100, "backward": 50},
    }  # fmt: skip
    cell = StudyCell(label, built([*QUICK, {"density": density, "seed": seed}]))
    return CellOutcome(cell, None if failure else values, failure)


def test_a_table_by_hand():
    accuracies = {"cts": (80.0, 82.0, 84.0), "ltr": (79.0, 81.0, 82.9), "random": (10.0, 20.0, 30.0)}
    outcomes = [
        outcome(label, density, seed, value, seconds=600.0 if label == "ltr" else 60.0)
        for density in (0.05, 0.1)
        for label, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    rows = tabulate(outcomes)
    assert [(row.finder, row.density) for row in rows] == [(f, d) for d in (0.1, 0.05) for f in accuracies]
    cts, ltr, random = rows[:3]
    assert (cts.score.mean, cts.score.std, cts.score.n) == (82.0, 2.0, 3)
    assert (cts.speed_up, ltr.speed_up, random.speed_up) == (10.0, None, None)
    gain, p = cts.differences["ltr"]
    assert (gain.summary.mean, gain.verdict, p) == (pytest.approx(3.1 / 3), "better", 2 * gain.p)
    assert ltr.differences["cts"][0].verdict == "worse"
    # Gains over random: 70, 62, 54. Two densities ask: t(0.9875, 2) = 6.205, times 8 / sqrt(3).
    gain, p = cts.differences["random"]
    assert gain.summary.low == pytest.approx(62 - 6.2053 * 8 / 3**0.5, rel=1e-4)
    assert p == pytest.approx(2 * gain.p)
    assert cts.to_dict()["objective"] is None
    found = cts.to_dict()
    assert found["n"] == 3
    assert found["indicative"]
    assert found["cost"] == {"seconds": 60.0, "forward": 100, "backward": 50, "dense_equivalents": 2.0}
    json.dumps(found)


def test_what_ltr_takes_longer_is_measured_over_seeds_of_both():
    taken = {"cts": (10.0, 10.0, 40.0), "ltr": (50.0, 70.0)}
    outcomes = [
        outcome(label, 0.1, seed, 90.0, seconds) for label, each in taken.items() for seed, seconds in enumerate(each)
    ]
    cts, _ = tabulate(outcomes)
    assert (cts.seconds, cts.speed_up) == (20.0, 6.0)


def test_weights_kept_are_those_of_all_seeds():
    outcomes = [outcome("a", 0.1, seed, 50.0) for seed in range(3)]
    for seed, kept in enumerate((2486, 2476, 2475)):
        outcomes[seed].values["kept"] = kept
    (row,) = tabulate(outcomes)
    assert row.kept == 2479


def test_failed_seeds_leave_the_rest_and_pairs_are_of_common_seeds():
    outcomes = [outcome("a", 0.1, seed, 50.0 + seed) for seed in range(3)]
    outcomes += [outcome("b", 0.1, 0, 0.0, failure="broke"), *(outcome("b", 0.1, s, 40.0 + s) for s in (1, 2))]
    outcomes += [outcome("c", 0.1, seed, 0.0, failure="broke") for seed in range(3)]
    a, b = tabulate(outcomes)
    assert (b.failed, b.seeds) == ((0,), (1, 2))
    assert a.differences["b"][0].summary.n == 2
    assert a.differences["b"][0].summary.mean == 10.0


def test_a_study_goes_on_past_a_failing_cell_and_keeps_its_reason(tmp_path, monkeypatch):
    def broken(self, problem, density):
        raise SearchError("numbers broke down")

    cells = plan(QUICK, ["random", "magnitude"], [0.1], seeds=2)
    monkeypatch.setattr(Random, "draw", broken)
    seen = []
    outcomes = run_all(cells, tmp_path, Silent(), lambda found: seen.append(len(found)))
    assert seen == [1, 2, 3, 4]
    assert [o.failure for o in outcomes] == [
        "SearchError: numbers broke down",
        "",
        "SearchError: numbers broke down",
        "",
    ]
    kept = json.loads((tmp_path / "failures.json").read_text())
    assert [(f["finder"], f["seed"]) for f in kept] == [("random", 0), ("random", 1)]
    monkeypatch.undo()
    again = run_all(cells, tmp_path, Silent())
    assert all(o.values is not None for o in again)
    assert again[1].values == outcomes[1].values
    assert not (tmp_path / "failures.json").exists()


@pytest.mark.parametrize("error", [IndexError("index out of\nrange"), TypeError("no\nnumber")])
def test_whatever_a_model_raises_in_one_cell_is_kept_on_one_line(tmp_path, monkeypatch, error):
    def broken(self, problem, density):
        raise error

    monkeypatch.setattr(Random, "draw", broken)
    outcomes = run_all(plan(QUICK, ["random", "magnitude"], [0.1], seeds=1), tmp_path, Silent())
    words = f"{type(error).__name__}: {str(error).replace(chr(10), ' ')}"
    assert outcomes[0].failure.startswith(f"{words} (test_studies.py, line ")
    assert [o.failure for o in outcomes[1:]] == [""]
    (kept,) = json.loads((tmp_path / "failures.json").read_text())
    assert kept["why"] == outcomes[0].failure
    assert "in broken" in kept["traceback"]


def test_a_study_stopped_anywhere_goes_on_with_what_it_had(tmp_path, monkeypatch):
    cells = plan(QUICK, ["random", "magnitude"], [0.1, 0.05], seeds=1)
    original, count = pipeline.run, 0

    def dying(*arguments):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(pipeline, "run", dying)
    with pytest.raises(KeyboardInterrupt):
        run_all(cells, tmp_path, Silent())
    monkeypatch.setattr(pipeline, "run", original)
    outcomes = run_all(cells, tmp_path, Silent())
    repeated = [original(m.config, tmp_path, Silent()).repeated for m in cells]
    assert repeated == [True] * 4
    assert all(o.values for o in outcomes)


COMPARE = ["compare", "--preset", "digits", "--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--threads", "1"]


def test_compare_from_the_command_line(tmp_path, capsys):
    arguments = [
        *COMPARE, "--density", "0.1,0.05", "--finders", "cts,snip,ltr", "--steps", "20", "--seeds", "2", "--out",
        str(tmp_path / "o"), "--plot", str(tmp_path / "p.svg"),
    ]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["finder"], row["density"]) for row in found["rows"]] == [
        (finder, density) for density in (0.1, 0.05) for finder in ("cts", "snip", "ltr")
    ]
    row = found["rows"][0]
    assert row["objective"]["name"] == "reverse-kl"
    assert row["objective"]["hard"] != row["objective"]["held_out"] > 0
    assert len(row["objective"]["held_out_values"]) == 2
    assert found["rows"][1]["objective"] is None
    assert {"finder", "density", "kept", "n", "test_accuracy_mean", "test_accuracy_std", "cost", "differences"} <= set(
        row
    )
    assert row["n"] == 2
    assert row["kept"] == 5020
    assert set(row["differences"]) == {"snip", "ltr"}
    assert row["differences"]["snip"]["verdict"] in {"better", "worse", "not worse", "undecided"}
    assert found["failures"] == []
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    ltr = found["rows"][2]["cost"]
    assert ltr["dense_equivalents"] > 2, "every round is counted, though its training is shared"
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "indicative" in out
    assert "cts is" in out


def test_options_of_some_finders_go_to_those_that_have_them(tmp_path, capsys):
    arguments = ["--finders", "random,ltr", "--rate", "0.9", "--seeds", "1", "--out", str(tmp_path), "--json"]
    assert main([*COMPARE, *arguments]) == 0, "cts, the preset's, has no rate"
    assert [row["density"] for row in json.loads(capsys.readouterr().out)["rows"]] == [0.02, 0.02]
    assert main([*COMPARE, "--finders", "random,snip", "--rate", "0.9", "--out", str(tmp_path)]) == 2
    assert "--rate is not an option of any of random, snip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--finders", "cts,magic"], "--finders 'magic' is unknown"),
        (["--density", "0.1,2"], "--density must lie in (0, 1], got 2"),
        (["--density", "0.1,0.1"], "--density must be a list without repetitions, got 0.1,0.1"),
        (["--density", "[0.1,0.8**[2..3]"], "--density must close its brackets, got [0.1,0.8**[2..3]"),
        (["--density", "0.1", "--sparsity", "90%"], "--density excludes --sparsity: give one of them"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--plot", "x.jpg"], "--plot x.jpg must end in .svg, .pdf or .png"),
        (
            ["--finders", "random,ltr", "--draw-at", "trained"],
            "--draw-at must be rewind or init for the finder ltr, got trained",
        ),
        (
            ["--finders", "joint", "--draw-at", "trained"],
            "--draw-at must be rewind or init for the finder joint, got trained",
        ),
        (["--finders", "joint:share=2"], "--share must be a number in (0, 1], got 2 (finder joint:share=2)"),
        (["--finders", "joint:share"], "--finders 'joint:share': share needs a value, such as share="),
        (["--finder", "random"], "--finder is not an option of compare, which takes a list: --finders"),
        (["--seeds", "two"], "--seeds must be a whole number, got two"),
        (["--density", "1e-9", "--finders", "random", "--seeds", "1"], "keeps none of the"),
        (["--out", "/proc/none", "--finders", "random", "--seeds", "1"], "out /proc/none cannot be written to"),
    ],
)
def test_comparisons_that_cannot_be_made(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*COMPARE, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == [], "nothing is written before it is clear that it can be done"


def test_a_comparison_below_a_file_is_refused_before_any_cell(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert main([*COMPARE, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "is a file; it must be a directory" in err
    assert "cell 1" not in err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_list_of_finders_may_hold_lists():
    wanted = ["cts:objective=feature-mse:features=[relu*,act]", "snip"]
    for text in (",".join(wanted), f"[{', '.join(wanted)}]", f"{wanted[0]} , snip,"):
        assert split_list(text) == wanted
    assert split_list(",".join(reversed(wanted))) == wanted[::-1]
    (cell, _) = plan(QUICK, wanted, [0.1], seeds=1)
    assert cell.config.finder.objective == FeatureMSE(("relu*", "act"))


def test_warnings_and_failures_of_a_comparison_are_shown(tmp_path, capsys, monkeypatch):
    def broken(self, problem, density):
        raise SearchError("numbers broke down")

    monkeypatch.setattr(Random, "draw", broken)
    name = "cts:steps=5:search-learning-rate=0.001:controller=proportional:objective=forward-kl"
    arguments = [*COMPARE, "--density", "0.01", "--finders", f"{name},random", "--seeds", "1", "--out", str(tmp_path)]
    assert main([*arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert any("of the gates were open at the end" in warning for warning in row["warnings"])
    assert found["failures"][0]["why"] == "SearchError: numbers broke down"
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert f"warning: {name} at 1 %: only 0.0000% of the gates were open" in out
    assert f"│ {name} │" in out, "names are not cut in a file"
    assert "failed: random at 0.01, seed 0: SearchError" in out


def test_the_board_shows_the_table_and_the_bars_on_a_terminal():
    text = io.StringIO()
    with Board(Console(file=text, force_terminal=True, width=100)) as shown:
        shown.say("cell 1 of 2")
        table = Table(title="a study")
        table.add_column("finder")
        table.add_row("cts")
        shown.show(table)
        with shown.track("search", 10) as tracker:
            tracker.update(4, "reverse-kl 0.5")
            shown._live.refresh()
        shown._live.refresh()
    found = text.getvalue()
    assert found.index("cell 1 of 2") < found.index("a study") < found.index("4/10")
    assert "reverse-kl 0.5" in found
    last = found[found.rindex("a study") :]
    assert "4/10" not in last, "a finished bar is taken away"
