"""Files that are not what was written: never another result, always one sentence."""

import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tombola import Ticket, TombolaError, UsageError
from tombola.cli.main import main
from tombola.cli.runs import read_config
from tombola.core.cost import Cost
from tombola.core.progress import Silent
from tombola.runs import pipeline
from tombola.runs.inventory import clean
from tombola.runs.rundir import DRAWN, FILES, is_whole
from tombola.storage.digests import check_digest
from tombola.storage.store import DiskEntry
from tombola.ticket import Provenance

from .conftest import command, flipped
from .test_pipeline import contents

A = torch.tensor([[True, False, True], [False, False, False]])
QUICK = ["--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--finder", "random"]
QUICK += ["--train-samples", "200", "--threads", "1"]


def ticket():
    z = torch.zeros(4000, dtype=torch.bool)
    z[[7, 100]] = True
    values = {"finder": {"name": "cts", "rate": 1e-05}, "density": 1e-05, "seed": 1, "version": "x"}
    values |= {"architecture": "a", "weights": "w", "cost": Cost(1.5, 10, 20), "warnings": ("é",)}
    return Ticket({"a": A, "z": z}, Provenance(**values))


def says(error):
    text = str(error)
    return "\n" not in text and "damaged" in text


def loads_equal_or_says(path, expected):
    """Load a changed ticket file: the same ticket, or one sentence."""
    try:
        found = Ticket.load(path)
    except UsageError as error:
        return "in words" if says(error) else f"in other words: {error}"
    return "equal" if (found, found.provenance) == (expected, expected.provenance) else "another ticket"


def check_flips(path, bits):
    ticket().save(path)
    before = path.read_bytes()
    for bit in bits if bits is not None else range(8 * len(before)):
        path.write_bytes(flipped(before, bit % (8 * len(before))))
        with pytest.raises(UsageError, match="damaged"):
            Ticket.load(path)


def test_a_flipped_bit_in_a_ticket_file_is_damage(tmp_path):
    check_flips(tmp_path / "t", random.Random(0).sample(range(5600), 300))


@pytest.mark.hard
def test_any_flipped_bit_in_a_ticket_file_is_damage(tmp_path):
    check_flips(tmp_path / "t", None)


def mutated(content, chance):
    """Change some bytes, cut some out, double some, or cut the end off."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                del changed[at : at + chance.randint(1, 20)]
            case 2:
                changed[at:at] = changed[at : at + chance.randint(1, 20)]
            case _:
                changed[at : at + 1] = chance.choice([b"9", b"-", b"[", b'"', b"}", b" ", b"\xff", b"\\u0000"])
        if not changed:
            break
    return bytes(changed)


def check_mutations(path, count):
    expected = ticket()
    expected.save(path)
    before, chance = path.read_bytes(), random.Random(1)
    for _ in range(count):
        path.write_bytes(mutated(before, chance))
        assert loads_equal_or_says(path, expected) in {"equal", "in words"}


def test_mutated_ticket_files(tmp_path):
    check_mutations(tmp_path / "t", 300)


@pytest.mark.hard
def test_thousands_of_mutated_ticket_files(tmp_path):
    check_mutations(tmp_path / "t", 10_000)


def parts(path):
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["tombola"])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def unchecked(path, change):
    """Write a ticket file of format 1, which has no digest, with a changed header or changed tensors."""
    ticket().save(path)
    header, tensors = parts(path)
    del header["digest"]
    header["format"] = 1
    header = change(header, tensors) or header
    save_file(tensors, path, {"tombola": header if isinstance(header, str) else json.dumps(header)})


def test_files_of_format_1_still_load(tmp_path):
    unchecked(tmp_path / "t", lambda header, tensors: None)
    assert loads_equal_or_says(tmp_path / "t", ticket()) == "equal"


def facts(**changes):
    return lambda header, tensors: header["masks"]["z"].update(changes)


def data(tensor, **changes):
    def change(header, tensors):
        tensors["z"] = tensor
        header["masks"]["z"].update(changes)

    return change


def of_provenance(**changes):
    return lambda header, tensors: header["provenance"].update(changes)


INDICES = torch.tensor([7, 100], dtype=torch.int32)
STRANGE = {
    "no masks": lambda h, t: h.pop("masks"),
    "masks empty": lambda h, t: h.update(masks=dict(t.clear() or {})),
    "masks a list": lambda h, t: h.update(masks=[]),
    "a mask a number": lambda h, t: h["masks"].update(z=3),
    "no shape": lambda h, t: h["masks"]["z"].pop("shape"),
    "no kept": lambda h, t: h["masks"]["z"].pop("kept"),
    "no encoding": lambda h, t: h["masks"]["z"].pop("encoding"),
    "format a boolean": lambda h, t: h.update(format=True),
    "format a list": lambda h, t: h.update(format=[1]),
    "negative": facts(shape=[-4000]),
    "two negatives": facts(shape=[-40, -100]),
    "boolean": facts(shape=[4000, True]),
    "null": facts(shape=[None]),
    "no list": facts(shape=4000),
    "float": facts(shape=[4000.0]),
    "text": facts(shape="4000"),
    "many dimensions": facts(shape=[4000, *[1] * 100]),
    "huge": facts(shape=[2**40]),
    "huge, of 64 bits": data(INDICES.long(), shape=[2**40]),
    "huge in parts": facts(shape=[2**20, 2**20]),
    "beyond all": facts(shape=[10**300, 10**300]),
    "hidden by a zero": facts(shape=[0, 2**62], kept=0),
    "kept beyond all": facts(shape=[2**40], kept=10**30),
    "kept true": facts(kept=True),
    "kept negative": facts(kept=-2),
    "encoding a list": facts(encoding=["indices"]),
    "indices float": data(INDICES.float()),
    "indices bf16": data(INDICES.bfloat16()),
    "indices unsigned": data(INDICES.to(torch.uint32)),
    "indices unsigned, falling": data(torch.tensor([100, 7], dtype=torch.uint32)),
    "indices of 64 bits": data(INDICES.long()),
    "indices of 16 bits": data(INDICES.short()),
    "indices bool": data(torch.tensor([True, True])),
    "falling": data(INDICES.flip(0)),
    "twice": data(torch.tensor([7, 7], dtype=torch.int32)),
    "below zero": data(torch.tensor([-7, 100], dtype=torch.int32)),
    "wrapping": data(torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32)),
    "beyond": data(torch.tensor([7, 4000], dtype=torch.int32)),
    "a table": data(INDICES.view(1, 2)),
    "bits of floats": data(torch.zeros(500), encoding="bits"),
    "too few bits": data(torch.zeros(5, dtype=torch.uint8), encoding="bits"),
    "bits over the end": lambda h, t: t.update(a=torch.tensor([0b10100001], dtype=torch.uint8)),
    "header a number": lambda h, t: "3",
    "header a list": lambda h, t: "[]",
    "header no JSON": lambda h, t: "{",
    "header nested": lambda h, t: "[" * 3000 + "]" * 3000,
    "header nested far": lambda h, t: '{"a":' * 100_000,
    "provenance nested": lambda h, t: json.dumps(h).replace('"cts"', "[" * 3000 + "]" * 3000),
    "a name twice": lambda h, t: json.dumps(h).replace('"a": {', '"z": {}, "a": {', 1),
    "half a character": lambda h, t: json.dumps(h).replace("\\u00e9", "\\ud800"),
    "provenance a list": lambda h, t: h.update(provenance=[]),
    "provenance empty": lambda h, t: h.update(provenance={}),
    "no finder": lambda h, t: h["provenance"].pop("finder"),
    "finder a text": of_provenance(finder="cts"),
    "finder nameless": of_provenance(finder={}),
    "density a text": of_provenance(density="x"),
    "density infinite": of_provenance(density=float("inf")),
    "seed a float": of_provenance(seed=1.5),
    "epoch a text": of_provenance(epoch="1"),
    "epoch negative": of_provenance(epoch=-1),
    "cost a list": of_provenance(cost=[1]),
    "cost of something else": of_provenance(cost={"money": 1}),
    "cost a text": of_provenance(cost={"seconds": "1"}),
    "warnings a number": of_provenance(warnings=3),
    "warnings of numbers": of_provenance(warnings=[3]),
    "objective a text": of_provenance(objective="loss"),
}  # fmt: skip


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_headers_that_make_no_sense_are_refused(tmp_path, capsys, change):
    path = tmp_path / "t.safetensors"
    unchecked(path, change)
    with pytest.raises(UsageError) as caught:
        Ticket.load(path)
    assert says(caught.value)
    assert main(["info", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_header_of_another_ticket_does_not_pass(tmp_path):
    """Digests cover the header too, and a header that claims the older format does not get around them."""
    path = tmp_path / "t"
    ticket().save(path)
    header, tensors = parts(path)
    for change in ({"provenance": None}, {"format": 1}, {"digest": "0" * 64}, {"digest": 3}):
        save_file(tensors, path, {"tombola": json.dumps(header | change)})
        with pytest.raises(UsageError, match="damaged"):
            Ticket.load(path)
    tensors["z"][0] += 1
    save_file(tensors, path, {"tombola": json.dumps(header)})
    with pytest.raises(UsageError, match="its content is not what its digest says"):
        Ticket.load(path)


def test_a_ticket_without_masks_is_not_written(tmp_path):
    with pytest.raises(UsageError, match="has no mask"):
        Ticket({}).save(tmp_path / "t")


def fails(capsys, *arguments):
    status, out, err = command(capsys, *arguments)
    last = err.splitlines()[-1]
    assert status in {1, 2}, (arguments, out, err)
    assert last.startswith(f"tombola {arguments[0]}: ")
    assert "Traceback" not in err
    return last


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    out = tmp_path_factory.mktemp("original")
    assert main(["run", *QUICK, "--out", str(out)]) == 0
    return out


@pytest.fixture
def out(original, tmp_path):
    return shutil.copytree(original, tmp_path / "out")


def run_in(out):
    (found,) = (path for path in out.iterdir() if not path.name.startswith("."))
    return found


def commands_that_read(directory):
    """Return a command for each file of a run directory that some command reads."""
    plain = directory.parent / "plain.safetensors"
    return {
        "ticket.safetensors": [["info", directory], ["evaluate", directory], ["export", directory, "--out", plain]],
        "weights.safetensors": [["evaluate", directory], ["export", directory, "--out", plain]],
        "start.safetensors": [["train", directory, "--out", directory.parent / "trained"]],
        "scores.safetensors": [["audit", directory, "--seeds", "1"]],
        "config.yaml": [["evaluate", directory], ["train", directory], ["audit", directory]],
        "result.json": [["info", directory]],
    }


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_file_of_a_run_is_named_and_made_again(capsys, original, out, name):
    directory = run_in(out)
    path = directory / name
    before, expected = path.read_bytes(), contents(run_in(original))
    path.write_bytes(flipped(before, 8 * len(before) // 2))
    for arguments in commands_that_read(directory).get(name, ()):
        said = fails(capsys, *arguments)
        assert str(path) in said
        assert "damaged" in said or name == "config.yaml"
    assert not (out / "plain.safetensors").exists()
    status, _, err = command(capsys, "run", *QUICK, "--out", out)
    assert status == 0
    assert f"{name} missing or damaged; made again" in err
    assert contents(directory) == expected
    assert "finished already" in command(capsys, "run", *QUICK, "--out", out)[1]


@pytest.mark.parametrize("damage", [b"", None, "half", "other"])
def test_weights_that_are_empty_gone_halved_or_of_another_network(capsys, original, out, damage):
    directory = run_in(out)
    path = directory / "weights.safetensors"
    before = path.read_bytes()
    if damage is None:
        path.unlink()
    elif damage == "other":
        shutil.copy(directory / "start.safetensors", path)
    else:
        path.write_bytes(before[: len(before) // 2] if damage == "half" else damage)
    fails(capsys, "evaluate", directory)
    status, text, _ = command(capsys, "run", *QUICK, "--out", out, "--json")
    assert (status, json.loads(text)["repeated"]) == (0, False)
    assert path.read_bytes() == before


def test_without_the_list_of_digests_a_run_is_not_finished(capsys, original, out):
    directory = run_in(out)
    for content in (None, b"", b"[]", b'{"weights.safetensors": 3}', b"\xff"):
        (directory / "digests.json").unlink() if content is None else (directory / "digests.json").write_bytes(content)
        if content is not None:
            assert "digests.json is damaged" in fails(capsys, "evaluate", directory)
        assert not is_whole(directory, FILES)
        assert command(capsys, "run", *QUICK, "--out", out)[0] == 0
        assert is_whole(directory, FILES)
        assert contents(directory) == contents(run_in(original))


def test_a_crash_between_a_file_and_its_digest_is_not_believed(capsys, original, out):
    directory = run_in(out)
    path = directory / "digests.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights.safetensors": None}))
    with pytest.raises(UsageError, match="is not finished"):
        check_digest(directory / "weights.safetensors")
    assert is_whole(directory, DRAWN)
    assert not is_whole(directory, FILES)
    fails(capsys, "evaluate", directory)


def artefacts(out):
    # A lease that says nothing is held until it expires: whoever takes it may be about to write it.
    return sorted(path for path in (out / ".store").rglob("*") if path.is_file() and ".leases" not in path.parts)


def test_no_damage_in_the_store_becomes_a_result(capsys, original, tmp_path):
    """Every file of the store in turn: a sentence that names it, or the same result."""
    expected = contents(run_in(original))
    for number, found in enumerate(artefacts(original)):
        out = shutil.copytree(original, tmp_path / str(number))
        path = out / found.relative_to(original)
        content = path.read_bytes()
        path.write_bytes(flipped(content, 8 * len(content) // 2))
        directory = run_in(out)
        (directory / "weights.safetensors").unlink()
        status, _, err = command(capsys, "run", *QUICK, "--out", out)
        if status:
            assert path.parent.name in err.splitlines()[-1]
            assert "Traceback" not in err
        else:
            assert contents(directory) == expected


@pytest.mark.parametrize("content", ["3", "other", "torn", "junk", ""])
def test_what_is_no_artefact_is_refused(capsys, out, content):
    (path,) = (out / ".store").glob("train-*/trained.pt")
    whole = path.read_bytes()
    if content == "3":
        torch.save(3, path)
    elif content == "other":
        shutil.copy(next((out / ".store").glob("dense-*/epoch-1.pt")), path)
    else:
        path.write_bytes({"torn": whole[:-100], "junk": b"junk", "": b""}[content])
    (run_in(out) / "weights.safetensors").unlink()
    assert f"{path} is damaged" in fails(capsys, "run", *QUICK, "--out", out)
    path.unlink()
    assert command(capsys, "run", *QUICK, "--out", out)[0] == 0, "as the sentence says"


JUNK = {
    "empty": b"", "list": b"[]", "object": b"{}", "number": b"3", "junk": b"\x00junk", "not UTF-8": b"a: \xff\xfe",
    "self-referring": b"epochs: &a [*a]", "whole self": b"&a {data: *a}", "of wrong types": b"epochs: [x]\nmodel: 3\n",
    "lists of lists": b"milestones: [[1]]\n", "keys of numbers": b"1: 2\n", "a date": b"seed: 2000-99-99\n",
    "laughs": b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(
        b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(ord("b"), ord("l"))
    ),
    "nested": b"[" * 400,
}  # fmt: skip


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("vouched", [True, False])
def test_junk_in_a_run_directory_is_one_sentence(capsys, out, content, vouched):
    directory = run_in(out)
    for name, commands in commands_that_read(directory).items():
        before = (directory / name).read_bytes()
        (directory / name).write_bytes(content)
        if not vouched:
            (directory / "digests.json").rename(out / "aside")
        for arguments in commands:
            status, _, err = command(capsys, *arguments)
            # An empty result is one without figures.
            assert status == 2 or (status == 0 and not vouched and name == "result.json"), (arguments, err)
            assert err.count("\n") <= 1
        if not vouched:
            (out / "aside").rename(directory / "digests.json")
        (directory / name).write_bytes(before)


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_junk_as_a_configuration_is_one_sentence(capsys, tmp_path, content):
    if content == b"{}":
        return  # which is none, but no junk
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    status, _, err = command(capsys, "run", *QUICK[:2], "--config", path, "--out", tmp_path / "out")
    assert (status, err.count("\n")) == (2, 1), err


@pytest.mark.parametrize("value", [3, [1], {1: 2}, {"fc1.weight": 3}, None, "x"])
def test_weights_that_are_no_state_dict(capsys, out, tmp_path, value):
    path = tmp_path / "w.pt"
    torch.save(value, path)
    for name in ("evaluate", "train", "export"):
        assert str(path) in fails(capsys, name, run_in(out), "--weights", path)
    path.write_bytes(path.read_bytes()[:-30])
    assert str(path) in fails(capsys, "evaluate", run_in(out), "--weights", path)


def test_weights_of_kinds_that_a_model_does_not_take(capsys, out, tmp_path):
    sparse = load_file(run_in(out) / "weights.safetensors")
    sparse["fc1.weight"] = sparse["fc1.weight"].to_sparse()
    torch.save(sparse, tmp_path / "w.pt")
    for name in ("evaluate", "export"):
        status, _, err = command(capsys, name, run_in(out), "--weights", tmp_path / "w.pt", *extra(name, tmp_path))
        assert status == 0 or err.count("\n") == 1


def extra(name, tmp_path):
    return ("--out", tmp_path / "plain.safetensors") if name == "export" else ()


def check_fuzzed(capsys, original, tmp_path, count):
    """Change files of a run and its store at random: every command ends in the same values, or in a sentence."""
    chance = random.Random(2)
    expected = contents(run_in(original))
    config = read_config(run_in(original))
    for number in range(count):
        out = shutil.copytree(original, tmp_path / str(number))
        directory = run_in(out)
        paths = [path for path in sorted(directory.iterdir()) if path.is_file()] + artefacts(out)
        for path in chance.sample(paths, chance.randint(1, 3)):
            path.write_bytes(mutated(path.read_bytes() or b" ", chance))
        for name in ("info", "evaluate", "export"):
            status, _, err = command(capsys, name, directory, *extra(name, out))
            assert status in {0, 1, 2}
            assert "Traceback" not in err
        with suppress(TombolaError):
            pipeline.run(config, out, Silent())
            assert contents(directory) == expected
        shutil.rmtree(out)


def test_a_fuzzed_run_directory(capsys, original, tmp_path):
    check_fuzzed(capsys, original, tmp_path, 8)


@pytest.mark.hard
@pytest.mark.timeout(900)
def test_many_fuzzed_run_directories(capsys, original, tmp_path):
    check_fuzzed(capsys, original, tmp_path, 100)


class Dead(BaseException):
    """What a killed process does from then on: nothing, not even tidy up."""


def dying(monkeypatch, after):
    """Let this process die at its `after`th change of the disk; return the count of those made."""
    made = [0]

    def mortal(original):
        def change(*arguments, **options):
            made[0] += 1
            if made[0] >= after:
                raise Dead
            return original(*arguments, **options)

        return change

    def record(entry, row):
        if made[0] + 1 >= after and entry.directory.is_dir():
            with (entry.directory / "metrics.jsonl").open("a") as file:
                file.write('{"torn": ')
        mortal_record(entry, row)

    mortal_record = mortal(DiskEntry.record)
    for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "link"), (os, "fsync"), (os, "truncate")):
        monkeypatch.setattr(owner, name, mortal(getattr(owner, name)))
    monkeypatch.setattr(DiskEntry, "record", record)
    return made


def check_deaths(original, tmp_path, monkeypatch, share):
    """Die at some of all moments at which a run changes the disk, go on, and end in the same bits."""
    expected, config = contents(run_in(original)), read_config(run_in(original))
    with monkeypatch.context() as patch:
        made = dying(patch, after=10**9)
        pipeline.run(config, tmp_path / "whole", Silent(), checkpoint_seconds=0)
    assert made[0] > 50
    for after in range(1, made[0] + 1, share):
        out = tmp_path / str(after)
        with monkeypatch.context() as patch, suppress(Dead):
            dying(patch, after)
            pipeline.run(config, out, Silent(), checkpoint_seconds=0)
        found = pipeline.run(config, out, Silent()).directory
        assert contents(found) == expected
        with monkeypatch.context() as patch:
            patch.setattr("tombola.storage.files.is_running", lambda process: False)
            clean(out)
        assert not list(out.rglob("*.partial")), "what was left is swept away"
        shutil.rmtree(out)


def test_a_death_at_some_writes_loses_nothing(original, tmp_path, monkeypatch):
    check_deaths(original, tmp_path, monkeypatch, 23)


@pytest.mark.hard
@pytest.mark.timeout(900)
def test_a_death_at_many_writes_loses_nothing(original, tmp_path, monkeypatch):
    check_deaths(original, tmp_path, monkeypatch, 3)
