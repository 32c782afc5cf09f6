import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tombola import Ticket, UsageError
from tombola.cli.main import main
from tombola.core.cost import Cost
from tombola.ticket import Provenance, pruned_state
from tombola.ticket.bits import Bits

from .conftest import mlp

A = torch.tensor([[True, False, True], [False, False, False]])
B = torch.tensor([[True, True, False], [False, False, False]])


def provenance(**changes):
    values = dict(
        finder={"name": "cts", "steps": 5}, density=0.3, seed=1, version="0.1.0", architecture="a", weights="w",
        cost=Cost(1.5, 10, 20), warnings=("look",),
    )  # fmt: skip
    return Provenance(**{**values, **changes})


def test_counts_by_hand():
    ticket = Ticket({"a": A, "b": torch.tensor([True, True])})
    assert (ticket.kept, ticket.prunable, ticket.density) == (4, 8, 0.5)
    assert ticket.kept_by_layer == {"a": 2, "b": 2}
    assert ticket.density_by_layer == {"a": pytest.approx(1 / 3), "b": 1.0}
    assert ticket.dead_units == {"a": 1}
    assert ticket.unread_units == {"a": 1}
    assert repr(ticket) == "Ticket(4 of 8 weights, density 50.0000%)"


def test_a_mask_without_elements_keeps_all_that_there_is(tmp_path, capsys):
    path = tmp_path / "t.safetensors"
    Ticket({"a": A, "none": torch.ones(4, 0, dtype=torch.bool)}).save(path)
    assert Ticket.load(path).density_by_layer == {"a": pytest.approx(1 / 3), "none": 1.0}
    assert main(["info", str(path)]) == 0
    assert "none" in capsys.readouterr().out
    assert (Ticket({}).density, repr(Ticket({}))) == (1, "Ticket(0 of 0 weights, density 100.0000%)")


def test_overlap_is_intersection_over_union():
    assert Ticket({"a": A}).overlap(Ticket({"a": B})) == pytest.approx(1 / 3)
    assert Ticket({"a": A}).overlap(Ticket({"a": A})) == 1
    with pytest.raises(UsageError, match="same parameters"):
        Ticket({"a": A}).overlap(Ticket({"b": A}))


def test_a_ticket_cannot_be_changed():
    ticket = Ticket({"a": A})
    ticket["a"].fill_(False)
    A_before = A.clone()
    assert torch.equal(ticket["a"], A_before)
    with pytest.raises(TypeError):
        ticket["a"] = B


def test_equality_is_names_shapes_and_masks():
    ticket = Ticket({"a": A}, provenance())
    assert ticket == Ticket({"a": A}, provenance(seed=2))
    assert hash(ticket) == hash(Ticket({"a": A}))
    assert ticket != Ticket({"a": B})
    assert ticket != Ticket({"b": A})
    assert ticket != Ticket({"a": A.view(3, 2)})
    assert ticket != "ticket"


def test_masks_must_be_bool():
    with pytest.raises(UsageError, match="mask of a must be of type bool"):
        Ticket({"a": torch.ones(2)})


@given(flags=st.lists(st.booleans(), min_size=1, max_size=300), sparse=st.booleans())
def test_bits_survive_both_encodings(flags, sparse):
    mask = torch.tensor(flags)
    if sparse:
        mask[1:] = False
    packed = Bits.of(mask)
    encoding, data = packed.encode()
    again = Bits.decode("a", encoding, data, tuple(mask.shape))
    assert torch.equal(again.unpack(), mask)
    assert packed.kept == int(mask.sum())
    smaller = min(4 * packed.kept, (len(flags) + 7) // 8)
    assert data.nbytes == smaller


def test_the_smaller_encoding_is_chosen():
    mask = torch.zeros(3200, dtype=torch.bool)
    mask[:99] = True
    assert Bits.of(mask).encode()[0] == "indices"
    mask[99] = True
    assert Bits.of(mask).encode()[0] == "bits"


def test_file_round_trip(tmp_path):
    path = tmp_path / "t.safetensors"
    ticket = Ticket({"a": A, "z": torch.zeros(4000, dtype=torch.bool)}, provenance())
    ticket.save(path)
    again = Ticket.load(path)
    assert again == ticket
    assert list(again) == ["a", "z"]
    assert again.provenance == provenance()
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_loading_against_a_model(tmp_path):
    path = tmp_path / "t.safetensors"
    Ticket({"0.weight": torch.ones(8, 6, dtype=torch.bool)}).save(path)
    Ticket.load(path, mlp())
    with pytest.raises(UsageError, match=r"0\.weight has shape"):
        Ticket.load(path, mlp(inputs=5))


def rewritten(path, change):
    """Write a ticket file again with a changed header or changed tensors."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["tombola"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, {"tombola": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(format=9), "has ticket format 9; this version of tombola reads format 1"),
        (lambda h, t: h["masks"]["a"].update(kept=5), "a keeps 2 weights, its header says 5"),
        (lambda h, t: h["masks"]["a"].update(shape=[9, 9]), "mask of a does not consist of 81 bits"),
        (lambda h, t: h["masks"]["a"].update(encoding="runs"), "encoded as 'runs'"),
        (lambda h, t: h["masks"].pop("a"), "header and masks differ in a"),
        (lambda h, t: t.update(a=torch.tensor([255], dtype=torch.uint8)), "mask of a does not consist of 6 bits"),
        (lambda h, t: t.update(z=torch.tensor([4000], dtype=torch.int32)), "not below 4000"),
        (lambda h, t: t.update(z=torch.tensor([5, 5], dtype=torch.int32)), "do not increase"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "t.safetensors"
    z = torch.zeros(4000, dtype=torch.bool)
    z[7] = True
    Ticket({"a": A, "z": z}).save(path)
    rewritten(path, change)
    with pytest.raises(UsageError, match=message):
        Ticket.load(path)


def test_files_that_are_no_tickets(tmp_path):
    with pytest.raises(UsageError, match="there is no ticket file"):
        Ticket.load(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(UsageError, match="is not a ticket file"):
        Ticket.load(tmp_path / "junk")
    save_file({"x": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(UsageError, match="not a ticket: it has no tombola header"):
        Ticket.load(tmp_path / "other")
    path = tmp_path / "t"
    Ticket({"a": A}).save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="is not a ticket file"):
        Ticket.load(path)
    with pytest.raises(UsageError, match="is not a directory"):
        Ticket({"a": A}).save(tmp_path / "missing" / "t")


def test_tied_weights_of_a_state_dict_are_pruned_under_all_their_names():
    weight, other = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.ones(2, 3)
    state = {"a": weight, "b": weight.clone(), "c": other, "steps": 3}
    found = pruned_state(Ticket({"a": A}), state)
    assert found["a"].tolist() == found["b"].tolist() == [[1, 0, 3], [0, 0, 0]]
    assert torch.equal(found["c"], other)
    assert found["steps"] == 3
    assert state["a"][0, 1] == 2


def test_layers_that_began_as_copies_of_each_other_are_pruned_each_as_the_ticket_says():
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    state = {"a": weight, "b": weight.clone()}
    found = pruned_state(Ticket({"a": A, "b": B}), state)
    assert found["a"].tolist() == [[1, 0, 3], [0, 0, 0]]
    assert found["b"].tolist() == [[1, 2, 0], [0, 0, 0]]
    found = pruned_state(Ticket({"a": A}), state, trained={"a": weight * A, "b": weight + 1})
    assert torch.equal(found["b"], weight)


def test_a_state_dict_may_have_the_names_of_a_wrapped_model():
    weight = torch.ones(2, 3)
    for name in ("0._orig_mod.weight", "module.0.weight", "_orig_mod.module.0.weight"):
        state = {name: weight, "mean": torch.zeros(1)}
        found = pruned_state(Ticket({"0.weight": A}), state)
        assert list(found) == list(state)
        assert torch.equal(found[name], A.float())
    for state in ({"encoder.0.weight": weight}, {"module.0.weight": weight[0]}, {}):
        with pytest.raises(UsageError, match=r"does not fit the ticket: 0\.weight$"):
            pruned_state(Ticket({"0.weight": A}), state)
