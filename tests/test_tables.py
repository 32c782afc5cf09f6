"""Tables with named columns: regression, classes, one and several labels, pixels, from files that people have."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tombola.data import Targets, load
from tombola.data.sources import DATASETS
from tombola.data.tables import numbers_of, read_columns
from tombola.errors import UsageError
from tombola.runs.cell import splits_of
from tombola.runs.config import built, load_preset

from .conftest import as_json, command


def frame(rows=60, seed=0):
    random = np.random.default_rng(seed)
    found = pd.DataFrame({"size": random.normal(100, 20, rows), "rooms": random.integers(1, 6, rows)})
    found["town"] = np.array(["east", "west", "north"])[random.integers(0, 3, rows)]
    found["price"] = 3 * found["size"] + 50 * found["rooms"] + 20 * (found["town"] == "west")
    found["sold"] = np.where(found["price"] > found["price"].median(), "yes", "no")
    found["lift"], found["cellar"] = (found["rooms"] > 2).astype(int), (found["size"] > 100).astype(int)
    return found


@pytest.fixture
def houses(tmp_path):
    frame().to_csv(tmp_path / "train.csv", index=False)
    frame(20, 1).to_csv(tmp_path / "test.csv", index=False)
    return tmp_path


def read(folder, wanted, held_out=0.0, **options):
    return load(DATASETS.read({"name": "table", "data_dir": str(folder), **options}), held_out, targets=wanted)


def batch_of(split, size=1000):
    return next(iter(split.feed(size, 0, "x", shuffle=False).epoch(0))).batch


def test_numbers_are_standardised_by_the_training_rows_and_texts_told_apart(houses):
    found = read(houses, Targets.NUMBERS, targets=["price"], inputs=["size", "town"])
    (x, y), (x_test, y_test) = batch_of(found.train), batch_of(found.test)
    assert (found.shape, found.classes) == ((4,), 1)
    train, test = frame(), frame(20, 1)
    mean, std = train["size"].mean(), train["size"].std(ddof=0)
    assert torch.allclose(x_test[:, 0], torch.tensor((test["size"] - mean) / std).float(), atol=1e-5)
    names = ["east", "north", "west"]
    assert x[:, 1:].argmax(dim=1).tolist() == [names.index(town) for town in train["town"]]
    assert y.shape == (60, 1)
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    expected = (test["price"] - train["price"].mean()) / train["price"].std(ddof=0)
    assert torch.allclose(y_test[:, 0], torch.tensor(expected).float(), atol=1e-5)


def test_what_is_held_out_takes_no_part_in_the_standardisation(houses):
    found = read(houses, Targets.NUMBERS, 0.5, targets=["price"])
    assert (len(found.train), len(found.held_out)) == (30, 30)
    assert batch_of(found.train)[0][:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert abs(batch_of(found.held_out)[0][:, 0].mean().item()) > 1e-4


def test_classes_one_label_and_several(houses):
    classes = read(houses, Targets.CLASSES, targets=["town"], inputs=["size"])
    assert (classes.classes, batch_of(classes.train)[1].dtype) == (3, torch.int64)
    one = read(houses, Targets.TRUTHS, 0.2, targets=["sold"], inputs=["size", "rooms"])
    assert one.classes == 1
    assert set(batch_of(one.train)[1].tolist()) == {0, 1}
    several = read(houses, Targets.LABELS, targets=["lift", "cellar"], inputs=["size", "rooms"])
    assert (several.classes, batch_of(several.train)[1].shape) == (2, (60, 2))


@pytest.mark.parametrize(
    ("change", "wanted", "options", "words"),
    [
        ({}, Targets.NUMBERS, {}, r"targets must name the columns to foretell, of those of .*train.csv: size, rooms"),
        ({}, Targets.NUMBERS, {"targets": ["prize"]}, r"has no column prize, but .*did you mean price"),
        ({}, Targets.NUMBERS, {"targets": ["town"]}, "column town does not hold numbers"),
        ({}, Targets.CLASSES, {"targets": ["price"]}, "column price holds numbers, not classes; regression is"),
        ({}, Targets.TRUTHS, {"targets": ["town"]}, "needs two classes, and column town holds 3"),
        ({}, Targets.LABELS, {"targets": ["rooms", "lift"]}, "has the label .*, where 0 or 1 is wanted"),
        ({}, Targets.CLASSES, {"targets": ["town", "sold"]}, "must name one column, for a class a sample, got town"),
        ({"size": np.nan}, Targets.CLASSES, {"targets": ["town"]}, "column size has no value in row 1; fill"),
        ({"town": [f"t{n}" for n in range(200)]}, Targets.NUMBERS, {"targets": ["price"]}, "holds 200 different texts"),
        ({"town": "south"}, Targets.CLASSES, {"targets": ["town"]}, "needs two classes or more"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(tmp_path, change, wanted, options, words):
    frame(200).assign(**change).to_csv(tmp_path / "train.csv", index=False)
    frame(20, 1).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UsageError, match=words):
        read(tmp_path, wanted, **options)


@pytest.mark.parametrize("gap", ["NaN", "nan", " ", "-", "N/A"])
def test_a_written_gap_among_numbers_is_named(tmp_path, gap):
    whole = frame().astype({"size": str})
    whole.loc[3, "size"] = gap
    whole.to_csv(tmp_path / "train.csv", index=False)
    frame(20, 1).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UsageError, match="column size has no value in row 4; fill the gaps first"):
        read(tmp_path, Targets.NUMBERS, targets=["price"])


@pytest.mark.parametrize("gap", ["NA", "NaN", "none"])
@pytest.mark.parametrize("place", ["train.csv", "test.csv"])
@pytest.mark.parametrize(
    ("wanted", "target"),
    [(Targets.CLASSES, "lift"), (Targets.TRUTHS, "lift"), (Targets.LABELS, "cellar"), (Targets.NUMBERS, "price")],
)
def test_a_written_gap_among_targets_that_are_numbers_is_named(tmp_path, gap, place, wanted, target):
    for name in ("train.csv", "test.csv"):
        whole = frame(50).astype({target: str})
        if name == place:
            whole.loc[40, target] = gap
        whole.to_csv(tmp_path / name, index=False)
    with pytest.raises(UsageError, match=f"{place}: column {target} has no value in row 41; fill the gaps first"):
        read(tmp_path, wanted, 0.2, targets=[target], inputs=["size"])


@pytest.mark.parametrize(("odd", "what"), [("NA", "value in row"), ("large", "number in row")])
def test_an_input_without_a_number_in_test_data_is_named_by_its_row(tmp_path, odd, what):
    whole = frame(50).astype({"size": str})
    whole.loc[40, "size"] = odd
    for name, table in (("train", frame()), ("test", whole)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(UsageError, match=f"test.csv: column size has no {what} 41[;,]"):
        read(tmp_path, Targets.NUMBERS, targets=["price"])


def test_a_written_gap_is_named_by_its_row_whether_that_is_trained_on_or_held_out(tmp_path):
    for row in range(1, 51, 7):
        whole = frame(50).astype({"size": str})
        whole.loc[row - 1, "size"] = "NA"
        whole.to_csv(tmp_path / "houses.csv", index=False)
        with pytest.raises(UsageError, match=f"houses.csv: column size has no value in row {row};"):
            read(tmp_path / "houses.csv", Targets.NUMBERS, 0.5, targets=["price"])


def test_such_words_among_texts_are_texts(tmp_path):
    for rows, name in ((60, "train"), (20, "test")):
        frame(rows).replace({"town": {"west": "NA"}}).to_csv(tmp_path / f"{name}.csv", index=False)
    assert read(tmp_path, Targets.NUMBERS, targets=["price"], inputs=["town"]).train.inputs.shape[1] == 3


def test_words_for_gaps_are_classes_and_categories_where_training_data_have_no_numbers(tmp_path):
    for rows, name, other in ((60, "train", "B"), (20, "test", "1")):
        kinds = np.resize(["1", "2", "-", other], rows)
        frame(rows).assign(kind=kinds, grade=np.resize(["good", "2", "none"], rows)).to_csv(tmp_path / f"{name}.csv")
    found = read(tmp_path, Targets.CLASSES, targets=["grade"], inputs=["kind"])
    assert (found.classes, found.train.inputs.shape[1]) == (3, 4)


def test_a_class_of_the_test_data_alone_is_an_error(tmp_path):
    frame().query("town != 'west'").to_csv(tmp_path / "train.csv", index=False)
    frame(20, 1).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(UsageError, match=r"test.csv: column town has west, which is no class of train"):
        read(tmp_path, Targets.CLASSES, targets=["town"])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "npz"])
def test_whole_numbers_too_large_to_be_told_apart_are_no_classes(tmp_path, kind, sign):
    path = tmp_path / f"houses.{kind}"
    least = 2**53
    write(path, sold=sign * (np.arange(60) % 4 + least))
    with pytest.raises(UsageError, match=rf"targets: .*houses.{kind}: column sold has a class of 2\*\*53 or more"):
        read(path, Targets.CLASSES, targets=["sold"])
    write(path, sold=sign * (np.arange(60) % 4 + least - 4))
    assert read(path, Targets.CLASSES, targets=["sold"]).classes == 4
    write(path, sold=np.array([f"n{each % 4 + least}" for each in range(60)]))
    assert read(path, Targets.CLASSES, targets=["sold"]).classes == 4


def test_times_with_a_zone_may_be_classes(tmp_path):
    pytest.importorskip("pyarrow")
    days = pd.to_datetime(["2020-01-01", "2021-01-01"] * 30).tz_localize("UTC")
    frame().assign(sold=days).to_parquet(tmp_path / "houses.parquet")
    found = read(tmp_path / "houses.parquet", Targets.CLASSES, targets=["sold"], inputs=["size"])
    assert found.classes == 2


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "npz"])
def test_every_kind_of_file_says_the_same(tmp_path, kind):
    whole = frame()[["size", "rooms", "price"]]
    path = tmp_path / f"houses.{kind}"
    match kind:
        case "csv":
            whole.to_csv(path, index=False)
        case "tsv":
            whole.to_csv(path, index=False, sep="\t")
        case "jsonl":
            whole.to_json(path, orient="records", lines=True, double_precision=15)
        case "parquet":
            pytest.importorskip("pyarrow")
            whole.to_parquet(path)
        case "npz":
            np.savez(path, **{name: whole[name].to_numpy() for name in whole})
    found = load(DATASETS.read({"name": "table", "data_dir": str(path), "targets": ["price"]}), targets=Targets.NUMBERS)
    assert (len(found.train) + len(found.held_out), len(found.test), found.shape) == (48, 12, (2,))
    assert batch_of(found.test)[0].double().sum().item() == pytest.approx(8.17697, abs=1e-3)
    assert DATASETS.read(str(path)).data_dir == str(path), "a table's path stands for the source"


def write(path, **columns):
    """A table of sixty rows in one file, of its kind."""
    columns = {"size": np.arange(60.0), "sold": np.arange(60) % 2, **columns}
    if path.suffix == ".npz":
        np.savez(path, **columns)
        return
    whole = pd.DataFrame({name: list(values) for name, values in columns.items()})
    match path.suffix:
        case ".csv":
            whole.to_csv(path, index=False)
        case ".jsonl":
            whole.to_json(path, orient="records", lines=True, double_precision=15)
        case ".parquet":
            pytest.importorskip("pyarrow")
            whole.to_parquet(path)


@pytest.mark.parametrize("kind", ["csv", "npz"])
@pytest.mark.parametrize("row", [4, 17, 42])
@pytest.mark.parametrize(("value", "what"), [(-np.inf, "finite number"), (np.nan, "value")])
def test_a_number_that_is_none_is_named_by_its_row_in_the_file(tmp_path, kind, row, value, what):
    wrong = np.arange(60.0)
    wrong[row - 1] = value
    write(tmp_path / f"houses.{kind}", size=wrong)
    words = f"houses.{kind}: column size has no {what} in row {row};"
    for options, wanted in (
        ({"targets": ["sold"]}, Targets.CLASSES),
        ({"targets": ["size"]}, Targets.NUMBERS),
    ):
        with pytest.raises(UsageError, match=words):
            read(tmp_path / f"houses.{kind}", wanted, 0.1, **options)


@pytest.mark.parametrize(("kind", "mark"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("end", ["", "5"])
def test_rows_with_more_fields_than_the_header_are_refused(tmp_path, kind, mark, end):
    path = tmp_path / f"houses.{kind}"
    path.write_text("\n".join(mark.join(row) for row in ["ab", *[("1", "2", end)] * 10]))
    with pytest.raises(UsageError, match=rf"houses.{kind}: its rows have more fields than the header names"):
        read(path, Targets.NUMBERS, targets=["b"])


def test_names_of_rows_without_a_header_are_left_out(tmp_path):
    path = tmp_path / "houses.csv"
    path.write_text("\n".join(['"a","b"', *(f'"{row}",{row / 2},{row % 2}' for row in range(1, 41))]))  # as R writes it
    assert read_columns(path)["a"].tolist() == [str(row / 2) for row in range(1, 41)]
    assert read_columns(path)["b"].tolist() == [str(row % 2) for row in range(1, 41)]


@pytest.mark.parametrize(
    ("kind", "values"), [("string", ["east", "west", None]), ("boolean", [True, False, None]), ("Int64", [1, 2, None])]
)
def test_a_gap_in_a_nullable_column_is_named(tmp_path, kind, values):
    pytest.importorskip("pyarrow")
    odd = pd.array([*values[:2] * 29, *values[1:]], dtype=kind)
    whole = pd.DataFrame({"size": np.arange(60.0), "sold": np.arange(60) % 2, "odd": odd})
    whole.to_parquet(tmp_path / "houses.parquet")
    for target in ("sold", "odd"):
        with pytest.raises(UsageError, match=r"houses.parquet: column odd has no value in row 60; fill the gaps first"):
            read(tmp_path / "houses.parquet", Targets.CLASSES, targets=[target])


@pytest.mark.parametrize("kind", ["datetime64", "timedelta64"])
@pytest.mark.parametrize("unit", ["us", "ms", "s", "D"])
def test_times_are_the_same_numbers_in_every_unit(tmp_path, kind, unit):
    days = np.arange(0, 2_932_897, 50_000)  # to the year 9999, which no int64 reaches in ns
    for part, of in (("train", "s"), ("test", unit)):
        write_days = days.astype(f"{kind}[D]").astype(f"{kind}[{of}]")
        np.savez(tmp_path / f"{part}.npz", day=write_days, y=np.arange(len(days)) % 2)
    found = read(tmp_path, Targets.CLASSES)
    assert torch.allclose(batch_of(found.train)[0], batch_of(found.test)[0])
    near = np.array(["2024-01-01T00:00:00.000000123"] * 2, "datetime64[ns]")
    assert numbers_of(near).tolist() == near.astype(np.int64).astype(float).tolist(), "ns stay what they are"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_of_as_many_numbers_in_each_row_are_inputs(tmp_path, kind):
    lists = np.random.default_rng(0).normal(size=(60, 3))
    write(tmp_path / f"list.{kind}", lists=lists)
    np.savez(tmp_path / "array.npz", size=np.arange(60.0), sold=np.arange(60) % 2, lists=lists)
    found, same = (read(tmp_path / name, Targets.CLASSES, targets=["sold"]) for name in (f"list.{kind}", "array.npz"))
    assert found.shape == (4,)
    assert torch.allclose(batch_of(found.test)[0], batch_of(same.test)[0])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("lists", [[[1.0], [1.0, 2.0]], [["a"], ["b"]], [[[1.0]], [[2.0]]], [[], []], [None, [1.0]]])
def test_other_lists_are_refused_where_they_are_used(tmp_path, kind, lists):
    path = tmp_path / f"list.{kind}"
    write(path, lists=lists * 30)
    assert read(path, Targets.CLASSES, targets=["sold"], inputs=["size"]).shape == (1,)
    with pytest.raises(UsageError, match="column lists holds lists, but not of as many numbers in each row"):
        read(path, Targets.CLASSES, targets=["sold"])


def test_rows_of_train_and_test_are_equally_wide(tmp_path):
    for part, width in (("train", 2), ("test", 3)):
        write(tmp_path / f"{part}.jsonl", lists=np.ones((60, width)))
    for wanted, target in ((Targets.CLASSES, "sold"), (Targets.NUMBERS, "lists")):
        with pytest.raises(UsageError, match=r"test.jsonl: (size, )?lists: [34] numbers a row here, and [23] in train"):
            read(tmp_path, wanted, targets=[target])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([["a", "b"]] * 60), "several values a row that are no numbers"),
        (np.array([[["a", "b"]]] * 60), "several values a row that are no numbers"),
        (np.ones(60) * 1j, "complex numbers"),
        (np.ones((60, 2)) * 1j, "complex numbers"),
    ],
)
def test_arrays_that_are_neither_numbers_nor_one_text_a_row_are_refused(tmp_path, values, words):
    write(tmp_path / "houses.npz", odd=values)
    with pytest.raises(UsageError, match=f"inputs: .*houses.npz: column odd holds {words}; allowed are real numbers"):
        read(tmp_path / "houses.npz", Targets.CLASSES, targets=["sold"])
    with pytest.raises(UsageError, match="column odd does not hold numbers"):
        read(tmp_path / "houses.npz", Targets.NUMBERS, targets=["odd"])


def test_texts_kept_as_bytes_are_texts(tmp_path):
    texts, numbers = np.resize(["café", "the"], 60), np.resize(["1", "10", "2.5"], 60)
    for path, encoded in ((tmp_path / "text.npz", False), (tmp_path / "bytes.npz", True)):
        kept = {"drink": texts, "price": numbers}
        write(path, **{name: np.char.encode(each, "utf-8") if encoded else each for name, each in kept.items()})
    for target in ("drink", "sold"):
        same, found = (
            read(tmp_path / name, Targets.CLASSES, targets=[target]).train for name in ("text.npz", "bytes.npz")
        )
        assert all(torch.equal(a, b) for a, b in zip(batch_of(same), batch_of(found), strict=True))


def test_bytes_that_are_no_text_are_refused_where_they_are_used(tmp_path):
    path = tmp_path / "houses.npz"
    write(path, blob=np.array([b"\xff\xfe", b"ab"] * 30))
    assert read(path, Targets.CLASSES, targets=["sold"], inputs=["size"]).shape == (1,)
    for target in ("blob", "sold"):
        with pytest.raises(UsageError, match=r"houses.npz: column blob holds bytes that are no UTF-8; make them"):
            read(path, Targets.CLASSES, targets=[target])


def test_several_texts_a_row_are_no_class(tmp_path):
    write(tmp_path / "houses.npz", towns=np.array([["a", "b"]] * 60))
    with pytest.raises(UsageError, match="targets: column towns holds several values a row, where one class is wanted"):
        read(tmp_path / "houses.npz", Targets.CLASSES, targets=["towns"])


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ("uint8 3 8 8", "float32 3 8 8", r"float32 \[3, 8, 8\] a row, and uint8 \[3, 8, 8\] in train"),
        ("float32 3 8 8", "uint8 3 8 8", r"uint8 \[3, 8, 8\] a row, and float32 \[3, 8, 8\] in train"),
        ("uint8 3 8 8", "uint8 3 9 9", r"uint8 \[3, 9, 9\] a row, and uint8 \[3, 8, 8\] in train"),
        ("float32 3 8 8", "float32 3 8 9", r"float32 \[3, 8, 9\] a row, and float32 \[3, 8, 8\] in train"),
        ("uint8 3 8 8", "uint8 1 8 8", r"uint8 \[1, 8, 8\] a row, and uint8 \[3, 8, 8\] in train"),
        ("float32 64", "float32 8 8", r"float32 \[8, 8\] a row, and float32 \[64\] in train"),
        ("float32 3 8 8", "float64 3 8 8", None),
        ("int32 8 8", "int64 8 8", None),
        ("uint8 64", "float32 64", None),
        ("int64", "float32", None),
    ],
)
def test_arrays_of_train_and_test_are_alike(tmp_path, train, test, words):
    for part, (kind, *shape) in (("train", train.split()), ("test", test.split())):
        x = np.arange(10 * np.prod([int(each) for each in shape], dtype=int)).reshape(10, *map(int, shape)) % 7
        np.savez(tmp_path / f"{part}.npz", x=x.astype(kind), y=np.arange(10) % 2)
    if words is None:
        found = read(tmp_path, Targets.CLASSES)
        assert torch.equal(batch_of(found.train)[0], batch_of(found.test)[0])
        return
    with pytest.raises(UsageError, match=rf"test.npz: column x is {words}"):
        read(tmp_path, Targets.CLASSES)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_train_and_test_may_have_any_size_where_they_are_resized(tmp_path, channels):
    for part, size, depth in (("train", 8, 3), ("test", 9, channels)):
        np.savez(tmp_path / f"{part}.npz", x=np.zeros((10, depth, size, size), np.uint8), y=np.arange(10) % 2)
    source = DATASETS.read({"name": "table", "data_dir": str(tmp_path)})
    if channels == 3:
        assert load(source, 0.0, image_size=4).test.shape == (3, 4, 4)
        return
    with pytest.raises(UsageError, match=r"column x is uint8 \[1, 9, 9\] a row"):
        load(source, 0.0, image_size=4)


def test_images_and_masks_of_an_npz(tmp_path):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=x, y=(x[:, 0] > 128).astype(np.int64))
    found = read(tmp_path, Targets.PIXELS)
    assert (found.shape, found.classes) == ((3, 8, 8), 2)
    inputs, masks = batch_of(found.train)
    assert (inputs.dtype, masks.shape) == (torch.float32, (12, 8, 8))
    assert inputs.mean().item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("part", "label", "pixels", "words"),
    [
        ("test", 3, 1, r"test.npz: column y has the label 3; the classes of the training rows are 0 to 2"),
        ("test", -1, 1, r"test.npz: column y has the label -1; the classes"),
        ("train", -1, 1, r"train.npz: column y has the label -1; the classes"),
        ("train", 255, 256, r"train.npz: column y has no pixel in the training rows but those to be ignored, 255"),
        ("test", 255, 1, None),
    ],
)
def test_labels_of_pixels_are_classes_of_the_training_rows(tmp_path, part, label, pixels, words):
    x, y = np.zeros((4, 3, 8, 8), np.uint8), np.arange(4 * 64).reshape(4, 8, 8) % 3
    masks = {"train": y.copy(), "test": y.copy()}
    masks[part].flat[:pixels] = label
    for name, values in masks.items():
        np.savez(tmp_path / f"{name}.npz", x=x, y=values)
    if words is None:
        assert read(tmp_path, Targets.PIXELS).classes == 3
        return
    with pytest.raises(UsageError, match=words):
        read(tmp_path, Targets.PIXELS)


def test_pixels_that_do_not_count_are_those_that_the_task_names(tmp_path):
    masks = np.arange(4 * 64).reshape(4, 8, 8) % 3
    masks[0] = -1
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((4, 3, 8, 8), np.uint8), y=masks)
    data = {"name": "table", "data_dir": str(tmp_path)}

    def classes(task):
        return splits_of(built([load_preset("digits"), {"data": data, "task": task, "held_out": 0.0}])).classes

    assert classes("segmentation:ignored=-1") == 3
    with pytest.raises(UsageError, match="column y has the label -1"):
        classes("segmentation")


SHORT = ["--epochs", "2", "--rewind-to", "1", "--steps", "3", "--search-batch-size", "16"]


def test_a_run_on_numbers_says_its_error_by_name(houses, tmp_path, capsys):
    place = ["--preset", "tabular-mlp", "--data-dir", str(houses), "--targets", "price", "--inputs", "size,rooms"]
    found = as_json(capsys, "run", *place, *SHORT, "--out", str(tmp_path / "out"))
    assert found["measure"]["name"] == "mean squared error"
    assert 0 < found["test_mean_squared_error"] < 10
    assert "test_accuracy" not in found
    assert "test mean squared error" in command(capsys, "list", str(tmp_path / "out"))[1]
    _, text, err = command(capsys, "evaluate", found["run_dir"], "--json")
    assert json.loads(text)["mean_squared_error"] == pytest.approx(found["test_mean_squared_error"])
    changed = "these are not the data of the run"
    assert changed not in err
    frame(61).to_csv(houses / "train.csv", index=False)
    assert changed in command(capsys, "evaluate", found["run_dir"], "--json")[2]


def test_several_labels_at_the_command_line(houses, tmp_path, capsys):
    place = ["--preset", "tabular-mlp", "--data-dir", str(houses), "--targets", "lift,cellar", "--inputs", "size,rooms"]
    asked = ["--task", "multi-label", "--finder", "snip", *SHORT[:4], "--out", str(tmp_path / "out")]
    assert 0 <= as_json(capsys, "run", *place, *asked)["test_f1"] <= 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "regresion"], "--task 'regresion' is unknown; allowed are classification, binary, multi-label"),
        (["--task", "binary"], "--task needs one of two classes a sample, and data digits has 10 classes"),
        (["--task", "regression"], "--task needs numbers, and data digits has 10 classes"),
        (["--mixup", "-1"], "--mixup must be a number between 0 and"),
    ],
)
def test_tasks_that_do_not_fit_the_data_are_refused(arguments, words, tmp_path, capsys):
    status, _, said = command(capsys, "run", *arguments, "--out", str(tmp_path / "out"))
    assert status == 2
    assert words in said
    assert not (tmp_path / "out").exists()


def test_the_usual_task_is_left_out_of_names_and_others_are_not():
    from tombola.core.parts import identify

    assert "task" not in identify(built([{"task": "classification"}]))
    assert identify(built([{"task": "binary:metric=f1"}]))["task"]["metric"] == "f1"
