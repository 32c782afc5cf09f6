"""Texts: made tokens, padded by length, in batches of about one length; models that take them."""

import json
import shutil

import pytest
import torch

from tombola.data import Targets, load
from tombola.data.sources import DATASETS
from tombola.data.texts import Texts, Vocabulary, joined
from tombola.errors import UsageError
from tombola.networks.models import MODELS, build

from .conftest import as_json, command

pytest.importorskip("tokenizers")

GOOD, BAD = ("a fine and moving film", "great fun"), ("a dull mess of a film , far too long", "poor")


def write(folder, count=40, text="sentence"):
    lines = [f"{number % 2}\t{(GOOD if number % 2 else BAD)[number // 2 % 2]} {number % 7}" for number in range(count)]
    for part in ("train", "test"):
        (folder / f"{part}.tsv").write_text("\n".join([f"label\t{text}", *lines]) + "\n")
    return folder


def read(folder, held_out=0.0, wanted=Targets.CLASSES, **options):
    source = {"name": "text", "data_dir": str(folder), "vocabulary": 300, **options}
    return load(DATASETS.read(source), held_out, targets=wanted)


def texts(lengths):
    tokens, ends = joined([[10 + row] * length for row, length in enumerate(lengths)])
    return Texts(tokens, None, ends, torch.arange(len(lengths)), Vocabulary(100, 8, 0))


def test_padding_by_hand():
    found = texts([2, 3, 1]).padded([2, 1])
    assert found["input_ids"].tolist() == [[12, 0, 0], [11, 11, 11]]
    assert found["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert texts([2, 3, 1]).take(torch.tensor([2, 0])).padded([0, 1])["input_ids"].tolist() == [[12, 0], [10, 10]]


def test_batches_hold_texts_of_about_one_length_each_text_once_and_follow_the_seed():
    lengths = torch.randint(1, 9, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    feed = texts(lengths).feed(16, 3, "training")
    keys = [item.key for item in feed.epoch(1)]
    assert sorted(torch.cat(keys).tolist()) == list(range(200))
    assert (len(keys), {len(key) for key in keys[:-1]}, len(keys[-1])) == (13, {16}, 8)
    spans = [max(lengths[row] for row in key.tolist()) - min(lengths[row] for row in key.tolist()) for key in keys]
    assert max(spans) <= 1
    assert [key.tolist() for key in keys] != [key.tolist() for key in (item.key for item in feed.epoch(2))]
    again = [item.key for item in texts(lengths).feed(16, 3, "training").epoch(1, skip=5)]
    assert all(torch.equal(one, two) for one, two in zip(keys[5:], again, strict=True))
    longest = [max(lengths[row] for row in key.tolist()) for key in keys[:-1]]
    assert longest != sorted(longest), "short ones first would be no shuffle"


def test_texts_become_tokens_with_a_beginning_and_an_end(tmp_path):
    found = read(write(tmp_path), 0.1)
    inputs, labels = next(iter(found.train.feed(4, 0, "x", shuffle=False).epoch(0))).batch
    assert (found.classes, len(found.held_out), found.shape[0]) == (2, 4, 128)
    assert labels.tolist() == [0, 1, 0, 1]
    assert (inputs["input_ids"][:, 0] == 2).all(), "[CLS]"
    lengths = inputs["attention_mask"].sum(dim=1)
    assert all(int(inputs["input_ids"][row, int(length) - 1]) == 3 for row, length in enumerate(lengths)), "[SEP]"
    assert read(tmp_path, 0.1).fingerprint == found.fingerprint
    write(tmp_path, 42)
    assert read(tmp_path, 0.1).fingerprint != found.fingerprint


def test_pairs_know_which_text_a_token_is_of(tmp_path):
    rows = [{"one": "great fun", "two": "a film", "y": 1}, {"one": "poor", "two": "fun", "y": 0}] * 4
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs, _ = next(iter(read(tmp_path, texts=["one", "two"]).test.feed(8, 0, "x", shuffle=False).epoch(0))).batch
    assert inputs["token_type_ids"].sum() > 0
    assert ((inputs["token_type_ids"] == 1) <= (inputs["attention_mask"] == 1)).all()


def test_a_tokenizer_of_a_folder(tmp_path):
    from tombola.data import tokenising

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenising.trained(["great fun film"] * 3, 270).save(str(folder / "tokenizer.json"))
    found = read(write(tmp_path), tokenizer=str(folder))
    assert 260 < found.shape[1] <= 270
    with pytest.raises(UsageError, match=r"must be a tokenizer.json, or a folder with one, got "):
        read(tmp_path, tokenizer=str(tmp_path / "none"))


@pytest.mark.parametrize(("columns", "least"), [(["sentence"], 2), (["sentence", "other"], 3)])
def test_a_limit_below_the_tokens_that_each_text_gets_is_refused(tmp_path, columns, least):
    for part in ("train", "test"):
        rows = [f"{row % 2}\tgreat fun\ta film" for row in range(10)]
        (tmp_path / f"{part}.tsv").write_text("\n".join(["label\tsentence\tother", *rows]))
    for limit in range(1, least):
        with pytest.raises(UsageError, match=f"max_tokens must be at least {least}, .*, got {limit}"):
            read(tmp_path, texts=columns, max_tokens=limit)
    inputs, _ = next(iter(read(tmp_path, texts=columns, max_tokens=least).test.feed(8, 0, "x").epoch(0))).batch
    assert inputs["input_ids"].shape[1] == least


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"text": "words"}, {}, "must name one column, or the two of pairs, of those of .*: label, words"),
        ({}, {"texts": ["sentense"]}, "has no column sentense, .*did you mean sentence"),
        ({}, {"max_tokens": 0}, "must be a whole number of at least 1"),
        ({}, {"targets": ["sentence"]}, None),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, change, options, words):
    write(tmp_path, **change)
    if words is None:
        assert read(tmp_path, **options).classes == 28, "texts are classes too"
        return
    with pytest.raises(UsageError, match=words):
        read(tmp_path, **options)


def test_a_gap_among_labels_that_are_numbers_is_named(tmp_path):
    labels = ["0.0", "1.0"] * 20
    labels[25] = "NaN"
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *(f"great fun,{each}" for each in labels)]))
    with pytest.raises(UsageError, match=r"train.csv: column label has no value in row 26; fill the gaps first"):
        read(tmp_path)


TINY = "hf:bert:layers=1:width=16:heads=2"


def test_a_model_from_a_kind_a_configuration_and_a_folder_with_weights(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = build(TINY, (12, 60), 3)
    assert model.config.vocab_size == 60
    assert sum(p.numel() for p in model.bert.encoder.layer[0].intermediate.parameters()) == 16 * 64 + 64
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=70
    )
    config.save_pretrained(tmp_path / "plain")
    assert build(f"hf:{tmp_path / 'plain'}", (12, 60), 3).config.intermediate_size == 32
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "full")
    torch.manual_seed(0)
    first = build(f"hf:{tmp_path / 'full'}", (12, 60), 2)
    torch.manual_seed(1)
    second = build(f"hf:{tmp_path / 'full'}", (12, 60), 2)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same), "the weights of the folder"
    (tmp_path / "old").mkdir()
    shutil.copy(tmp_path / "full" / "config.json", tmp_path / "old")
    torch.save(first.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    old = build(f"hf:{tmp_path / 'old'}", (12, 60), 2).state_dict()
    assert all(torch.equal(old[name], value) for name, value in first.state_dict().items())
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "old" / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UsageError, match="old cannot be built: "):
            build(f"hf:{tmp_path / 'old'}", (12, 60), 2)
    for name, shape, words in (
        ("hf:bort", (12, 60), "a kind of model such as bert, got 'bort'; did you mean bert"),
        (TINY, (3, 8, 8), "takes texts"),
        (TINY, (1000, 60), "must be at most 512 for hf:bert, got 1000"),
        (f"hf:{tmp_path / 'full'}", (12, 99), "has 99 tokens, and .* knows 70"),
        (f"hf:{tmp_path / 'full'}:layers=2", (12, 60), "cannot be changed"),
    ):
        with pytest.raises(UsageError, match=words):
            MODELS.read(name).build(shape, 2)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
CONFIGURATIONS = {
    "bert": {**SMALL, "intermediate_size": 32},
    "opt": {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "llama": {**SMALL, "intermediate_size": 32},
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "summary_type": "first"},
}


def configured(folder, kind, **changes):
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **CONFIGURATIONS[kind], **changes}))
    return f"hf:{folder / 'config.json'}"


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_outputs_for_a_text_do_not_depend_on_how_it_is_padded(kind, tmp_path):
    pytest.importorskip("transformers")
    found = read(write(tmp_path))
    model = build(configured(tmp_path, kind), (20, found.shape[1]), 2, found.padding).eval()
    inputs, _ = next(iter(found.test.feed(8, 0, "x", shuffle=False).epoch(0))).batch
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    assert len(set(lengths)) > 1
    with torch.no_grad():
        padded = model(**inputs).logits
        for row, length in enumerate(lengths):
            alone = model(**{name: values[row : row + 1, :length] for name, values in inputs.items()}).logits
            assert torch.allclose(padded[row], alone[0], atol=1e-6)


def test_bert_is_the_same_with_its_own_padding_named():
    pytest.importorskip("transformers")
    models = []
    for padding in (None, 0):
        torch.manual_seed(0)
        models.append(build(TINY, (12, 60), 2, padding))
    assert all(torch.equal(a, b) for a, b in zip(*(each.parameters() for each in models), strict=True))


def test_weights_keep_their_padding_or_get_that_of_the_data(tmp_path):
    transformers = pytest.importorskip("transformers")
    for kind in ("opt", "gpt2"):
        (tmp_path / kind).mkdir()
        model = build(configured(tmp_path, kind), (20, 60), 2)
        model.save_pretrained(tmp_path / kind)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "gpt2").pad_token_id is None
    assert build(f"hf:{tmp_path / 'gpt2'}", (20, 60), 2, 5).config.pad_token_id == 5
    assert build(f"hf:{tmp_path / 'opt'}", (20, 60), 2, 1).config.pad_token_id == 1
    with pytest.raises(UsageError, match=r"tokenizer has 0 as the token that pads, and hf:.* has 1; give"):
        build(f"hf:{tmp_path / 'opt'}", (20, 60), 2, 0)


def test_a_model_that_reads_the_last_place_is_refused():
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match="hf:xlnet reads the last place of a text, which may be padding"):
        build("hf:xlnet", (12, 60), 2)


def test_a_run_on_texts_is_repeated_to_the_bit(tmp_path, capsys):
    pytest.importorskip("transformers")
    place = ["--preset", "sst2-transformer", "--data-dir", str(write(tmp_path)), "--vocabulary", "300"]
    short = ["--model", TINY, "--epochs", "2", "--steps", "3", "--search-batch-size", "8", "--batch-size", "8"]
    first = as_json(capsys, "run", *place, *short, "--density", "0.3", "--out", str(tmp_path / "one"))
    second = as_json(capsys, "run", *place, *short, "--density", "0.3", "--out", str(tmp_path / "two"))
    assert first["test_loss"] == second["test_loss"]
    assert 0 <= first["test_accuracy"] <= 100
    assert not any("embeddings" in name for name in first["kept_by_layer"])


def test_the_task_of_texts_is_for_texts(tmp_path, capsys):
    status, _, said = command(capsys, "run", "--task", "text", "--out", str(tmp_path / "out"))
    assert (status, "text needs texts as data, such as --data text" in said) == (2, True)
