"""Networks in files: what is written is what is read, and whatever is damaged is refused in one sentence."""

import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tombola import Ticket, TombolaError, UsageError
from tombola.cli import export
from tombola.cli.main import main
from tombola.networks.models import build, read_weights
from tombola.ticket import pruned_state
from tombola.ticket.bits import Bits
from tombola.ticket.formats import FORMATS, Subject, checks, compacted, load_network, masked, onnx
from tombola.ticket.sealed import seal, unseal

from .conftest import TinyConv


@st.composite
def masks(draw):
    """Masks with long gaps, without any kept weight, and with all of them."""
    size = draw(st.integers(1, 3000))
    kept = draw(st.sets(st.integers(0, size - 1), max_size=8) | st.just(set(range(size))))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[sorted(kept)] = True
    return mask


@given(masks())
def test_gaps_are_the_mask_and_never_larger_than_its_bits(mask):
    bits = Bits.of(mask)
    encoding, data = masked.as_gaps_or_bits(bits)
    assert data.numel() <= bits.packed.nbytes
    assert torch.equal(masked._decoded("file", "w", encoding, data, (len(mask),)).unpack(), mask)


def test_gaps_by_hand():
    mask = torch.zeros(10_000, dtype=torch.bool)
    mask[[0, 1, 257, 512, 1023]] = True
    encoding, data = masked.as_gaps_or_bits(Bits.of(mask))
    assert (encoding, data.tolist()) == ("gaps", [0, 0, 255, 0, 254, 255, 255, 0])


class Tied(nn.Module):
    """Two layers of one weight, a buffer of whole numbers, and a bias in half precision."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.one.bias = nn.Parameter(torch.randn(6).bfloat16())
        self.register_buffer("count", torch.tensor(3))


def tied():
    torch.manual_seed(0)
    state = Tied().state_dict()
    ticket = Ticket({"one.weight": torch.rand(6, 6) < 0.3})
    return Subject(ticket, pruned_state(ticket, state))


@pytest.mark.parametrize("name", ["sparse", "tombola"])
def test_a_network_of_tied_weights_is_read_as_it_was_written(name, tmp_path):
    subject, path = tied(), tmp_path / f"n{FORMATS[name].endings[0]}"
    FORMATS[name].write(path, subject)
    ticket, state = load_network(str(path))
    assert ticket == subject.ticket
    assert state.keys() == subject.state.keys()
    assert all(
        torch.equal(state[key], value) and state[key].dtype == value.dtype for key, value in subject.state.items()
    )
    assert "values:two.weight" not in load_file(path)


def test_the_sparse_file_is_plain_values_and_indices(tmp_path):
    subject = tied()
    FORMATS["sparse"].write(tmp_path / "n.safetensors", subject)
    found = load_file(tmp_path / "n.safetensors")
    dense = torch.zeros(36)
    dense[found["mask:one.weight"].long()] = found["values:one.weight"]
    assert torch.equal(dense.view(6, 6), subject.state["one.weight"])


def test_the_smaller_file_is_the_tickets(tmp_path):
    torch.manual_seed(0)
    model = build("lenet-300-100", (1, 8, 8), 10)
    ticket = Ticket({f"fc{n}.weight": torch.rand(model.get_parameter(f"fc{n}.weight").shape) < 0.02 for n in (1, 2, 3)})
    subject = Subject(ticket, pruned_state(ticket, model.state_dict()))
    sizes = []
    for name in ("tombola", "sparse", "plain"):
        path = tmp_path / f"n{FORMATS[name].endings[0]}"
        FORMATS[name].write(path, subject)
        sizes.append(path.stat().st_size)
    assert sizes[0] < 0.8 * sizes[1] < 0.05 * sizes[2]


def test_any_changed_byte_is_damage(tmp_path):
    path = tmp_path / "n.tombola"
    FORMATS["tombola"].write(path, tied())
    whole, chance = path.read_bytes(), random.Random(0)
    for place in [*chance.sample(range(len(whole)), 300), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(UsageError, match=r"n\.tombola"):
            load_network(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(UsageError, match=r"not a network file, or damaged"):
        load_network(path)


def changed(header, tensors, what):
    mask = header["masks"]["one.weight"]
    if what == "version":
        header["network"] = 2
    elif what == "no masks":
        header["masks"] = []
    elif what == "shape":
        mask["shape"] = [2**40, 2**40]
    elif what == "values":
        tensors["values:one.weight"] = tensors["values:one.weight"][1:]
    elif what == "lacks":
        del tensors["mask:one.weight"]
    elif what == "entry":
        del mask["entry"]
    elif what == "tied":
        header["tied"] = {"two.weight": "none"}
    elif what == "encoding":
        mask["encoding"] = "dots"
    elif what == "gaps":
        mask["encoding"], tensors["mask:one.weight"] = "gaps", torch.tensor([3, 255], dtype=torch.uint8)
    elif what == "too far":
        mask["encoding"], tensors["mask:one.weight"] = "gaps", torch.tensor([3, 40], dtype=torch.uint8)


DAMAGE = {
    "version": "holds no network in format 1",
    "no masks": "its header has no masks",
    "shape": "damaged or too large",
    "values": "must have 14 values",
    "lacks": "lacks the values or the mask of one.weight",
    "entry": "lacks the values or the mask of one.weight",
    "tied": "ties weights to others that it lacks",
    "encoding": "known are bits and indices",
    "gaps": "has gaps that are no bytes, or end too early",
    "too far": "not below 36",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_header_that_says_something_else_is_refused(what, tmp_path):
    path = tmp_path / "n.tombola"
    FORMATS["tombola"].write(path, tied())
    text, tensors = unseal(path, "network")
    header = json.loads(text)
    changed(header, tensors, what)
    del header["digest"]
    path.write_bytes(seal(header, tensors))
    with pytest.raises(UsageError, match=DAMAGE[what]):
        load_network(path)


def test_what_is_no_network_file_is_refused(tmp_path):
    tied().ticket.save(tmp_path / "t.safetensors")
    with pytest.raises(UsageError, match="holds no network in format 1"):
        load_network(tmp_path / "t.safetensors")
    with pytest.raises(UsageError, match="there is no network file"):
        load_network(tmp_path / "none")
    with pytest.raises(UsageError, match="extra in the state_dict is no tensor"):
        FORMATS["sparse"].write(tmp_path / "n", Subject(tied().ticket, {**tied().state, "extra": 3}))


# The command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a sparse ticket, with dead units."""
    out = tmp_path_factory.mktemp("export")
    quick = ["--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--threads", "1"]
    assert main(["run", *quick, "--finder", "random", "--density", "0.01", "--out", str(out)]) == 0
    return next(path for path in out.iterdir() if path.name != ".store")


def network_of(run):
    """The masked network of a run, by hand."""
    model = build("lenet-300-100", (1, 8, 8), 10).eval()
    model.load_state_dict(read_weights(run / "weights.safetensors"))
    return Ticket.load(run / "ticket.safetensors").apply_(model)


def test_the_help_lists_the_formats_there_are():
    assert list(export.FORMATS) == list(FORMATS)
    assert {name for name, each in FORMATS.items() if each.needs_model} == set(export.NEED_MODEL)


@pytest.mark.parametrize("name", FORMATS)
@torch.no_grad()
def test_every_format_is_written_and_holds_the_network(name, capsys, finished, tmp_path):
    path = tmp_path / FORMATS[name].default
    assert main(["export", str(finished), "--format", name, "--out", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: ")
    assert f"{path.stat().st_size / 1000:.3g} kB" in out
    model, x = network_of(finished), torch.randn(5, 1, 8, 8)
    if name == "compacted":
        program = torch.export.load(path)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)
        assert sum(each.numel() for each in program.state_dict.values()) < 20_000
    elif name == "onnx":
        torch.testing.assert_close(onnx.Session(path.read_bytes(), 1)(x), model(x), rtol=1e-4, atol=1e-4)
    else:
        state = read_weights(path) if name == "plain" else load_network(path)[1]
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    if name == "tombola":
        with pytest.raises(UsageError, match="holds a network and not its ticket alone: tombola evaluate reads it"):
            Ticket.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "zip"], "--format 'zip' is unknown; allowed are plain, sparse, tombola, compacted, onnx"),
        (["--format", "onxx"], "compacted, onnx; did you mean onnx?"),
        (["--format", "sparse", "--out", "x.pt"], "--out must end in .safetensors for the format sparse, got x.pt"),
        (["--format", "tombola", "--out", "none/x.tombola"], "cannot write none/x.tombola: none is not a directory"),
        (["--format", "compacted", "--model", "resnet20"], "weights.safetensors lacks conv.weight"),
        (["--model", "vgg16"], "--model is not an option"),
        (["--format"], "expected one argument"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(arguments, message, capsys, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(finished), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tombola", "sparse"])
def test_an_export_is_evaluated_by_the_weights_that_it_holds(name, capsys, finished, tmp_path):
    path = tmp_path / FORMATS[name].default
    assert main(["export", str(finished), "--format", name, "--out", str(path)]) == 0
    capsys.readouterr()
    found = []
    for ticket in (finished, path):
        assert main(["evaluate", str(ticket), "--preset", "digits", "--threads", "1", "--json"]) == 0
        found.append({**json.loads(capsys.readouterr().out), "ticket": ""})
    assert found[0] == found[1]
    assert main(["evaluate", str(path), "--preset", "digits", "--model", "resnet20", "--threads", "1"]) == 2
    assert f"{path} lacks " in capsys.readouterr().err


def test_what_is_exported_of_an_averaged_model_is_evaluated(capsys, finished, tmp_path):
    averaged = AveragedModel(network_of(finished))
    torch.save(averaged.state_dict(), tmp_path / "averaged.pt")
    asked = ["evaluate", str(finished / "ticket.safetensors"), "--preset", "digits", "--threads", "1", "--json"]
    found = []
    for weights in ("averaged.pt", "plain.pt"):
        assert main([*asked, "--weights", str(tmp_path / weights)]) == 0
        found.append({**json.loads(capsys.readouterr().out), "weights": ""})
        given = ["--weights", str(tmp_path / "averaged.pt"), "--out", str(tmp_path / "plain.pt")]
        assert main(["export", str(finished), *given]) == 0
        capsys.readouterr()
    assert found[0] == found[1]


def test_without_the_extra_onnx_says_what_to_install(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert main(["export", str(finished), "--format", "onnx", "--out", str(tmp_path / "n.onnx")]) == 2
    assert "ONNX needs onnxscript: install tombola[onnx]" in capsys.readouterr().err


class Opaque(nn.Module):
    """A network in which nobody can follow the channels."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x.flip(1))


def test_a_network_that_cannot_be_compacted_is_exported_as_it_is_or_not_at_all(tmp_path):
    model = Opaque().eval()
    ticket = Ticket({"fc.weight": torch.eye(4) > 0})
    subject = Subject(ticket, ticket.apply_(model).state_dict(), model, torch.randn(2, 4))
    words = FORMATS["onnx"].write(tmp_path / "n.onnx", subject)
    assert "not compacted (the model cannot be compacted: what flip does to channels is not known)" in words
    with pytest.raises(UsageError, match="what flip does"):
        FORMATS["compacted"].write(tmp_path / "n.pt2", subject)
    with pytest.raises(UsageError, match="format needs the network"):
        FORMATS["onnx"].write(tmp_path / "m.onnx", Subject(ticket, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]


class Branching(nn.Module):
    """A network whose way depends on its input."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x * 2) if x.sum() > 0 else self.fc(x)


def test_a_network_that_cannot_be_traced_is_refused_in_one_plain_sentence(tmp_path, capfd):
    model = Branching().eval()
    ticket = Ticket({"fc.weight": torch.eye(4) > 0})
    subject = Subject(ticket, ticket.apply_(model).state_dict(), model, torch.randn(2, 4))
    for cannot, write in (
        ("PyTorch cannot export the model to ONNX", lambda: FORMATS["onnx"].write(tmp_path / "n.onnx", subject)),
        ("torch.export cannot export the model", lambda: compacted.exported(*subject.network())),
    ):
        with pytest.raises(UsageError, match=rf"{cannot} \(\w+: Could not guard on data-dependent") as refused:
            write()
        assert len(str(refused.value)) < 200
        assert str(refused.value).isprintable()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not list(tmp_path.iterdir())


class TwoHeads(nn.Module):
    """A network with two outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.one, self.other = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, x):
        hidden = self.body(x).relu()
        return self.one(hidden), self.other(hidden)


@pytest.mark.parametrize("name", ["compacted", "onnx"])
def test_of_several_outputs_all_are_compared(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = TwoHeads().eval()
    ticket = Ticket({"body.weight": torch.rand(16, 6) < 0.3})
    subject = Subject(ticket, ticket.apply_(model).state_dict(), model, torch.randn(2, 6))
    path = tmp_path / f"n{FORMATS[name].endings[0]}"
    FORMATS[name].write(path, subject)
    wanted, inputs = ticket.apply_(model)(torch.ones(5, 6)), torch.ones(5, 6)
    run = torch.export.load(path).module() if name == "compacted" else onnx.Session(path.read_bytes(), 1)
    torch.testing.assert_close(tuple(run(inputs)), wanted, rtol=1e-4, atol=1e-5)
    assert not checks.agrees(model, inputs, lambda batch: (model(batch)[0], 1 + model(batch)[1]))


def test_outputs_that_are_no_real_numbers_are_the_same_and_none_at_all_agree_with_nothing():
    class Signs(nn.Module):
        def forward(self, x):
            return x, x > 0

    inputs = torch.tensor([[1.0, -2.0]])
    assert checks.agrees(Signs(), inputs, lambda batch: (batch, batch > 0))
    assert not checks.agrees(Signs(), inputs, lambda batch: (batch, batch < 0))
    assert not checks.agrees(nn.Identity(), inputs, lambda batch: object())


def test_what_onnxruntime_cannot_run_is_one_sentence():
    model, example = nn.Sequential(nn.Linear(4, 3)).bfloat16(), torch.randn(2, 4).bfloat16()
    with pytest.raises(UsageError, match=r"onnxruntime cannot run the model \(NotImplemented: "):
        onnx.Session(onnx.onnx_bytes(model, example), 1)
    session = onnx.Session(onnx.onnx_bytes(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4)), 1)
    with pytest.raises(UsageError, match=r"onnxruntime cannot run the model \(InvalidArgument: "):
        session(torch.randn(2, 5))


def test_a_file_that_would_give_other_outputs_is_not_written(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = TinyConv().eval()
    ticket = Ticket({"head.weight": torch.rand(3, 64) < 0.5})
    subject = Subject(ticket, ticket.apply_(model).state_dict(), model, torch.randn(2, 1, 4, 4))
    monkeypatch.setattr(onnx.Session, "__call__", lambda self, batch: torch.zeros(len(batch), 3))
    with pytest.raises(TombolaError, match="was not written: it gives other outputs than PyTorch does"):
        FORMATS["onnx"].write(tmp_path / "n.onnx", subject)
    monkeypatch.setattr(masked, "as_indices", masked.as_gaps_or_bits)
    monkeypatch.setattr(masked, "read", lambda path: (ticket, {}))
    with pytest.raises(TombolaError, match="does not give back what was written"):
        FORMATS["sparse"].write(tmp_path / "n.safetensors", subject)
