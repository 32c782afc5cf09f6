"""The examples run, and the models of other libraries are drawn from as they are."""

import importlib.util
from pathlib import Path

import pytest
import torch

import tombola
from tests.ranks import on_ranks

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "channels_to_onnx",
        "cts_on_one_page",
        "lightning_style",
        "own_parts",
        "own_photographs",
        "own_texts",
        "several_processes",
        "text_classifier",
        "timm_model",
        "two_of_four",
    }


def test_a_channel_ticket_in_onnx():
    pytest.importorskip("onnxruntime")
    found = example("channels_to_onnx").main(epochs=3)
    kept = {name: int(mask.flatten(1).any(dim=1).sum()) for name, mask in found.ticket.items()}
    # Two BatchNorms of the stream and one within, the linear layer's ten biases, and what is kept of weights.
    stream, inner = kept["stem.weight"], kept["first.weight"]
    assert 0 < inner < 32
    assert kept["second.weight"] == stream < 32
    assert found.after == 4 * stream + 2 * inner + 9 * (stream + 2 * stream * inner) + 10 * (stream + 1)
    assert found.after < 0.3 * found.before
    words = f"an ONNX network, compacted to {found.after:,} of {found.before:,} parameters"
    assert found.said == f"{words}; onnxruntime gives PyTorch's outputs"


def test_fine_tuning_to_two_of_every_four():
    ticket, dense, cut, tuned = example("two_of_four").main(epochs=4, steps=60)
    assert all((mask.view(-1, 4).sum(dim=1) == 2).all() for mask in ticket.values())
    assert tuned >= cut
    assert tuned > dense - 0.05


def test_parts_of_ones_own():
    tickets = example("own_parts").main(steps=60)
    assert {ticket.kept for ticket in tickets.values()} == {round(0.05 * (64 * 300 + 300 * 10))}


def test_the_method_on_one_page():
    reached = example("cts_on_one_page").main(steps=200, density=0.05)
    assert all(50 < accuracy <= 100 for accuracy in reached.values())


@pytest.mark.parametrize("data", [pytest.param("folder", marks=pytest.mark.hard), "images"])
def test_photographs_of_ones_own(data, tmp_path, cache, capsys):
    example("own_photographs").main(tmp_path, data, epochs=2, steps=3, count=12)
    assert "resnet20 of width 8 on " + data in capsys.readouterr().out


def test_texts_of_ones_own(tmp_path, capsys):
    pytest.importorskip("transformers")
    example("own_texts").main(tmp_path, epochs=2, steps=3)
    assert "hf:bert of width 32 on text" in capsys.readouterr().out


@pytest.mark.hard
def test_a_search_in_two_processes():
    zero, one = on_ranks(2, example("several_processes").search)
    assert zero.kept == round(0.05 * zero.prunable)
    assert zero.digest == one.digest


def test_a_text_classifier():
    module = example("text_classifier")
    ticket, reached = module.main(epochs=4, steps=100)
    assert ticket.kept == round(0.2 * ticket.prunable)
    assert reached > 0.7  # a guess gets three quarters of these texts wrong or right by the same answer
    assert all("embeddings" not in name and name.endswith("weight") for name in ticket)
    assert ticket.provenance.objective["hard"] < ticket.provenance.objective["first"]


@pytest.mark.parametrize("objective", ["loss", "reverse-kl", "grad-norm", "grad-match"])
def test_objectives_on_a_text_classifier(objective):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=12, dim=8, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=16)
    model, batches = DistilBertForSequenceClassification(config), example("text_classifier").texts(64, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ticket = tombola.draw(
        model, batches, density=0.3, steps=4, objective=objective, task=tombola.Task.hugging_face(), progress=False
    )
    assert ticket.kept == round(0.3 * ticket.prunable)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_conv1d_layers_of_gpt2_are_prunable_and_its_tied_embedding_is_not():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    names = [entry.name for entry in tombola.preview(model).entries if entry.prunable]
    assert names == [
        f"transformer.h.0.{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    words = torch.randint(10, (4, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": words, "labels": words}]
    ticket = tombola.draw(model, data, density=0.3, steps=3, task=tombola.Task.hugging_face(), progress=False)
    assert ticket.kept == round(0.3 * ticket.prunable)


def test_a_timm_model():
    sparse, ticket = example("timm_model").main(epochs=2, steps=5, count=64)
    assert ticket.kept == round(0.2 * ticket.prunable)
    assert "fc.weight" not in ticket
    assert all((sparse.get_parameter(name)[~mask] == 0).all() for name, mask in ticket.items())


def test_a_lightning_style_loop():
    module = example("lightning_style")
    ticket, reached = module.main(epochs=5, steps=200)
    assert list(ticket) == ["body.0.weight", "body.2.weight"], "the names of the plain module"
    assert reached > 0.85
    ticket.check(module.Classifier())


def test_tickets_hold_through_fabrics_optimizers():
    import lightning_fabric

    from .conftest import batches, mlp

    plain = mlp()
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(plain, torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.9))
    data = batches()
    ticket = tombola.draw(model, data, density=0.3, steps=5, progress=False)
    assert ticket == tombola.draw(plain, data, density=0.3, steps=5, progress=False)
    with ticket.attach(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            fabric.backward(torch.nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            assert all((plain.get_parameter(name)[~mask] == 0).all() for name, mask in ticket.items())
