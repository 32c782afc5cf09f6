"""Figures of comparisons: how finders look, where ticks and names stand, and what is drawn."""

import colorsys
import itertools
import math

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tombola.finders import FINDERS
from tombola.storage.files import write_json
from tombola.studies import read
from tombola.studies.figures import figures_of, overview, write_figures
from tombola.studies.figures.drawing import Dots, Heat, Panel, are_named, front, names_of
from tombola.studies.figures.interactive import plot
from tombola.studies.figures.published import published_curves
from tombola.studies.figures.scales import linear_axis, log_axis, probit, score_axis, spread, zoom
from tombola.studies.figures.scores import by_cost, by_density, gains
from tombola.studies.figures.style import COLOURS, FAMILIES, OWN, family_of, shortened, styles
from tombola.studies.figures.tickets import _shared, layers
from tombola.ticket import Ticket

from . import made_studies
from .conftest import command
from .made_studies import study

FIFTY = [*FINDERS, *(f"cts:steps={n}" for n in range(14)), *(f"mine:F{n}" for n in range(10))]


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_no_two_finders_look_alike_even_in_grey():
    assert len(FIFTY) == 50
    found = styles(FIFTY)
    assert len({(look.marker, look.dash) for look in found.values()}) == 50
    for label, look in found.items():
        assert look.family == family_of(label)
    colours = {look.family: look.colour for look in found.values()}
    assert len(set(colours.values())) == len(colours) == 6


def test_colours_can_be_seen_on_white_and_on_black():
    for colour in COLOURS:
        own = luminance(colour)
        assert 1.05 / (own + 0.05) >= 2.7, colour
        assert (own + 0.05) / (luminance("#14171a") + 0.05) >= 3.0, colour
    hues = [colorsys.rgb_to_hsv(*(int(c[p : p + 2], 16) / 255 for p in (1, 3, 5))) for c in COLOURS]
    assert all(a != b for a, b in itertools.pairwise(hues))


def test_every_finder_of_ours_has_a_family():
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(FINDERS)


def test_variants_of_one_finder_have_colours_of_their_own():
    found = styles(["cts", "cts:steps=5", "cts:objective=loss"])
    assert len({look.colour for look in found.values()}) == 3


def test_labels_in_words_belong_to_the_finder_that_they_begin_with():
    families = {label: family_of(label) for label in ("ltr, rate 0.5", "joint of 10 epochs", "SNIP in ten rounds")}
    assert list(families.values()) == ["trains and prunes", "searches for masks", "scores once or in rounds"]
    assert family_of("my_module:LTR") == family_of("of mine") == family_of("") == OWN


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=60))
def test_ticks_of_a_cost_axis_never_touch(values):
    axis = log_axis(values, "cost")
    places = [axis.share(value) for value, _ in axis.ticks]
    assert all(0 <= place <= 1 for place in places)
    assert all(b - a >= 0.07 for a, b in itertools.pairwise(places))
    assert axis.low < min(values)
    assert axis.high > max(values)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60))
def test_an_score_axis_holds_all_values(values):
    axis = score_axis(values)
    for value in values:
        assert -1e-9 <= axis.share(value if axis.kind == "linear" else min(max(value, 0.05), 99.95)) <= 1 + 1e-9
    assert len(axis.ticks) <= 12
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)


def test_a_wide_range_of_accuracies_is_shown_on_a_probit_axis():
    axis = score_axis([10.0, 90.0, 95.0])
    assert axis.kind == "probit"
    assert axis.share(95) - axis.share(90) > 2 * (95 - 90) / (95 - 10) * 0.85
    assert score_axis([90.0, 95.0]).kind == "linear"
    assert probit(50) == pytest.approx(0)
    assert probit(97.5) == pytest.approx(1.96, abs=1e-3)
    assert math.isfinite(probit(0))


def test_three_finders_at_chance_do_not_squeeze_the_rest():
    assert zoom([10, 10.1, 10.2, 90, 91, 92]) == (90, 92)
    assert zoom([50, 60, 70, 80, 90]) is None
    assert zoom([90, 91]) is None
    assert zoom([90.0] * 5) is None


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 0.2))
def test_names_are_apart_and_in_order(wanted, gap):
    found = spread(wanted, gap)
    if found is None:
        assert (len(wanted) - 1) * gap > 1
        return
    ordered = [found[index] for index in sorted(range(len(wanted)), key=lambda index: wanted[index])]
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(ordered))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in found)


def test_names_stand_around_where_several_lines_end():
    assert spread([0.5, 0.9, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.9, 0.5, 0.6])
    assert spread([0.02, 0.01], 0.2) == pytest.approx([0.2, 0.0])
    assert spread([1.0, 1.0, 0.0], 0.3) == pytest.approx([0.7, 1.0, 0.0])


def test_the_front_is_what_no_other_beats_in_both():
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 70.0), (3.0, 60.0), (9.0, 69.0), (1.0, 45.0)]
    assert front(points) == ((1.0, 50.0), (3.0, 70.0))


def test_long_names_are_cut_in_their_middle():
    assert shortened("cts:objective=loss") == "cts:objective=loss"
    assert len(shortened("x" * 50)) == 26
    assert shortened("a" * 20 + "b" * 20, 10) == "aaaaaa…bbb"


def test_what_tickets_share():
    ours = Ticket({"w": torch.tensor([True, True, False, False])})
    theirs = Ticket({"w": torch.tensor([True, False, True, True])})
    assert _shared(ours.packed, theirs.packed) == 0.5
    assert _shared(theirs.packed, ours.packed) == pytest.approx(1 / 3)
    assert _shared(ours.packed, Ticket({"v": torch.tensor([True])}).packed) is None


def named(figures):
    return {figure.name: figure for figure in figures}


def test_a_comparison_has_all_its_figures(tmp_path):
    found = named(figures_of(read(study(tmp_path / "s", ["cts", "snip", "random"])), "cts"))
    assert list(found) == [
        "accuracy-by-density", "accuracy-by-cost", "gains", "layers", "overlap", "search", "training",
    ]  # fmt: skip
    (cost, *_) = found["accuracy-by-cost"].panels
    assert [line.joined for line in cost.lines] == [False] * 3
    assert cost.front
    heat = found["layers"].panels[0]
    assert isinstance(heat, Heat)
    assert (heat.rows, heat.columns) == (("cts", "snip", "random"), tuple(made_studies.LAYERS))
    assert found["overlap"].panels[0].values[0][0] is None, "with itself, nothing is compared"


def test_names_stand_at_lines_where_they_fit(tmp_path):
    panel = by_density(read(study(tmp_path / "s", ["cts", "snip", "random"], tickets=False))).panels[0]
    assert [name.label for name in names_of(panel, 0.05)] == ["cts", "snip", "random", "dense"]
    assert are_named(panel, names_of(panel, 0.05))
    assert [name.label for name in names_of(panel, 0.5)] == ["dense"]
    cost = by_cost(read(tmp_path / "s")).panels[0]
    assert [name.label for name in names_of(cost, 0.9)] == ["cts", "dense"], "at least the best for their cost"
    assert not are_named(cost, names_of(cost, 0.9))


def test_many_finders_have_a_panel_a_family(tmp_path):
    chosen = [name for names in itertools.zip_longest(*FAMILIES.values()) for name in names if name][:16]
    found = read(study(tmp_path / "s", chosen, densities=(0.2, 0.02), seeds=2, tickets=False))
    everything, *families = by_density(found).panels
    assert len(everything.lines) == 16
    assert sorted(panel.title for panel in families) == sorted(FAMILIES)
    assert {panel.y for panel in families} == {families[0].y}
    assert families[0].y.low > 80, "finders at chance are left to the first panel"
    assert everything.y.low < 40


@pytest.mark.parametrize(
    ("densities", "seeds", "finders"),
    [((0.1,), 1, ["cts"]), ((0.1,), 3, ["cts", "snip"]), ((0.2, 0.1), 1, ["cts"]), ((0.2, 0.1), 1, FIFTY)],
)
def test_small_and_large_comparisons_can_be_drawn(tmp_path, densities, seeds, finders):
    found = read(study(tmp_path / "s", finders, densities=densities, seeds=seeds, tickets=False))
    figures = figures_of(found, found.finders[0])
    first = figures[0].panels[0]
    assert isinstance(first, Dots if len(densities) == 1 else Panel)
    for figure in figures:
        for panel in figure.panels:
            made = plot(panel)
            assert made["marks"] > 0
    if finders is not FIFTY:
        write_figures([overview(found)], tmp_path / "f", [".svg"])


def test_figures_are_written_in_every_format_and_alike_each_time(tmp_path, capsys):
    made = study(tmp_path / "s", ["cts", "snip"], densities=(0.2, 0.1), seeds=2)
    for formats in ("svg,pdf,png", "pdf,svg"):
        out = tmp_path / formats
        only = ["--only", "accuracy-by-density", "--formats", formats]
        status, text, err = command(capsys, "report", made, "--figures", out, *only)
        assert status == 0, err
        paths = [out / f"accuracy-by-density.{kind}" for kind in formats.split(",")]
        assert text.splitlines() == [f"figure: {path}" for path in paths]
        assert sorted(out.iterdir()) == sorted(paths)
    assert not (made / "report.html").exists()
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "svg,pdf,png" / path.name).read_bytes()


def test_costs_in_seconds_where_no_samples_were_counted(tmp_path):
    made = study(tmp_path / "s", ["cts", "snip"], densities=(0.1,), seeds=1, tickets=False)
    for path in made.glob("run-*/result.json"):
        path.write_text(path.read_text().replace('"dense_equivalents": 1.', '"dense_equivalents": null, "x": 1.'))
    assert "seconds" in by_cost(read(made)).panels[0].x.title


def test_the_papers_cells_have_its_curves_underneath(tmp_path):
    made = study(tmp_path / "s", ["cts", "snip", "ltr", "joint"], densities=(0.2, 0.02), seeds=1, tickets=False)
    assert published_curves(read(made)) == []
    for path in made.glob("run-*/config.yaml"):
        path.write_text(path.read_text().replace("digits", "cifar10").replace("lenet-300-100", "resnet20"))
    found = read(made)
    curves = published_curves(found)
    assert [curve.label for curve in curves] == [
        "cts forward-kl @rewind", "snip@rewind", "ltr (earlier rewind point)", "ltr (rewind point of CTS)",
    ]  # fmt: skip
    figure = by_density(found, curves)
    quiet = [line for line in figure.panels[0].lines if line.quiet]
    assert [line.label for line in quiet] == [f"published: {curve.label}" for curve in curves]
    assert all(1.7 <= mark.x <= 23.1 for line in quiet for mark in line.marks)
    assert "published by the authors of arXiv 2512.07142, not measured here" in figure.caption


def test_published_curves_go_by_what_ran_and_not_by_labels(tmp_path):
    made = study(tmp_path / "s", ["snip at init", "cts, long"], densities=(0.2,), seeds=1, tickets=False)
    for path in made.glob("run-*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        config["finder"] = {"name": config["finder"]["name"].split()[0].strip(","), "objective": None}
        path.write_text(yaml.safe_dump(config | {"data": "cifar10", "model": "resnet20", "draw_at": "init"}))
    assert {curve.label for curve in published_curves(read(made))} == {"snip@init", "cts loss @init"}


@pytest.mark.parametrize("other", ["model: {name: resnet20, depth: 20, width: 8}", "train_samples: 1000"])
def test_other_networks_and_fewer_images_have_no_published_curves(tmp_path, other):
    made = study(tmp_path / "s", ["cts", "snip"], densities=(0.2,), seeds=1, tickets=False)
    for path in made.glob("run-*/config.yaml"):
        papers = yaml.safe_load(path.read_text()) | {"data": "cifar10", "model": "resnet20"}
        path.write_text(yaml.safe_dump(papers | yaml.safe_load(other)))
    assert published_curves(read(made)) == []


def test_a_large_family_has_panels_of_even_sizes(tmp_path):
    labels = [*FAMILIES["scores once or in rounds"], "cts"]
    _, *families = by_density(read(study(tmp_path / "many", labels, tickets=False))).panels
    sizes = {panel.title: len(panel.lines) for panel in families}
    names = [f"scores once or in rounds ({number} of 2)" for number in (1, 2)]
    assert sizes == {names[0]: 6, names[1]: 5, "searches for masks": 1}


def test_two_seeds_have_no_intervals(tmp_path):
    for seeds in (2, 3):
        found = read(study(tmp_path / str(seeds), ["cts", "snip"], seeds=seeds, tickets=False))
        marks = [mark for panel in gains(found, "cts").panels for line in panel.lines for mark in line.marks]
        assert [mark.low is None for mark in marks] == [seeds == 2] * 3


def test_there_are_no_ticks_between_epochs():
    assert [text for _, text in linear_axis([1, 2], "epoch").ticks] != ["1", "2"]
    assert [text for _, text in linear_axis([1, 2], "epoch", whole=True).ticks] == ["1", "2"]
    assert linear_axis([0.2, 0.4], "epoch", whole=True).ticks


def test_a_linear_axis_of_one_value_has_room():
    axis = linear_axis([5.0], "")
    assert axis.low < 5 < axis.high
    assert axis.ticks


def test_layers_of_other_sizes_have_densities_of_their_own(tmp_path):
    for label, width in (("cts", 2), ("snip", 8)):
        name = made_studies.write_run(tmp_path, label, 0.5, 0, 90.0, options={"image_size": width})
        mask = torch.zeros(1, width, dtype=torch.bool)
        mask[0, 0] = True
        Ticket({"fc.weight": mask}).save(tmp_path / name / "ticket.safetensors")
        result = made_studies.result(label, 0.5, 90.0, kept={"fc.weight": 1})
        write_json(tmp_path / name / "result.json", {**result, "prunable": width})
    (panel,) = layers(read(tmp_path)).panels
    assert dict(zip(panel.rows, panel.values, strict=True)) == {"cts": (50.0,), "snip": (12.5,)}
