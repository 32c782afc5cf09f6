"""Networks that keep no activations and run parts of themselves again in backward."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import tombola
from tombola import UsageError, finders
from tombola.networks.masking import survey
from tombola.networks.network import GatedNetwork
from tombola.networks.recomputation import Pass
from tombola.networks.task import Task
from tombola.objectives import OBJECTIVES

from .conftest import frozen, images


def kept(run, *inputs):
    return run(*inputs)


def reentrant(run, *inputs):
    return checkpoint(run, *inputs, use_reentrant=True)


def non_reentrant(run, *inputs):
    return checkpoint(run, *inputs, use_reentrant=False)


def nested(run, *inputs):
    return checkpoint(lambda *given: reentrant(run, *given), *inputs, use_reentrant=False)


SAVING = [reentrant, non_reentrant, nested]


class Net(nn.Module):
    """Two blocks with BatchNorm and dropout, of which the first one's input is data that asks for no gradient."""

    def __init__(self, through=kept, dropout=0.2):
        super().__init__()
        torch.manual_seed(0)
        self.through = through
        self.first = self.block(1, 6, dropout)
        self.second = self.block(6, 6, dropout)
        self.head = nn.Linear(6, 3)

    @staticmethod
    def block(inputs, outputs, dropout):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, x):
        return self.head(self.through(self.second, self.through(self.first, x)).mean((2, 3)))


def drawn(model, finder, data=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tombola.TicketWarning)
        return tombola.draw(
            model, data or images(), density=0.3, finder=finder, precision="32-true", progress=False, **options
        )


FROZEN = {
    **{f"cts-{name}": finders.CTS(objective=name, steps=6) for name in OBJECTIVES},
    "snip": finders.SNIP(rounds=3, batches=2),
    "force": finders.FORCE(rounds=3),
    "grasp": finders.GraSP(batches=2),
    "prospr": finders.ProsPr(training_steps=2, rounds=2),
    "edge-popup": finders.EdgePopup(steps=6),
    "synflow": finders.SynFlow(rounds=4),
    "saliency": finders.ObjectiveSaliency(objective="grad-match", batches=2),
}


@pytest.mark.parametrize("through", SAVING)
@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_run_gives_the_ticket_and_scores_of_a_network_that_keeps_its_activations(name, through):
    plain, saving = drawn(Net(), FROZEN[name]), drawn(Net(through), FROZEN[name])
    assert saving == plain
    assert all(torch.equal(saving.scores[key], plain.scores[key]) for key in plain)


def sparsified(model, finder, data=None, **options):
    data = data or images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tombola.TicketWarning)
        return tombola.sparsify(
            model, data, data, density=0.3, finder=finder, recipe=tombola.Recipe(epochs=2, learning_rate=0.05),
            rewind_to=0, precision="32-true", progress=False, **options,
        )  # fmt: skip


GATED = {"joint": finders.Joint(), "continuous-sparsification": finders.ContinuousSparsification()}


def same(one, other):
    assert one == other
    assert all(torch.equal(one.scores[key], other.scores[key]) for key in one)


@pytest.mark.parametrize("through", SAVING)
@pytest.mark.parametrize("name", GATED)
def test_a_training_under_gates_gives_the_ticket_of_a_network_that_keeps_its_activations(name, through):
    plain, saving = sparsified(Net(), GATED[name]), sparsified(Net(through), GATED[name])
    same(saving.ticket, plain.ticket)


class Chain(torch.autograd.Function):
    """Runs a module again in backward, and asks for the gradients of its inputs and of its parameters."""

    @staticmethod
    def forward(ctx, run, given, *parameters):
        ctx.run, ctx.parameters = run, parameters
        ctx.save_for_backward(given)
        with torch.no_grad():
            return run(given)

    @staticmethod
    def backward(ctx, gradient):
        given = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.run(given)
        return None, *torch.autograd.grad(output, [given, *ctx.parameters], gradient, allow_unused=True)


class Hoarder(Chain):
    """Lets the gradients of its parameters add up in them."""

    @staticmethod
    def backward(ctx, gradient):
        given = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.run(given)
        torch.autograd.backward(output, gradient)
        return None, given.grad, *[None for _ in ctx.parameters]


def by_hand(kind, run, given):
    return kind.apply(run, given, *run.parameters())


@pytest.mark.parametrize("finder", [FROZEN["cts-loss"], FROZEN["snip"], GATED["joint"]], ids=["cts", "snip", "joint"])
def test_a_function_of_somebodys_own_that_asks_for_gradients(finder):
    draw = drawn if finder is not GATED["joint"] else lambda *given: sparsified(*given).ticket
    plain, saving = draw(Net(dropout=0), finder), draw(Net(functools.partial(by_hand, Chain), 0), finder)
    same(saving, plain)


@pytest.mark.parametrize("name", ["cts-grad-norm", "grasp", "prospr"])
def test_a_function_of_somebodys_own_is_not_differentiated_twice(name):
    with pytest.raises(UsageError, match="would have to differentiate again; use torch"):
        drawn(Net(functools.partial(by_hand, Chain)), FROZEN[name])


@pytest.mark.parametrize("name", ["cts-loss", "snip", "edge-popup"])
def test_a_function_of_somebodys_own_that_loses_gradients_is_refused(name):
    with pytest.raises(UsageError, match=r"autograd function of its own that calls backward\(\)"):
        drawn(Net(functools.partial(by_hand, Hoarder)), FROZEN[name])


def test_a_function_of_somebodys_own_that_adds_gradients_up_is_right_in_a_training():
    class Later(Net):  # whose first block's input is data, for which the function gives no gradient
        def forward(self, x):
            return self.head(self.through(self.second, self.first(x)).mean((2, 3)))

    plain = sparsified(Later(dropout=0), GATED["joint"]).ticket
    same(sparsified(Later(functools.partial(by_hand, Hoarder), 0), GATED["joint"]).ticket, plain)


class Swish(torch.autograd.Function):
    """Computes and forgets, without running any module."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return gradient * (gate + x * gate * (1 - gate))


class Swishing(Net):
    def forward(self, x):
        x = Swish.apply(self.first(x)) if self.through is kept else checkpoint(self.some, x, use_reentrant=False)
        return self.head(self.second(x).mean((2, 3)))

    def some(self, x):
        return Swish.apply(self.first(x))


def test_functions_of_somebodys_own_that_run_no_module_may_be_differentiated_twice():
    same(drawn(Swishing(non_reentrant), FROZEN["grasp"]), drawn(Swishing(), FROZEN["grasp"]))


@pytest.mark.parametrize("through", [kept, *SAVING])
def test_each_of_several_runs_finds_its_own_weights_in_backward(through):
    network, batch = frozen(Net(through)), images(1)[0]
    plain = frozen(Net())
    network.use_batch_statistics(), plain.use_batch_statistics()
    scales = [torch.full((), scale, requires_grad=True) for scale in (0.5, 1.0, 2.0)]
    outputs = [network.under(scale * network.weights, batch) for scale in scales]
    loss = sum((number + 1) * output.square().sum() for number, output in enumerate(outputs))
    found = torch.autograd.grad(loss, scales)
    for number, (scale, gradient) in enumerate(zip(scales, found, strict=True)):
        alone = (number + 1) * plain.under(scale * plain.weights, batch).square().sum()
        assert torch.equal(gradient, torch.autograd.grad(alone, scale)[0])


def test_modules_are_copied_once_where_one_run_follows_another(monkeypatch):
    network, batch = frozen(Net(non_reentrant)), images(1)[0]
    made = []
    monkeypatch.setattr("tombola.networks.recomputation.Pass", lambda model: made.append(Pass(model)) or made[-1])
    weights = network.weights.clone().requires_grad_()

    def step():
        with network.capture() as features:
            output = network.under(weights, batch)
        torch.autograd.grad(output.sum() + features[0].sum(), weights)

    for _ in range(4):
        step()
    assert len(made) == 1
    held = [network.under(weights, batch).sum() for _ in range(3)]
    assert len(made) == 3
    del held
    step()
    assert len(made) == 3


def test_features_keep_a_run_alive_and_are_collected_once():
    network, plain, batch = frozen(Net(non_reentrant)), frozen(Net()), images(1)[0]

    def gradient(of):
        weights = of.weights.clone().requires_grad_()
        with of.capture() as features:
            of.under(weights, batch)
            of.under(2 * of.weights.clone().requires_grad_(), batch)
            assert [each.shape for each in features] == [(12, 6, 4, 4)] * 4
            (found,) = torch.autograd.grad(features[1].square().sum(), weights, retain_graph=True)
            assert len(features) == 4
        return found

    assert torch.equal(gradient(network), gradient(plain))


class Counting(nn.Module):
    """Weighs its inputs by how often it ran, in a buffer that is written to or put anew."""

    def __init__(self, through, anew):
        super().__init__()
        torch.manual_seed(0)
        self.through, self.anew = through, anew
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("count", torch.ones(()))

    def part(self, x):
        if self.anew:
            self.count = self.count + 1
        else:
            self.count += 1
        return torch.tanh(self.layer(x) * self.count.clone())

    def forward(self, x):
        return self.head(self.through(self.part, x))


@pytest.mark.parametrize("anew", [False, True])
def test_what_runs_again_finds_buffers_as_they_were(anew):
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    model = Counting(non_reentrant, anew)
    same(drawn(model, FROZEN["cts-loss"], data), drawn(Counting(kept, anew), FROZEN["cts-loss"], data))
    assert model.count == 1


def test_reentrant_checkpoints_are_torchs_own_again_afterwards():
    before = vars(torch.utils.checkpoint.CheckpointFunction).copy()
    drawn(Net(reentrant), FROZEN["grasp"])
    sparsified(Net(reentrant), GATED["joint"])
    assert vars(torch.utils.checkpoint.CheckpointFunction) == before


@pytest.mark.parametrize("through", SAVING)
def test_a_training_under_gates_leaves_running_statistics_as_one_run_makes_them(through):
    def trained(through):
        model = Net(through).train()
        network, mask = GatedNetwork(model, survey(model).layout, Task()), torch.ones(396).requires_grad_()
        torch.manual_seed(1)
        network.under(mask, images(1)[0]).square().mean().backward()
        return model, mask

    (one, by_one), (other, by_other) = trained(kept), trained(through)
    assert one.second[1].num_batches_tracked == 1
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(by_one.grad, by_other.grad)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter.grad, other.get_parameter(name).grad), name
        assert isinstance(parameter, nn.Parameter)


def test_sequences_in_segments():
    class Chained(Net):
        def forward(self, x):
            if self.through is not kept:
                return self.head(
                    checkpoint_sequential([*self.first, *self.second], 3, x, use_reentrant=True).mean((2, 3))
                )
            return super().forward(x)

    for finder in (FROZEN["cts-reverse-kl"], FROZEN["grasp"]):
        same(drawn(Chained(reentrant), finder), drawn(Chained(), finder))


SWITCHES = [FROZEN["cts-loss"], FROZEN["cts-grad-match"], FROZEN["prospr"], GATED["joint"]]


def by(finder):
    return drawn if finder not in GATED.values() else lambda *given, **named: sparsified(*given, **named).ticket


@pytest.mark.parametrize("finder", SWITCHES, ids=lambda finder: finder.name)
def test_torchvisions_switch(finder):
    from torchvision.models import DenseNet

    def dense(saving):
        torch.manual_seed(0)
        return DenseNet(4, (2, 2), 8, bn_size=2, num_classes=3, memory_efficient=saving, drop_rate=0.1)

    data = [(torch.randn(6, 3, 32, 32), torch.randint(3, (6,)))]
    same(by(finder)(dense(True), finder, data), by(finder)(dense(False), finder, data))


@pytest.mark.parametrize("finder", SWITCHES, ids=lambda finder: finder.name)
def test_timms_switch(finder):
    timm = pytest.importorskip("timm")

    def vit(saving):
        torch.manual_seed(0)
        sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 3}
        model = timm.models.VisionTransformer(**sizes, drop_rate=0.1)
        model.set_grad_checkpointing(saving)
        return model

    data = [(torch.randn(6, 3, 8, 8), torch.randint(3, (6,)))]
    same(by(finder)(vit(True), finder, data), by(finder)(vit(False), finder, data))


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("finder", GATED.values(), ids=lambda finder: finder.name)
def test_the_switch_of_transformers(finder, again):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 12, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 8}

    def bert(saving):
        torch.manual_seed(0)
        model = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**sizes))
        if saving:
            model.gradient_checkpointing_enable({"use_reentrant": again})
        return model

    words = torch.randint(1, 12, (8, 8))
    data = [{"input_ids": words, "attention_mask": torch.ones_like(words), "labels": (words == 7).any(dim=1).long()}]
    task = tombola.Task.hugging_face()
    same(
        sparsified(bert(True), finder, data, task=task).ticket, sparsified(bert(False), finder, data, task=task).ticket
    )


class Reaching(nn.Module):
    """Reaches its layers through a list, a partial, and a bound method."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.list = [self.layer]
        self.way = {
            "list": self.by_list,
            "partial": functools.partial(self.by_layer, self.layer),
            "bound": self.layer.forward,
            "lambda": lambda x: self.layer(x),
            "functional": lambda x: nn.functional.linear(x, self.layer.weight, self.layer.bias),
        }[way]

    def by_list(self, x):
        return self.list[0](x)

    @staticmethod
    def by_layer(layer, x):
        return layer(x)

    def forward(self, x):
        return self.head(self.way(x).relu())


@pytest.mark.parametrize("finder", [FROZEN["cts-loss"], GATED["joint"]], ids=lambda finder: finder.name)
@pytest.mark.parametrize("way", ["partial", "bound"])
def test_layers_reached_by_other_ways_are_masked(way, finder):
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    same(by(finder)(Reaching(way), finder, data), by(finder)(Reaching("list"), finder, data))


@pytest.mark.parametrize("way", ["list", "partial", "bound"])
def test_no_weights_no_output_by_any_way(way):
    model = Reaching(way)
    network, x = frozen(model), torch.randn(2, 4)
    for asks in (False, True):
        output = network.under(torch.zeros_like(network.weights).requires_grad_(asks), (x, None))
        assert torch.equal(output, model.head.bias.expand(2, 3))


@pytest.mark.parametrize("way", ["lambda", "functional"])
def test_layers_reached_in_a_way_that_copies_cannot_follow_are_refused(way):
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    with pytest.raises(UsageError, match=r"model cannot be copied: the copy uses layer\.weight of the model itself"):
        drawn(Reaching(way), FROZEN["snip"], data)
