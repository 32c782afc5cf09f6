"""The page of a comparison: one file, whole with whatever is there, names of others as they are."""

import json
import re

import pytest

from tombola.cli.main import main
from tombola.storage.files import write_json
from tombola.studies import read
from tombola.studies.report import report, words

from .conftest import command
from .made_studies import study

HOSTILE = [
    "cts",
    "mine:<img src=x onerror=alert(1)>",
    "a</script><script>alert(1)</script>",
    "{{7*7}}",
    "b\x1b[2J\u202e",
]


def page_of(directory, **changes):
    found = read(directory)
    return report(found, found.chosen(changes.get("against", "")), directory / "report.html")


def plots(page):
    return json.loads(re.search(r'<script type="application/json" id="plots">(.*?)</script>', page, re.DOTALL)[1])


def without_plotly(page):
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return study(tmp_path_factory.mktemp("report") / "s", ["cts", "snip", "random"])


def test_a_page_says_what_was_compared_and_found_and_needs_nothing_else(made):
    page = page_of(made)
    text = without_plotly(page)
    assert "3 finders (cts, snip and random) at 3 densities (20 %, 5 % and 2 %) over 3 seeds" in text
    assert "27 of 27 cells are finished." in text
    assert "Fewer than five seeds are indicative" in text
    assert re.search(
        r"At 2 %, cts has the best mean: 8\d\.\d\d ± 0\.\d\d % \(n = 3\), \d\.\d\d points below dense", text
    )
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    assert "default-src 'none'" in text
    assert len(plots(page)) == text.count('class="plot"') == 19
    for name in ("accuracy-by-density", "accuracy-by-cost", "layers", "overlap", "search", "training"):
        assert f"tombola report {made} --figures figures --only {name}" in text
    (link, *_) = re.findall(r'<a href="([^"]+)"', text)
    assert (made / link / "result.json").is_file()


def test_what_seeds_do_not_decide_is_a_sentence(tmp_path):
    out = study(tmp_path / "s", ["cts", "snip", "random"], densities=(0.1,), seeds=1, tickets=False)
    said = "The seeds do not decide whether cts is better or worse than snip and random at every density."
    assert said in list(words.finding(read(out), "cts"))


def test_names_of_others_are_text_and_nothing_else(tmp_path):
    page = page_of(study(tmp_path / "s", HOSTILE, densities=(0.2, 0.1), seeds=2))
    text = without_plotly(page)
    assert "<img" not in text
    assert "<script>alert" not in page
    assert "49" not in re.findall(r"<td>(\{?\{?.*?)</td>", text)
    assert "{{7*7}}" in text
    assert "\x1b" not in page
    assert "\u202e" not in page
    names = {trace.get("name") for each in plots(page) for trace in each["data"]}
    assert "mine:&lt;img src=x onerror=alert(1)&gt;" in names
    assert not any("<" in str(name) for name in names)


def test_a_page_of_one_cell_and_of_holes(tmp_path):
    one = page_of(study(tmp_path / "one", ["cts"], densities=(0.1,), seeds=1))
    assert "1 finder (cts) at 1 density (10 %) over 1 seed" in one
    holes = study(
        tmp_path / "holes", ["cts", "snip"], missing=[("cts", 0.02, seed) for seed in range(3)],
        failed=[("snip", 0.2, 0)],
    )  # fmt: skip
    text = without_plotly(page_of(holes))
    assert "14 of 18 cells are finished, 1 failed and 3 are missing, so that what follows is not the last word." in text
    assert "snip at 20 %, seed 0, failed: SearchError: it broke" in text
    assert "At 2 %, snip alone has the best mean" in text
    for densities in ((0.1,), (0.2, 0.1)):
        missing = [("cts", density, 0) for density in densities]
        nothing = study(tmp_path / f"none-{len(densities)}", ["cts"], densities=densities, seeds=1, missing=missing)
        assert "Nothing is finished yet." in page_of(nothing)


def test_audits_are_shown_where_they_were_done(made, tmp_path):
    other = study(tmp_path / "s", ["cts"], densities=(0.1,), seeds=1)
    (other / "audit-cts").mkdir()
    check = {"name": "shuffled within layers", "verdict": "informative", "why": "", "test_accuracies": [50.0, 52.0]}
    audit = {"finder": "cts", "density": 0.1, "seed": 0, "test_accuracies": [80.0, 81.0], "checks": [check]}
    write_json(other / "audit-cts" / "audit.json", audit)
    text = without_plotly(page_of(other))
    assert "cts at 10 %, seed 0: 80.50 ± 0.71 %" in text
    assert "<td>shuffled within layers</td><td>informative</td><td>51.00 ± 1.41 %</td>" in text
    assert 'id="audits"' not in without_plotly(page_of(made))


def test_sentences_by_hand():
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b"]) == "a and b"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed([str(n) for n in range(20)], most=4) == "0, 1, 2 and 17 more"


def test_warnings_that_differ_in_figures_alone_are_one(tmp_path):
    out = study(tmp_path / "s", ["joint"], densities=(0.2, 0.05), seeds=2, tickets=False)
    for number, path in enumerate(sorted(out.glob("run-*/result.json"))):
        values = json.loads(path.read_text())
        values["warnings"] = [f"it ended at {number}.5 times the wanted one", *["no path is left"] * (number == 0)]
        write_json(path, values)
    first, second = words.warnings(read(out))
    assert first.startswith("joint at 20 %, 5 %: it ended at ")
    assert first.endswith(".5 times the wanted one (and 3 more of that kind, with other figures)")
    assert second.endswith("%: no path is left")


def test_what_of_a_ticket_is_at_work(tmp_path):
    out = study(tmp_path / "s", ["joint"], densities=(0.2, 0.05), seeds=2, tickets=False)
    for number, path in enumerate(sorted(out.glob("run-*/result.json"))):
        values = json.loads(path.read_text())
        if values["density"] < 0.1:
            paths = {"nodes": 4, "of": 20, "log_paths": None}
        else:
            paths = {"nodes": 9, "of": 20, "weights": 70 + number, "log_paths": 2}
        write_json(path, values | {"kept": 100, "paths": paths})
    table = page_of(out).partition("Effective nodes, weights and paths")[2].partition("</table>")[0]
    weights = read(out).cells["effective_weights"].dropna()
    assert len(weights) == 2
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")]
    assert ["joint", "20 %", "9 of 20", f"{sum(weights) / 2:.0f} of 100", "2.00"] in rows
    assert ["joint", "5 %", "4 of 20", "", "no path"] in rows, "of results from before weights were counted"


def test_the_command_writes_the_page(made, tmp_path, capsys):
    status, out, _ = command(capsys, "report", made, "--out", tmp_path / "r.html", "--against", "snip")
    assert status == 0
    assert out.strip() == f"report: {tmp_path / 'r.html'}"
    page = (tmp_path / "r.html").read_text()
    assert "What snip gains" in page
    assert "--against snip --figures figures --only gains" in page, "and so does the command under it"
    assert "--against" not in page_of(made)
    link = re.search(r'<a href="([^"]+)"', (tmp_path / "r.html").read_text())[1]
    assert (tmp_path / link).is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "imp"], "--against must be one of cts, snip, random, got imp"),
        (["--out", "no/where.html"], "--out must be a file in a directory that exists, got no/where.html"),
        (["--formats", "gif"], "--formats must be a list of svg, pdf, png, got gif"),
        (["--only", "layers"], "--only needs --figures"),
        (["--figures", "f", "--only", "magic"], "--only must be some of accuracy-by-density, "),
        (["--figures="], "--figures must name a directory"),
    ],
)
def test_pages_that_cannot_be_made(made, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(made), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
