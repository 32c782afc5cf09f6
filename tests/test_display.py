"""What reaches a terminal: texts of others literally, tables that fit, notes that can be read."""

import csv
import errno
import io
import json
import os
import pty
import re
import sys
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from tombola import Ticket, TicketWarning
from tombola.cli.board import Board, Later
from tombola.cli.comparison import comparison_table
from tombola.cli.info import _origin
from tombola.cli.main import main
from tombola.cli.show import Column, fitted_table, print_table, show_table, show_text
from tombola.core.cost import Cost
from tombola.core.progress import Bars, Lines, expected_time
from tombola.literal import literal
from tombola.networks.masking import survey
from tombola.runs.config import from_dict, load_preset
from tombola.studies import CellOutcome, StudyCell, tabulate
from tombola.studies.figures import overview, write_figure
from tombola.studies.reading import read
from tombola.ticket import Provenance

from . import made_studies

ODD = ["cts:features=[relu1]", "cts:features=[relu2]", "[bold]", "[/red]", ":smile:", "\x1b[2J", "\\x1b[2J", "\x9b2J"]
COMPARE = [
    "compare", "--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--threads", "1", "--density", "0.5",
]  # fmt: skip


class Terminal:
    """Standard output and error on a pseudo-terminal of some width; what was written there, and what is to be seen."""

    def __init__(self, monkeypatch, width):
        self.width, self._parts = width, []
        self._master, slave = pty.openpty()
        for name, value in {"TERM": "xterm", "COLUMNS": str(width), "LINES": "60"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_COLOR", raising=False)
        self.stream = os.fdopen(slave, "w", encoding="utf-8", closefd=True)
        monkeypatch.setattr(sys, "stdout", self.stream)
        monkeypatch.setattr(sys, "stderr", self.stream)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while part := os.read(self._master, 65536):
                self._parts.append(part)
        except OSError:
            return  # the other side is closed

    def close(self):
        self.stream.close()
        self._reader.join()
        os.close(self._master)
        return b"".join(self._parts).decode()


def screen(written, width):
    """Return the lines that a terminal shows after some text: of its commands, those that rich uses for tables."""
    lines, row, column = [[]], 0, 0
    for found in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z])|\r|\n|[^\x1b]", written):
        if found[0][0] == "\x1b":
            if found[2] == "A":
                row = max(0, row - int(found[1] or 1))
            elif found[2] == "K":
                lines[row] = [] if found[1] == "2" else lines[row][:column]
            continue
        if found[0] == "\r":
            column = 0
            continue
        if found[0] == "\n" or column == width:
            row, column = row + 1, 0
            lines.extend([] for _ in range(row + 1 - len(lines)))
        if found[0] != "\n":
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = found[0]
            column += 1
    return ["".join(line).rstrip() for line in lines]


def on_terminal(monkeypatch, width, work):
    terminal = Terminal(monkeypatch, width)
    try:
        work()
    finally:
        written = terminal.close()
        monkeypatch.undo()
    return screen(written, width)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, [bold] Grüße 日本", "plain, [bold] Grüße 日本"),
        ("\x1b[31m", r"\x1b[31m"),
        (r"\x1b[31m", r"\\x1b[31m"),
        ("\\\x1b", r"\\\x1b"),
        ("a\nb\tc\x7f\x9b", r"a\x0ab\x09c\x7f\x9b"),
        ("\u202eabc\u2028", r"\u202eabc\u2028"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        (r"C:\data\new \d+", r"C:\data\new \d+"),
        (3, "3"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    assert literal(text) == shown


@given(st.text(st.sampled_from("\\xuU01b\x1b\n\u202e\udc80 "), max_size=6), st.text(max_size=6))
def test_different_texts_stay_different(one, other):
    def back(shown):
        def plain(found):
            slashes, code = found[1], found[2]
            half = "\\" * (len(slashes) // 2)
            return half + (chr(int(code[1:], 16)) if len(slashes) % 2 else code)

        digits = "x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[xuU]"
        return re.sub(rf"(\\+)({digits})", plain, shown)

    for text in (one, other):
        assert literal(text).isprintable()
        assert back(literal(text)) == text


def test_tables_and_notes_show_names_as_they_are(capsys):
    show_table("[b]title[/b]", ("[red]name", "value"), [(name, name) for name in ODD])
    show_text(f"warning: {ODD[3]} {ODD[4]} {ODD[5]}")
    out = capsys.readouterr().out
    assert "[b]title[/b]" in out
    assert "[red]name" in out
    assert "\x1b" not in out
    for name in ODD:
        assert out.count(f" {literal(name)} ") >= 2, name
    assert r"warning: [/red] :smile: \x1b[2J" in out


def test_progress_shows_titles_and_notes_as_they_are():
    text = io.StringIO()
    with Lines(text, every=0).track("[b]\x1b[2J", 2) as tracker:
        tracker.update(1, "[/red]\x1b]0;owned\x07")
    Lines(text).say("a\x1b[2Jb\nc")
    assert text.getvalue().count("\n") == 2
    assert "\x1b" not in text.getvalue()
    assert r"[/red]\x1b]0;owned\x07" in text.getvalue()

    for kind in (Bars, Board):
        text = io.StringIO()
        shown = kind(Console(file=text, force_terminal=True, width=120, no_color=True))
        with shown if kind is Board else shown.track("other", 1):
            shown.say("say [/red] :smile: \x1b[2J")
            if kind is Board:
                with shown.track("[b]t[/b]", 2) as tracker:
                    tracker.update(1, "note [bold]\x1b[2J")
                    shown._live.refresh()
        if kind is Bars:
            with shown.track("[b]t[/b]", 2) as tracker:
                tracker.update(1, "note [bold]\x1b[2J")
        found = text.getvalue()
        assert r"say [/red] :smile: \x1b[2J" in found
        assert "[b]t[/b]" in found
        assert r"note [bold]\x1b[2J" in found
        assert "\x1b[2J" not in found.replace("\\x1b[2J", "")


def test_layer_names_of_a_survey_are_shown_as_they_are():
    model = torch.nn.Sequential()
    model.add_module("a\x1b[2J\nb", torch.nn.Linear(2, 2))
    found = str(survey(model))
    assert "\x1b" not in found
    assert r"a\x1b[2J\x0ab.weight" in found
    assert len(found.splitlines()) == 3


def test_errors_and_warnings_of_the_command_line_are_one_literal_line(capsys, monkeypatch):
    assert main(["info", "no\x1b[2J\nsuch [bold]"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "[bold]" in err

    def warn(arguments):
        warnings.warn("a\x1b[2J\nb", TicketWarning, stacklevel=1)
        raise OSError(errno.ENOSPC, "No space left", "x\x1b[2J")

    monkeypatch.setattr("tombola.cli.info.main", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["info", "x"]) == 1
    err = capsys.readouterr().err
    assert err.splitlines() == [r"tombola info: warning: a\x1b[2J\x0ab", r"tombola info: x\x1b[2J: No space left"]


def cell(label, density, seed):
    return StudyCell(label, replace(from_dict(load_preset("digits")), density=density, seed=seed))


def outcome(label, density, seed, accuracy, **more):
    values = {
        "test_accuracy": accuracy, "dense_test_accuracy": 90.0, "kept": 12_345, "dense_equivalents": 2.0,
        "cost": {"seconds": 60.0, "forward": 100, "backward": 50}, **more,
    }  # fmt: skip
    return CellOutcome(cell(label, density, seed), values, "")


LONG = "cts:objective=feature-mse:features=[layer1.0.relu,layer2.0.relu]"


def made(labels, seeds=3):
    orders = (range(seeds), range(seeds)[::-1])  # gains that vary
    return tabulate(
        [
            outcome(label, 0.02, s, 10.5 * (n + 1) + orders[n % 2][s])
            for n, label in enumerate(labels)
            for s in range(seeds)
        ]
    )


def lines_at(width, labels):
    table, left_out = comparison_table("model on data", made(labels), labels[0], width)
    text = io.StringIO()
    Console(file=text, width=width or 400).print(table)
    return text.getvalue().splitlines(), left_out


@pytest.mark.parametrize("width", [60, 80, 100, 140, None])
@pytest.mark.parametrize("labels", [["cts", "random", "ltr"], [LONG, f"{LONG}:steps=7", "ltr"], ["cts", LONG, "snip"]])
def test_a_comparison_keeps_what_matters_at_any_width(width, labels):
    lines, left_out = lines_at(width, labels)
    assert all(cell_len(line) <= (width or 400) for line in lines)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    names, current = [], ""
    for cells in rows:  # a name goes on in the next line where its row's other cells are empty
        current = current + cells[0] if not any(cells[1:2]) else cells[0]
        names = [*names[:-1], current] if not cells[1] else [*names, current]
    assert names == labels
    text = "\n".join(lines)
    assert text.count("2 %") >= 3
    for figure in ("11.50 ± 1.00 %", "22.00 ± 1.00 %", "32.50 ± 1.00 %"):
        assert width == 60 or figure in text
    assert ("worse (-10.50)" in text) or width == 60
    if width == 80:
        assert "seconds" in text or len(labels[0]) > 20 or len(labels[1]) > 20
    if width is None:
        assert left_out == []


def test_columns_are_left_out_by_their_rank_and_empty_ones_always():
    columns = (
        Column("name", ("a", "b")),
        Column("kept", ("x" * 10, "y"), 2),
        Column("value", ("12345678", "1")),
        Column("n", ("1", "2"), 1),
        Column("empty", ("", "")),
    )

    def titles(room):
        table, left_out = fitted_table("", columns, room)
        return [str(column.header) for column in table.columns], left_out

    assert titles(None) == (["name", "kept", "value", "n"], [])
    # 4 + 10 + 8 + 1 cells of text, and 13 of lines and blanks.
    assert titles(36) == (["name", "kept", "value", "n"], [])
    assert titles(35) == (["name", "value", "n"], ["kept"])
    assert titles(22) == (["name", "value"], ["kept", "n"])


def test_columns_that_say_nothing_are_not_there():
    def header(labels, width):
        return "\n".join(lines_at(width, labels)[0][:4])

    assert "LTR takes" not in header(["cts", "snip"], 200)
    assert "LTR takes" in header(["cts", "random", "ltr"][::-1], 200)
    assert " is" not in header(["cts"], 200)
    assert "cts is" in header(["cts", "snip"], 200)


def test_notes_wrap_between_words_on_a_terminal(monkeypatch, capsys):
    path = "/tmp/" + "long/" * 12 + "ticket.safetensors"
    note = "words " * 30 + path
    seen = on_terminal(monkeypatch, 40, lambda: show_text(note))
    whole = [line for line in seen if set(line.split()) == {"words"}]
    assert len(whole) == 5
    assert "".join(line for line in seen if line not in whole) == path, "a path is not cut by us"
    show_text(note)
    assert capsys.readouterr().out == f"{note}\n"


def test_a_board_shows_its_table_once_and_makes_it_when_it_is_looked_at(monkeypatch):
    asked = []

    def make(width):
        asked.append(width)
        table = Table(title="a study")
        table.add_column("finder")
        table.add_row("cts")
        return table

    def work():
        with Board(Console(file=sys.stderr)) as shown:
            for _ in range(50):
                shown.show(Later(make))
            shown._live.refresh()
            shown._live.refresh()
            shown.say("cell 2")
        print_table(fitted_table("the end", [Column("finder", ("cts",))], 80)[0])

    seen = "\n".join(on_terminal(monkeypatch, 80, work))
    assert 1 <= len(asked) < 10
    assert set(asked) == {80}
    assert "a study" not in seen
    assert seen.count("the end") == seen.count("│ cts") == 1
    assert "cell 2" in seen


def test_a_board_that_is_interrupted_leaves_its_table(monkeypatch):
    def interrupted():
        with Board(Console(file=sys.stderr)) as shown:
            shown.show("half a table")
            raise KeyboardInterrupt

    def work():
        with pytest.raises(KeyboardInterrupt):
            interrupted()

    assert "\n".join(on_terminal(monkeypatch, 80, work)).count("half a table") == 1


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "o[bold]"
    assert main([*COMPARE, "--finders", "random,magnitude", "--seeds", "2", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("width", [80, 100, 140])
def test_compare_on_a_terminal(monkeypatch, study, width):
    arguments = [*COMPARE, "--finders", "random,magnitude", "--seeds", "2", "--out", str(study)]
    seen = on_terminal(monkeypatch, width, lambda: main(arguments))
    text = "\n".join(seen)
    assert all(cell_len(line) <= width for line in seen)
    assert text.count("lenet-300-100 on digits") == 1, "one table"
    (row,) = [line for line in seen if line.startswith("│ magnitude")]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[:2] == ["magnitude", "50 %"]
    assert re.search(r"\d\d\.\d\d ± \d+\.\d\d %", row)
    assert re.search(r"(better|worse|undecided) \([+-]\d+\.\d\d\)", row)
    assert "LTR takes" not in text
    assert ("There is no room for" in text) == (width == 80)
    words = "The last column says what random is beside the row's finder, by the 95 % interval"
    assert words in " ".join(text.split())


def test_a_finished_comparison_lies_in_files(study, capsys):
    arguments = [*COMPARE, "--finders", "random,magnitude", "--seeds", "2", "--out", str(study)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((study / "table.json").read_text()) == found
    rows = list(csv.DictReader((study / "table.csv").read_text().splitlines()))
    assert [row["finder"] for row in rows] == ["random", "magnitude"]
    for line, row in zip(rows, found["rows"], strict=True):
        assert float(line["test_accuracy_mean"]) == row["test_accuracy_mean"]
        assert int(line["n"]) == row["n"] == 2
    gain = found["rows"][0]["differences"]["magnitude"]
    assert (rows[0]["first_is"], rows[1]["first_is"]) == ("", gain["verdict"])
    assert float(rows[1]["gain_of_first"]) == gain["mean"]
    assert not list(study.glob(".table*")), "nothing partial stays"


def test_labels_in_a_picture_are_no_formulas(tmp_path):
    made_studies.study(tmp_path / "s", ["cts:features=[a$b]", "cts:features=[$a_{b]"], seeds=2, tickets=False)
    write_figure(overview(read(tmp_path / "s")), tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    assert text.startswith("<?xml")
    assert "cts:features=[a$b]" in text, "matplotlib writes each label as a comment beside its glyphs"


PROVENANCE = Provenance(
    finder={
        "name": "cts", "objective": "loss", "steps": 7, "controller": {"name": "proportional", "width": 0.05},
        "learning_rate": 0.3, "lr_schedule": "one-cycle", "epsilon": 1e-08,
        "relaxation": {"name": "concrete", "temperature": 2 / 3},
    },
    density=0.5, seed=3, version="0.1.0", architecture="a", weights="b" * 64, at="rewind", epoch=2,
    objective={"name": "loss", "first": 2.0, "soft": 1.5, "hard": 1.25, "held_out": 1.375, "expected_density": 0.5},
    cost=Cost(61.5, 12_345, 678), teacher="kept once", warnings=("a [bold] one\x1b[2J\nand more",),
)  # fmt: skip


def test_info_says_in_lines_where_a_ticket_comes_from(tmp_path, capsys):
    path = tmp_path / "t.safetensors"
    Ticket({"[bold]\x1bw": torch.tensor([[True, False]])}, PROVENANCE).save(path)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    for line in (
        "finder: cts, with objective loss, steps 7, learning rate 0.3; otherwise by default",
        "drawn: at the rewind point, after 2 epochs of dense training, with seed 3, by tombola 0.1.0",
        "objective: loss: 1.25 of the ticket before training, 1.375 of it on held-out data, 1.5 of the sampled masks "
        "at the search's end, 2 at its beginning",
        "cost: 61.5 seconds from the initial weights on; 12,345 samples forward, 678 backward",
        "teacher: kept once",
        r"warning: a [bold] one\x1b[2J\x0aand more",
    ):
        assert line in out.splitlines()
    assert "{" not in out
    assert "b" * 64 not in out
    assert r"│ [bold]\x1bw │" in out
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"] == json.loads(json.dumps(PROVENANCE.to_dict()))


def test_info_on_finders_of_ones_own_and_on_tickets_from_nowhere(tmp_path, capsys):
    own = replace(
        PROVENANCE, finder={"name": "mine", "depth": 3, "parts": [1, 2]}, objective={}, epoch=None, at="given"
    )
    lines = list(_origin(own.to_dict()))
    assert lines[0] == "finder: mine, of one's own: depth 3, parts 1 and 2"
    assert lines[1].startswith("drawn: at weights that were given, with seed 3")
    assert not any(line.startswith("objective") for line in lines)
    plain = replace(PROVENANCE, finder={"name": "random", "allocation": "global"})
    assert next(_origin(plain.to_dict())) == "finder: random, by default"
    Ticket({"w": torch.tensor([[True, False]])}).save(tmp_path / "t.safetensors")
    assert main(["info", str(tmp_path / "t.safetensors")]) == 0
    assert "nothing is known of where this ticket comes from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"pretraining": ([0.1, 0.1, 9.0], 600), "search": ([2.0], 1740), "training": ([0.1], 1800)},
         "about 62 minutes: pretraining 1, search 58, training 3"),
        ({"search": ([0.5, 0.5], 20)}, "about 10 seconds"),
        ({"a": ([0.01], 10), "b": ([1.0], 119)}, "about 119 seconds: a under 1, b 119"),
        ({"a": ([1.0], 9000), "b": ([1.0], 0)}, "about 2.5 hours: a 2.5, b 0.0"),
        ({"a": ([1.0], 180), "b": ([1.0], 12)}, "about 3 minutes: a 3, b under 1"),
    ],
)  # fmt: skip
def test_the_expected_time_in_one_line(parts, words):
    assert expected_time(parts) == words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--lr", "0.1"], "--lr is not an option; did you mean --learning-rate?"),
        (["run", "--lr=0.1"], "--lr is not an option; did you mean --learning-rate?"),
        (["run", "-lr", "0.1"], "-lr is not an option; did you mean --learning-rate?"),
        (["run", "--bs", "3"], "did you mean --batch-size?"),
        (["compare", "--wd", "3"], "did you mean --weight-decay?"),
        (["run", "--seeds", "3"], "did you mean --seed?"),
        (["run", "--sparsities", "0.9"], "did you mean --sparsity?"),
        (["run", "--gpu", "0"], "did you mean --device?"),
        (["compare", "--findr", "cts"], "did you mean --finders?"),
        (["run", "--zzz", "0"], "--zzz is not an option\n"),
        (["run", "--weights="], "--weights must name a file"),
        (["run", "--weights", ""], "--weights must name a file"),
        (["run", "--data-dir="], "--data-dir must name a folder"),
        (["run", "--fit="], "--fit must name a function, my_module:function"),
        (["run", "--preset="], "--preset must name a preset"),
        (["run", "--recipe="], "--recipe must name a recipe"),
        (["run", "--model="], "--model must name a model"),
        (["run", "--data="], "--data must name a dataset"),
        (["run", "--steps="], "--steps must"),
        (["demo", "--out="], "--out must name a directory"),
        (["compare", "--plot="], "--plot must name a picture, .svg, .pdf or .png"),
        (["train", "x", "--weights="], "--weights must name a file"),
        (["evaluate", "x", "--weights", ""], "--weights must name a file"),
        (["export", "x", "--weights="], "--weights must name a file"),
        (["export", "x", "--out="], "--out must name a directory"),
        (["audit", "x", "--out="], "--out must name a directory"),
        (["info", ""], "ticket must name a ticket file or a run directory"),
        (["run", "--out", "o" * 300], f"--out cannot be {'o' * 300}: File name too long"),
        (["demo", "--out", "o" * 300], f"--out cannot be {'o' * 300}: File name too long"),
        (["compare", "--out", "o" * 300], f"--out cannot be {'o' * 300}: File name too long"),
        (["run", "--out", "/".join(["o" * 200] * 20)], "File name too long"),
        (["info", "t" * 300], "File name too long"),
        (["compare", "--plot", f"{'p' * 300}.svg/a.svg"], "File name too long"),
    ],
)
def test_options_that_are_meant_otherwise_or_say_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_audit_whose_out_is_too_long_is_refused(study, capsys):
    run = next(path.parent for path in study.glob("*/result.json"))
    assert main(["audit", str(run), "--out", "o" * 300]) == 2
    assert "--out cannot be" in capsys.readouterr().err


def test_an_empty_value_in_a_configuration_file_is_refused(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("weights: ''\n")
    assert main(["run", "--config", str(path), "--out", str(tmp_path / "o")]) == 2
    assert "--weights must have a value" in capsys.readouterr().err


def test_the_help_of_compare_lists_no_option_that_it_refuses(capsys):
    for command, shown in (("compare", False), ("run", True)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert bool(re.search(r"--finder\b(?!s)", capsys.readouterr().out.split("example:")[0])) == shown
