import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import tombola
from tombola import Ticket, UsageError
from tombola.networks.masking import architecture, hold, survey

from .conftest import TinyConv, batches, mlp


def prunable(model, **patterns):
    return [entry.name for entry in survey(model, **patterns).entries if entry.prunable]


def reason(model, name, **patterns):
    return next(entry.why for entry in survey(model, **patterns).entries if entry.name == name)


def test_convolutions_of_all_kinds_and_linear_layers():
    kinds = [
        nn.Conv1d(2, 2, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Conv3d(1, 1, 1),
        nn.ConvTranspose1d(1, 1, 2), nn.ConvTranspose2d(1, 2, 2), nn.ConvTranspose3d(1, 1, 1), nn.Linear(2, 3),
    ]  # fmt: skip
    model = nn.ModuleList([*kinds, nn.BatchNorm2d(2), nn.LayerNorm([2, 2]), nn.Embedding(3, 2)])
    assert prunable(model) == [f"{i}.weight" for i in range(7)]
    assert survey(model).prunable == sum(kind.weight.numel() for kind in kinds)
    assert reason(model, "0.bias") == "biases and normalisation parameters are never pruned"
    assert reason(model, "9.weight").startswith("Embedding's weight is no weight of a convolution")


def test_attention_projections():
    whole, split = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    assert prunable(whole) == ["in_proj_weight", "out_proj.weight"]
    assert prunable(split) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.body(self.embed(x)))


def test_a_weight_tied_to_an_embedding_is_left_out_unless_named():
    assert prunable(Tied()) == ["body.weight"]
    assert "shared with Embedding's weight; include it by name" in str(tombola.preview(Tied()))
    assert prunable(Tied(), include=["*", "head.weight"]) == ["embed.weight", "body.weight"]


def test_weights_shared_by_two_prunable_modules_have_one_mask():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = model[0].weight
    assert prunable(model) == ["0.weight", "2.weight"]
    twice = nn.Sequential(layer := nn.Linear(3, 3), nn.ReLU(), layer)
    assert prunable(twice) == ["0.weight"]


def test_two_parameters_in_one_memory_are_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight.data = model[0].weight.data
    with pytest.raises(UsageError, match=r"0\.weight and 2\.weight are two parameters that share their memory; tie"):
        survey(model)
    model[2].weight.data = model[0].weight.data.view(-1)[3:].view(2, 3)
    with pytest.raises(UsageError, match="share their memory"):
        survey(model)


def test_parameters_side_by_side_in_one_buffer_are_fine():
    model, buffer = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3), nn.Linear(3, 2)), torch.randn(12 + 12)
    model[0].weight.data, model[1].weight.data = buffer[:6].view(2, 3), buffer[6:12].view(3, 2)
    model[2].weight.data, model[2].bias.data = buffer[12:].view(4, 3)[::2], buffer[15:17]  # rows, and between them
    assert prunable(model) == ["0.weight", "1.weight", "2.weight"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_parameters_without_elements_are_left_out():
    model = nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 2))
    assert prunable(model) == ["1.weight"]
    assert reason(model, "0.weight") == "it has no elements"
    ticket = tombola.draw(
        model, [(torch.zeros(4, 0), torch.tensor([0, 1, 0, 1]))], density=0.5, finder=tombola.Random(), progress=False
    )
    assert ticket.density_by_layer == {"1.weight": 0.5}


def test_include_and_exclude_patterns():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Embedding(2, 2))
    assert prunable(model, include="1.*") == ["1.weight"]
    assert prunable(model, exclude=["0.*"]) == ["1.weight"]
    assert prunable(model, include=["*", "2.weight"]) == ["0.weight", "1.weight", "2.weight"]
    assert reason(model, "0.weight", exclude="0.*") == "excluded by name"
    assert reason(model, "0.weight", include="1.*") == "not included by name"
    with pytest.raises(UsageError, match="exclude: no parameter of the model matches 'head"):
        survey(model, exclude="head.*")
    with pytest.raises(UsageError, match=r"0\.bias is a bias or normalisation parameter"):
        survey(model, include=["*", "0.bias"])
    with pytest.raises(UsageError, match="no prunable weights"):
        survey(model, exclude="*")


def test_preview_lists_counts():
    text = str(tombola.preview(TinyConv()))
    assert "conv.weight" in text
    assert "228 of 239 parameters are prunable" in text


def test_what_no_mask_can_hold_is_refused_by_name():
    with pytest.raises(UsageError, match=r"weight is on the meta device"):
        survey(nn.Linear(2, 2, device="meta"))
    with pytest.raises(UsageError, match="'0' is parametrised"):
        survey(nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2)))
    pruned = nn.Linear(2, 2)
    prune.l1_unstructured(pruned, "weight", amount=1)
    with pytest.raises(UsageError, match=r"'0' computes its weight from other parameters \(bias, weight_orig\)"):
        survey(nn.Sequential(pruned))
    with pytest.raises(UsageError, match="that is not scripted"):
        survey([pruned])
    with pytest.raises(UsageError, match="weight is not initialised yet"):
        survey(nn.LazyLinear(2))


def test_names_do_not_depend_on_wrappers():
    model = mlp()
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        assert architecture(wrapped) == architecture(model)
        assert prunable(wrapped) == prunable(model)
    inner = mlp()
    inner[0] = torch.compile(inner[0])
    assert architecture(inner) == architecture(mlp())


def half(model):
    """A ticket that keeps every second weight."""
    masks = {}
    for entry in survey(model).entries:
        if entry.prunable:
            masks[entry.name] = (torch.arange(entry.count) % 2 == 0).view(entry.shape)
    return Ticket(masks)


def test_apply_zeroes_once_and_in_place():
    model = mlp()
    before = model[0].weight.detach().clone()
    pointer = model[0].weight.data_ptr()
    ticket = half(model)
    assert ticket.apply_(model) is model
    assert model[0].weight.data_ptr() == pointer
    assert torch.equal(model[0].weight, before * ticket["0.weight"])


def test_apply_removes_what_is_not_a_number():
    model = mlp()
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    half(model).apply_(model)
    assert (model[0].weight[~half(model)["0.weight"]] == 0).all()


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_sees_the_sparse_network_only(as_keyword):
    model, (x, y) = mlp(), batches(1)[0]
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    ticket = half(model)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append(max(model.get_parameter(key)[~mask].abs().max().item() for key, mask in ticket.items()))
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)  # a history that points out of the subspace
    seen.clear()
    with ticket.attach(model, optimizer):
        for _ in range(3):
            optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
    assert len(seen) > 3
    assert max(seen) == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_zero_with_every_optimiser(name):
    model, data = mlp(), batches(3)
    optimizer = OPTIMIZERS[name](list(model.parameters()))

    def run():
        for x, y in data:

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)

    run()  # momentum that would revive pruned weights
    ticket = half(model)
    kept_before = model[0].weight.detach()[ticket["0.weight"]].clone()
    with ticket.attach(model, optimizer):
        run()
        for key, mask in ticket.items():
            weight = model.get_parameter(key)
            assert (weight[~mask] == 0).all()
            assert (weight[mask] != 0).all()
    assert not torch.equal(model[0].weight.detach()[ticket["0.weight"]], kept_before)
    run()
    if name != "lbfgs":  # whether it moves depends on its line search
        assert (model[0].weight[~ticket["0.weight"]] != 0).any(), "detach() must let go"


class ByNorm(torch.optim.SGD):
    """Looks at whole tensors: gradients are divided by their norm."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad, alpha=float(0.1 / p.grad.norm()))


class Sharp(ByNorm):
    """Steps to the worst point nearby, and from there back and on."""

    @torch.no_grad()
    def first_step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p]["before"] = p.clone()
            p.add_(p.grad, alpha=float(0.1 / p.grad.norm()))

    def step(self, closure=None):
        self.first_step()
        for p in self.param_groups[0]["params"]:
            p.grad.add_(p.detach() - self.state[p].pop("before"))
        super().step()


def trained_under_half(make, pruned_gradient, attached=True):
    """A network after three steps, the gradients of its pruned weights those that are given."""
    model = mlp()
    ticket = half(model)
    optimizer = make(list(model.parameters()))
    if attached:
        ticket.attach(model, optimizer)
    else:
        hold(model, optimizer, ticket)
    for x, y in batches(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for name, mask in ticket.items():
            model.get_parameter(name).grad[~mask] = pruned_gradient
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


BY_STEP = {name: make for name, make in OPTIMIZERS.items() if name != "lbfgs"} | {
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
}
WHOLE = {"adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1), "norm": ByNorm, "sharp": Sharp}


@pytest.mark.parametrize("make", [*BY_STEP.values(), *WHOLE.values()], ids=[*BY_STEP, *WHOLE])
def test_gradients_of_pruned_weights_move_nothing(make):
    assert torch.equal(trained_under_half(make, 0.0), trained_under_half(make, 100.0))


@pytest.mark.parametrize("make", BY_STEP.values(), ids=BY_STEP)
def test_optimisers_that_take_weights_one_by_one_need_no_masked_gradients(make):
    assert torch.equal(trained_under_half(make, 100.0), trained_under_half(make, 100.0, attached=False))


def test_sparse_gradients_of_pruned_weights_are_zero_in_a_step():
    table = nn.Embedding(4, 3, sparse=True)
    ticket = Ticket({"weight": torch.arange(12).view(4, 3) % 2 == 0})
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    with ticket.attach(table, optimizer):
        table(torch.tensor([1, 2, 1])).sum().backward()
        optimizer.step()
    counts = torch.tensor([[0.0], [2.0], [1.0], [0.0]])
    assert torch.equal(table.weight.grad.to_dense(), counts * ticket["weight"])


def test_an_attached_model_is_still_a_plain_one():
    model = mlp()
    names = list(model.state_dict())
    attachment = half(model).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert list(model.state_dict()) == names
    copy.deepcopy(model)
    pickle.loads(pickle.dumps(model))
    attachment.detach()


def test_attach_needs_the_models_own_optimizer():
    with pytest.raises(UsageError, match="optimizer holds none of the ticket's parameters"):
        half(mlp()).attach(mlp(), torch.optim.SGD(mlp().parameters(), lr=0.1))


def test_a_ticket_of_another_model_says_what_differs():
    with pytest.raises(UsageError, match=r"0\.weight has shape \(4, 6\) in the model and \(8, 6\) in the ticket"):
        half(mlp()).apply_(mlp(hidden=4))
    with pytest.raises(UsageError, match=r"0\.weight is not a parameter of the model"):
        half(mlp()).check(TinyConv())
