"""Pruned channels are pruned whole: biases, scales and shifts are zero with them as a ticket trains."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call

import tombola
from tombola import TicketWarning, UsageError
from tombola.core.granularity import GRANULARITIES
from tombola.core.parts import identify
from tombola.data import Item
from tombola.finders import FINDERS, Magnitude, draw
from tombola.networks.masking import survey
from tombola.networks.network import FrozenNetwork, GatedNetwork
from tombola.networks.task import Task
from tombola.objectives import MaskedBatch
from tombola.sparse.channels import gated_along, silenced
from tombola.ticket import Ticket

from .conftest import Listening, as_json, batches, images
from .test_granularity import Residual
from .test_rivals import CPU, problem

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def shifted(build):
    """A model whose normalisation and biases have been trained before."""
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.rand_like(parameter) + 0.5)
    return model


class Deep(nn.Module):
    """Two convolutions with padding and normalisation, an activation that is not zero at a shift, a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.second_norm = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.first_norm(self.first(x)))
        x = torch.relu(self.second_norm(self.second(x))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def deep_masks(**dead):
    """All weights, but for the output channels of some layers."""
    found = {name: torch.ones_like(p, dtype=torch.bool) for name, p in Deep().named_parameters() if p.dim() > 1}
    for layer, channels in dead.items():
        found[f"{layer}.weight"][channels] = False
    return found


def test_what_a_channel_without_input_adds_is_to_be_zero():
    example = torch.randn(2, 1, 4, 4)
    assert silenced(Deep(), deep_masks(), example) == {}
    found = silenced(Deep(), deep_masks(first=[1, 3], hidden=[0]), example)
    first, hidden = [True, False, True, False], [False, True, True, True, True]
    assert {name: alive.tolist() for name, alive in found.items()} == {
        "first.bias": first, "first_norm.weight": first, "first_norm.bias": first, "hidden.bias": hidden,
    }  # fmt: skip
    # Nothing reaches what reads only such channels; what the network gives stays.
    found = silenced(Deep(), deep_masks(first=[0, 1, 2, 3], head=[0]), example)
    assert {name: int(alive.sum()) for name, alive in found.items()} == {
        "first.bias": 0, "first_norm.weight": 0, "first_norm.bias": 0,
        "second_norm.weight": 0, "second_norm.bias": 0, "hidden.bias": 0,
    }  # fmt: skip


class Twice(nn.Module):
    """A normalisation that two layers share, and a sum of both."""

    def __init__(self):
        super().__init__()
        self.left, self.right = (nn.Conv2d(1, 3, 1, bias=False) for _ in range(2))
        self.norm, self.out = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        return self.out(torch.tanh(self.norm(self.left(x)) + self.norm(self.right(x))))


def test_normalisation_that_serves_two_layers_stays_where_either_has_input():
    masks = {f"{side}.weight": torch.ones(3, 1, 1, 1, dtype=torch.bool) for side in ("left", "right")}
    masks["left.weight"][:2] = False
    masks["right.weight"][1:] = False
    found = silenced(Twice(), masks, torch.randn(2, 1, 4, 4))
    assert {name: alive.tolist() for name, alive in found.items()} == {
        "norm.weight": [True, False, True], "norm.bias": [True, False, True],
    }  # fmt: skip


@pytest.mark.parametrize("execution", ["dense", "sparse"])
@pytest.mark.parametrize("build", [Deep, Residual])
def test_pruned_channels_are_zero_as_a_ticket_trains_and_compaction_takes_them_out(build, execution):
    """The shifts were trained before the draw, and a pruned channel would be a constant beside the padding."""
    torch.manual_seed(0)
    model, data, example = shifted(build), images(size=16), torch.randn(64, 1, 4, 4)

    def trained(granularity):
        return tombola.sparsify(
            model, data, data, density=0.5, granularity=granularity, finder="random:allocation=uniform", rewind_to=0,
            recipe=tombola.Recipe(epochs=3, learning_rate=0.05), execution=execution, progress=False,
        )  # fmt: skip

    sparse, ticket = trained("channel")
    before, other = trained("channel:silent=false")
    assert ticket == other
    for name, alive in silenced(model, ticket, example).items():
        assert not dict(sparse.named_parameters())[name][~alive].any()
        assert dict(before.named_parameters())[name][~alive].any()
    counts = [sum(p.numel() for p in ticket.compact(each, example).parameters()) for each in (sparse, before)]
    assert counts[0] < counts[1]
    if build is Deep:
        kept = [int(mask.flatten(1).any(dim=1).sum()) for mask in ticket.values()]
        small = ticket.compact(sparse, example)
        assert [len(p) for p in small.parameters() if p.dim() > 1][:3] == kept[:3]


def test_a_training_function_and_a_loop_of_ones_own_hold_channels_at_zero_too():
    model, data, example = shifted(Deep), images(size=16), torch.randn(64, 1, 4, 4)

    def loop(model, optimizer, batches):
        for inputs, targets in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    def fit(model, job):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        job.hold(model, optimizer)
        for epoch in job.epochs:
            loop(model, optimizer, job.batches(epoch))

    def forgets(model, job):
        loop(model, torch.optim.SGD(model.parameters(), lr=0.05), job.batches(0))

    options = dict(density=0.5, granularity="channel", finder="random", rewind_to=0, progress=False)
    sparse, ticket = tombola.sparsify(model, data, data, fit=fit, **options)
    held = silenced(model, ticket, example)
    assert held
    assert not any(dict(sparse.named_parameters())[name][~alive].any() for name, alive in held.items())
    with pytest.raises(UsageError, match=r"left .* pruned weights of .* that are not zero"):
        tombola.sparsify(model, data, data, fit=forgets, **options)
    with ticket.attach(model, optimizer := torch.optim.SGD(model.parameters(), lr=0.05), example=example):
        loop(model, optimizer, data)
    assert not any(dict(model.named_parameters())[name][~alive].any() for name, alive in held.items())
    with pytest.warns(TicketWarning, match=r"of pruned channels train on.*: give attach\(\.\.\., example=inputs\)"):
        ticket.attach(model, optimizer).detach()
    for other in (Ticket(dict(ticket)), tombola.draw(model, data, density=0.5, finder="magnitude", progress=False)):
        with pytest.raises(UsageError, match="example is for tickets of granularity channel, this one's is weight"):
            other.attach(model, optimizer, example=example)


def test_channels_that_cannot_be_followed_train_on_and_that_is_said():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.inner(x) if x.sum() > 0 else -self.inner(x))

    progress = Listening()
    at = problem(Branching(), batches(), epochs=2)
    ticket = draw(Magnitude(granularity="channel:coupled=false"), at, 0.5).ticket
    setup = replace(at.trainer.setup, silent=True, progress=progress)
    assert setup.silenced(ticket) == {}
    assert len(progress.said) == 1
    assert progress.said[0].startswith("biases and normalisation of pruned channels train on: torch.fx cannot trace it")
    assert replace(setup, silent=False).silenced(ticket) == {}
    assert len(progress.said) == 1


def test_trainings_with_and_without_have_other_names(tmp_path, capsys):
    options = ["--preset", "digits", "--epochs", "2", "--milestones", "[]", "--rewind-to", "1"]
    options += ["--train-samples", "300", "--out", str(tmp_path), "--finder", "magnitude", "--density", "0.1"]
    run = as_json(capsys, "run", *options, "--granularity", "channel")
    loud = as_json(capsys, "run", *options, "--granularity", "channel:silent=false")
    assert run["run_dir"] != loud["run_dir"]
    assert Ticket.load(run["ticket"]) == Ticket.load(loud["ticket"])
    weights = {key: load_file(f"{each['run_dir']}/weights.safetensors") for key, each in (("run", run), ("loud", loud))}
    mask = Ticket.load(run["ticket"])["fc1.weight"].any(dim=1)
    assert not weights["run"]["fc1.bias"][~mask].any()
    assert weights["loud"]["fc1.bias"][~mask].all()
    # What trains a ticket from its file knows it from there.
    again = as_json(capsys, "train", run["ticket"], "--out", str(tmp_path))
    trained = load_file(f"{again['run_dir']}/weights.safetensors")
    assert all(torch.equal(trained[name], value) for name, value in weights["run"].items())
    assert identify(GRANULARITIES.read("channel"))["version"] == 3


def places(layout, model, coupled=True, size=4):
    found = gated_along(model, layout, torch.randn(2, 1, size, size), coupled)
    return {name: each.tolist() for name, each in found.items()}


def test_with_which_weights_biases_scales_and_shifts_go():
    """By hand: the layers' weights begin at 0, 36, 252 and 282, and an output channel has 9, 36 and 6 of them."""
    model = Deep()
    first, second, hidden = [0, 9, 18, 27], [36 + 36 * at for at in range(6)], [252 + 6 * at for at in range(5)]
    expected = {
        "first.bias": first, "first_norm.weight": first, "first_norm.bias": first,
        "second_norm.weight": second, "second_norm.bias": second, "hidden.bias": hidden,
    }  # fmt: skip
    assert places(survey(model).layout, model) == expected
    # What is not pruned has no gate.
    few = survey(model, exclude=("second.*", "hidden.*")).layout
    assert places(few, model) == {name: each for name, each in expected.items() if name.startswith("first")}


def test_a_channel_that_two_layers_write_has_one_gate_where_they_are_coupled():
    model = Residual()
    both = {"norm.weight": [0, 9, 18, 27], "norm.bias": [0, 9, 18, 27]}
    assert places(survey(model).layout, model) == both
    assert places(survey(model).layout, model, coupled=False) == {}


def test_a_normalisation_that_runs_behind_two_layers_has_the_gate_of_neither():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.norm = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(torch.relu(self.norm(self.two(torch.relu(self.norm(self.one(x)))))).mean((2, 3)))

    model = Shared()
    assert places(survey(model).layout, model) == {"one.bias": [0, 1, 2], "two.bias": [3, 6, 9]}


def test_a_gate_before_normalisation_by_the_batch_matters_only_on_its_scale_and_shift():
    torch.manual_seed(0)
    model, (inputs, labels) = shifted(Deep), (torch.randn(32, 1, 6, 6), torch.randint(3, (32,)))
    layout = survey(model).layout
    beside = gated_along(model, layout, inputs, True)
    pulls, shut = {}, torch.ones(layout.total)
    shut[:9] = 0.0
    for name, with_it in (("weights alone", {}), ("whole", beside)):
        network = FrozenNetwork(model, layout, Task(), CPU, beside=with_it)
        network.use_batch_statistics()
        mask = torch.ones(layout.total, requires_grad=True)
        loss = nn.functional.cross_entropy(network.masked(mask, (inputs, labels)), labels)
        by_weight = torch.autograd.grad(loss, mask)[0]
        pulls[name] = by_weight[:36].view(4, 9).sum(dim=1)
        if with_it:
            with torch.no_grad():
                for each in (model.first.bias, model.first_norm.weight, model.first_norm.bias):
                    each[0] = 0.0
                model.first.weight[0] = 0.0
                found, expected = network.masked(shut, (inputs, labels)), model.train()(inputs)
            assert torch.allclose(found, expected, atol=1e-5)
    assert pulls["weights alone"].abs().max() < 1e-4
    assert pulls["whole"].abs().min() > 1e-4


def test_gates_of_a_training_are_on_scales_and_shifts_and_are_taken_off_again():
    torch.manual_seed(0)
    model, inputs = shifted(Deep), torch.randn(8, 1, 6, 6)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    layout = survey(model).layout
    beside = gated_along(model, layout, inputs, True)
    network = GatedNetwork(model, layout, Task(), beside)
    mask = torch.rand(layout.total, requires_grad=True)
    output = network.under(mask, (inputs, torch.zeros(8, dtype=torch.long)))
    output.square().sum().backward()
    assert all(torch.equal(value, dict(model.named_parameters())[name]) for name, value in before.items())

    again = mask.detach().clone().requires_grad_()
    leaves = {name: value.clone().requires_grad_() for name, value in before.items()}
    gates = {**layout.views(again), **{name: again[each] for name, each in beside.items()}}
    gated = {name: leaf * gates[name] if name in gates else leaf for name, leaf in leaves.items()}
    expected = functional_call(shifted(Deep).train(), gated, inputs)
    expected.square().sum().backward()
    assert torch.allclose(output, expected, atol=1e-5)
    assert torch.allclose(mask.grad, again.grad, rtol=1e-3, atol=1e-4)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, leaves[name].grad, rtol=1e-3, atol=1e-4), name
    with torch.no_grad():
        for name, value in dict(network.masked(mask.detach()).named_parameters()).items():
            assert torch.allclose(value, gated[name])


@pytest.mark.parametrize("every_parameter", [False, True])
def test_gradients_under_a_mask_are_those_of_the_channels_as_it_leaves_them(every_parameter):
    torch.manual_seed(0)
    model, batch = shifted(Deep), (torch.randn(8, 1, 6, 6), torch.randint(3, (8,)))
    layout = survey(model).layout
    beside = gated_along(model, layout, batch[0], True)
    network = FrozenNetwork(model, layout, Task(), CPU, beside=beside)
    network.use_batch_statistics()
    mask = torch.rand(layout.total)
    found = MaskedBatch(network, Task(), mask, Item(batch), batch).gradient(network, mask, every_parameter)

    leaves = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    gates = {**layout.views(mask), **{name: mask[each] for name, each in beside.items()}}
    gated = {name: leaf * gates[name] if name in gates else leaf for name, leaf in leaves.items()}
    nn.functional.cross_entropy(functional_call(model.train(), gated, batch[0]), batch[1]).backward()
    wanted = [*layout.names, *(name for name in leaves if name not in layout.names and every_parameter)]
    expected = torch.cat([leaves[name].grad.reshape(-1) for name in wanted])
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("finder", ["cts:steps=5", "joint", "continuous-sparsification", "edge-popup:steps=5"])
def test_searches_over_channels_gate_them_whole(finder):
    tickets = []
    for granularity in ("channel", "[channel:silent=false]"):
        torch.manual_seed(0)
        at = problem(shifted(Deep), images(size=8), epochs=2)
        tickets.append(draw(FINDERS.read(f"{finder}:granularity={granularity}"), at, 0.5))
    whole, alone = (each.ticket.scores for each in tickets)
    assert whole.keys() == alone.keys()
    assert any(not torch.equal(whole[name], alone[name]) for name in whole)
