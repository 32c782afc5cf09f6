"""Heads of attention: which weights belong to one, in the modules of torch, timm and transformers."""

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

import tombola
from tombola import UsageError
from tombola.core.granularity import GRANULARITIES
from tombola.networks.masking import survey

from .conftest import layout

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


class Attention(nn.Module):
    """Attention of two heads, by projections with usual names or by torch's own module."""

    def __init__(self, own):
        super().__init__()
        self.num_heads = 2
        if own:
            self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(4, 4, bias=False) for _ in range(4))
        else:
            self.inner = nn.MultiheadAttention(4, 2, bias=False)
        self.last = nn.Linear(4, 3)


@pytest.mark.parametrize("own", [True, False])
def test_a_head_is_its_projections_and_what_reads_it(own):
    of = survey(Attention(own)).layout
    groups = GRANULARITIES.read("head").groups(of)
    assert groups.sizes.tolist() == [32, 32, 4, 4, 4]
    mask = of.views(groups.expand(torch.tensor([True, False, True, True, True])))
    first = torch.tensor([True, True, False, False])
    if own:
        for name in ("q_proj", "k_proj", "v_proj"):
            assert torch.equal(mask[f"{name}.weight"], first[:, None].expand(4, 4))
        assert torch.equal(mask["out_proj.weight"], first.expand(4, 4))
    else:
        assert torch.equal(mask["inner.in_proj_weight"], first.repeat(3)[:, None].expand(12, 4))
        assert torch.equal(mask["inner.out_proj.weight"], first.expand(4, 4))
    with pytest.raises(UsageError, match="granularity cannot be head: no attention whose heads are known"):
        GRANULARITIES.read("head").groups(layout((2, 3)))


def configured(kind, **settings):
    """A classifier of two layers and four heads of transformers, from its configuration."""
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings
    )
    return transformers.AutoModelForSequenceClassification.from_config(config)


BERT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
TOKENS = {"input_ids": torch.tensor([[5, 6, 7, 2]])}
IMAGE = {"x": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
# Model, what it is called with, its heads, and the weights of each.
KNOWN = {
    "torch": (lambda: nn.TransformerEncoderLayer(32, 4, 64), {"src": torch.randn(3, 1, 32)}, 4, 4 * 8 * 32),
    "torchvision": (
        lambda: torchvision.models.VisionTransformer(32, 16, 2, 4, 64, 128, num_classes=3), IMAGE, 8, 4 * 16 * 64,
    ),
    "timm": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3), IMAGE, 6, 4 * 64 * 192,
    ),
    "bert": (lambda: configured("bert", **BERT), TOKENS, 8, 4 * 8 * 32),
    "albert": (lambda: configured("albert", embedding_size=32, **BERT), TOKENS, 4, 4 * 8 * 32),
    "deberta": (
        lambda: configured("deberta-v2", relative_attention=True, pos_att_type="p2c", **BERT), TOKENS, 8, 4 * 8 * 32,
    ),
    "distilbert": (
        lambda: configured("distilbert", dim=32, n_layers=2, n_heads=4, hidden_dim=64), TOKENS, 8, 4 * 8 * 32,
    ),
    "gpt2": (lambda: configured("gpt2", n_embd=32, n_layer=2, n_head=4), TOKENS, 8, 4 * 8 * 32),
    # Two queries share a key and a value.
    "llama": (lambda: configured("llama", num_key_value_heads=2, **BERT), TOKENS, 4, 6 * 8 * 32),
}  # fmt: skip


def outputs(model, inputs):
    with torch.no_grad():
        found = model.eval()(**inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.mark.parametrize("name", KNOWN)
def test_a_head_is_what_its_output_columns_read(name):
    """With the columns that read some heads at zero, the network does not depend on the rest of these heads."""
    build, inputs, heads, size = KNOWN[name]
    torch.manual_seed(0)
    model, whole, columns = build(), build(), build()
    of = survey(model).layout
    groups = GRANULARITIES.read("head").groups(of)
    assert sorted(groups.sizes[groups.sizes == size].tolist()) == [size] * heads
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    places = (groups.sizes == size).nonzero().flatten()
    for chosen in (places[:1], places[1:3], places[-1:]):
        kept = torch.ones(len(groups.sizes), dtype=torch.bool)
        kept[chosen] = False
        masks = of.views(groups.expand(kept))
        read = [each for each, wiring in of.wirings.items() if wiring.reads_heads]
        for each, cut in ((whole, masks), (columns, {key: masks[key] for key in read})):
            each.load_state_dict(model.state_dict())
            tombola.Ticket(cut).apply_(each)
        assert sum(int((~mask).sum()) for mask in masks.values()) == size * len(chosen)
        assert torch.allclose(outputs(whole, inputs), outputs(columns, inputs), atol=1e-5)
        assert not torch.allclose(outputs(whole, inputs), outputs(model, inputs), atol=1e-3)


def test_a_ticket_of_heads_trains_and_keeps_them_whole():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)
    data = [(torch.randn(8, 3, 32, 32), torch.randint(3, (8,))) for _ in range(2)]
    sparse, ticket = tombola.sparsify(
        model, data, data, density={"*attn*": 0.5, "*": 1.0}, granularity="head", finder="cts:steps=4", rewind_to=0,
        recipe=tombola.Recipe(epochs=1), progress=False,
    )  # fmt: skip
    for block in range(2):
        into, out = (ticket[f"blocks.{block}.attn.{name}.weight"] for name in ("qkv", "proj"))
        heads = out.view(192, 3, 64).all(dim=2).all(dim=0)
        assert torch.equal(out.any(dim=0).view(3, 64).any(dim=1), heads)
        assert torch.equal(into.any(dim=1).view(3, 3, 64), heads[None, :, None].expand(3, 3, 64))
    assert sum(int(ticket[name].sum()) for name in ticket if "attn" in name) == 3 * 4 * 64 * 192
    assert not sparse.blocks[0].attn.qkv.weight[~ticket["blocks.0.attn.qkv.weight"]].any()


class Fused(nn.Module):
    """Attention whose projections lie in an order of its own."""

    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.Module(), nn.Linear(4, 3)
        self.attention.num_heads, self.attention.query_key_value = 2, nn.Linear(4, 12)


def test_attention_whose_heads_are_not_known_is_refused_and_can_be_left_out():
    both = nn.ModuleDict({"known": nn.MultiheadAttention(4, 2), "other": Fused()})
    with pytest.raises(UsageError) as caught:
        GRANULARITIES.read("head").groups(survey(both).layout)
    assert str(caught.value) == (
        "granularity cannot be head: which weights of other.attention (Module) belong to which head is not known; "
        "exclude [other.attention.*]"
    )
    groups = GRANULARITIES.read("head").groups(survey(both, exclude=["other.attention.*"]).layout)
    assert groups.sizes.tolist() == [32, 32, 4, 4, 4]
    uneven = configured("llama", num_key_value_heads=2, head_dim=8, **BERT)
    uneven.model.layers[1].self_attn.head_dim = 5
    with pytest.raises(UsageError, match=r"which weights of model.layers.1.self_attn \(LlamaAttention\) belong"):
        GRANULARITIES.read("head").groups(survey(uneven).layout)


@pytest.mark.parametrize("name", ["timm", "bert"])
def test_channels_of_transformers_are_refused_in_a_sentence(name):
    build, inputs, _, _ = KNOWN[name]
    data = [(inputs["x"], torch.tensor([0]))] if "x" in inputs else [{**inputs, "labels": torch.tensor([0])}]
    task = None if "x" in inputs else tombola.Task.hugging_face()
    with pytest.raises(UsageError) as caught:
        tombola.draw(build(), data, density=0.5, granularity="channel", finder="magnitude", task=task, progress=False)
    said = str(caught.value)
    assert said.startswith("granularity: the model's channels cannot be followed: ")
    assert said.endswith(
        "; channel:coupled=false takes each layer's by themselves, but such a ticket's network cannot be made smaller"
    )
    assert "\n" not in said
    ticket = tombola.draw(
        build(), data, density=0.5, granularity="channel:coupled=false", finder="magnitude", task=task, progress=False
    )
    assert ticket.density <= 0.5
