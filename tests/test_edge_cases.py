"""Models and batches that break other libraries: each is drawn from, or refused in one sentence."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import tombola
from tombola import Random, Recipe, TicketWarning, UsageError
from tombola.cli.main import main
from tombola.finders import FINDERS
from tombola.networks.masking import survey
from tombola.networks.models import load_into, read_weights
from tombola.networks.network import FrozenNetwork
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task

from .conftest import TinyConv, batches, default_dtype, images, mlp, train_epoch
from .test_api import draw

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def keeps_exactly(ticket, model, density=0.3):
    total = tombola.preview(model).prunable
    assert ticket.prunable == total
    assert ticket.kept == int(density * total + 0.5)


class Convolutions(nn.Module):
    """Grouped, depthwise, dilated and transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(2, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.depthwise(torch.relu(self.grouped(x))))
        return self.head(torch.relu(self.up(x)).mean(dim=(2, 3)))


def wide_images(count=2, size=12):
    return [(torch.randn(size, 2, 6, 6), torch.randint(3, (size,))) for _ in range(count)]


@pytest.mark.parametrize("objective", ["loss", "grad-norm"])
def test_grouped_depthwise_and_transposed_convolutions(objective):
    torch.manual_seed(0)
    model = Convolutions()
    keeps_exactly(draw(model, wide_images(), objective=objective), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions(dtype):
    model = mlp().to(dtype)
    data = [(x.to(dtype), y) for x, y in batches()]
    before = copy.deepcopy(model.state_dict())
    for objective in ("loss", "reverse-kl"):
        ticket = draw(model, data, objective=objective)
        keeps_exactly(ticket, model)
    assert all(value.dtype == dtype for value in model.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ticket.attach(model, optimizer):
        nn.functional.cross_entropy(model(data[0][0]).float(), data[0][1]).backward()
        optimizer.step()
    assert (model[0].weight[~ticket["0.weight"]] == 0).all()


class Counting(nn.Module):
    """Changes its buffers in forward, in place and by assignment; its output depends on them."""

    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.scale.mul_(1.5)
        self.calls = self.calls + 1
        return self.body(x) * self.scale + self.calls


def test_buffers_that_change_in_forward_leave_no_trace():
    model, data = Counting(), batches()
    ticket = draw(model, data, objective="reverse-kl")
    assert model.scale == 1
    assert model.calls == 0
    assert draw(model, data, objective="reverse-kl") == ticket
    network = FrozenNetwork(model, survey(model).layout, Task(), Runtime.choose(model, "cpu"))
    first = network.under(network.weights, data[0])
    assert torch.equal(network.under(network.weights, data[0]), first)
    assert torch.equal(network.dense(data[0]), first)


def test_dropout_is_off_in_a_search_and_on_in_training():
    torch.manual_seed(0)
    model, data = TinyConv().train(), images()
    network = FrozenNetwork(model, survey(model).layout, Task(), Runtime.choose(model, "cpu"))
    assert torch.equal(network.under(network.weights, data[0]), network.under(network.weights, data[0]))
    ticket = draw(model, data)
    model.drop.p = 0.9
    assert draw(model, data) == ticket


def test_a_model_in_eval_mode_gives_the_ticket_of_its_training_mode():
    torch.manual_seed(0)
    model, data = TinyConv(), images()
    assert draw(model.eval(), data) == draw(model.train(), data)
    assert model.training


def test_a_batch_of_one_cannot_be_normalised():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    data = [*batches(1), *batches(1, size=1)]
    message = "batch_size: a batch of one sample cannot be normalised by BatchNorm; choose another batch size"
    for objective in ("loss", "reverse-kl"):
        with pytest.raises(UsageError, match=message):
            draw(model, data, objective=objective)
    with pytest.raises(UsageError, match=message):
        tombola.sparsify(model, data, batches(1), density=0.5, progress=False)
    draw(model, batches())


def test_a_compiled_model_before_and_after():
    model, data = mlp(), batches()
    compiled = torch.compile(model, backend="eager")
    compiled(data[0][0])
    ticket = draw(compiled, data)
    assert ticket == draw(model, data)
    assert list(ticket) == ["0.weight", "2.weight"]
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.5, momentum=0.9)
    with ticket.attach(compiled, optimizer):
        for x, y in data * 2:
            optimizer.zero_grad()
            nn.functional.cross_entropy(compiled(x), y).backward()
            optimizer.step()
    assert (model[0].weight[~ticket["0.weight"]] == 0).all()
    assert (model[0].weight[ticket["0.weight"]] != 0).all()
    after = torch.compile(model, backend="eager")
    assert torch.equal(after(data[0][0]), model(data[0][0]))


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_sharded_weights_are_refused_by_name(mesh):
    from torch.distributed.tensor import distribute_tensor

    model = mlp()
    model[2].weight = nn.Parameter(distribute_tensor(model[2].weight.data, mesh))
    with pytest.raises(UsageError, match=r"the model is sharded over processes .* gather them by"):
        draw(model, batches())


def test_quantised_weights_are_refused_by_name():
    model = mlp()
    quantised = torch.quantize_per_tensor(model[0].weight.data, 0.1, 0, torch.qint8)
    model[0].weight = nn.Parameter(quantised, requires_grad=False)
    with pytest.raises(UsageError, match=r"0\.weight is quantised \(torch\.qint8\)"):
        draw(model, batches())
    model = mlp()
    model[2].weight = nn.Parameter(torch.ones(3, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match=r"2\.weight is quantised \(torch\.int8\)"):
        draw(model, batches())


def test_complex_weights_are_refused_by_name():
    model = nn.Sequential(nn.Linear(6, 8, dtype=torch.complex64), nn.Linear(8, 3, dtype=torch.complex64))
    with pytest.raises(UsageError, match=r"^0\.weight is complex \(torch\.complex64\); only real floating-point"):
        draw(model, batches())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_with_packed_weights_are_refused_by_name():
    model = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UsageError, match="module '0' is quantised; draw from the model before"):
        draw(model, batches())


def test_a_label_that_is_no_class_is_named():
    x, y = batches(1)[0]
    y[3] = 7
    with pytest.raises(UsageError, match="data has the label 7; the model's outputs are 0 to 2"):
        draw(mlp(), [(x, y)], objective="loss")


def test_an_optimizer_that_lacks_some_of_the_tickets_parameters():
    model = mlp()
    ticket = draw(model, batches())
    first, second = (torch.optim.SGD(layer.parameters(), lr=0.5) for layer in (model[0], model[2]))
    with pytest.warns(TicketWarning, match=r"optimizer does not hold 2\.weight"):
        ticket.attach(model, first).detach()
    with ticket.attach(model, first, second):
        for optimizer in (first, second):
            nn.functional.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
            optimizer.step()
            for name, mask in ticket.items():
                assert (model.get_parameter(name)[~mask] == 0).all()


def test_map_style_datasets():
    model = mlp()
    x, y = (torch.cat(parts) for parts in zip(*batches(4), strict=True))
    dataset = TensorDataset(x, y)
    ticket = draw(model, dataset, batch_size=16, objective="reverse-kl", seed=3)
    assert "kept once per sample" in ticket.provenance.teacher
    torch.manual_seed(99)
    assert draw(model, dataset, batch_size=16, objective="reverse-kl", seed=3) == ticket

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, row):
            return x[row] + torch.randn(6), int(y[row])

    ticket = draw(model, Noisy(), batch_size=16, objective="reverse-kl")
    assert "recomputed" in ticket.provenance.teacher
    torch.manual_seed(1)
    assert draw(model, Noisy(), batch_size=16, objective="reverse-kl") == ticket
    with pytest.raises(UsageError, match="batch_size must be a whole number of at least 1, got 0"):
        draw(model, dataset, batch_size=0)
    sparse, found = tombola.sparsify(
        model, dataset, dataset, density=0.5, recipe=tombola.Recipe(epochs=2), batch_size=16,
        finder=tombola.Random(), progress=False,
    )  # fmt: skip
    assert (sparse[0].weight[~found["0.weight"]] == 0).all()


def test_a_model_that_returns_its_loss_is_searched_by_it():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x, y):
            return nn.functional.cross_entropy(self.body(x), y)

    task = Task(forward=lambda model, batch: model(*batch), loss=lambda output, batch: output)
    model = Loss()
    keeps_exactly(draw(model, batches(), objective="loss", task=task), model)
    with pytest.raises(UsageError, match=r"give Task\(divergence=...\) too"):
        draw(model, batches(), objective="reverse-kl", task=task)


@pytest.mark.parametrize("output", [lambda y: (y, y), lambda y: {"logits": y}, lambda y: None, lambda y: y[:, 0]])
def test_outputs_that_are_no_scores_of_classes_need_a_task(output):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x):
            return output(self.body(x))

    for options in ({}, {"objective": "loss"}):
        with pytest.raises(UsageError, match="is no batch of scores for classes"):
            draw(Other(), batches(), **options)


def test_samples_in_place_of_batches_are_refused():
    ((x, y),) = batches(1)
    for data in (list(zip(x, y, strict=True)), list(zip(x, y.tolist(), strict=True))):
        with pytest.raises(UsageError, match=r"data gives single samples \(input, target\), where batches are wanted"):
            draw(mlp(), data)


def test_arrays_in_place_of_tensors_are_refused():
    ((x, y),) = batches(1)
    for batch in ((x.numpy(), y), (x, y.numpy()), ({"input": x.numpy()}, y)):
        with pytest.raises(UsageError, match="data gives NumPy arrays, where tensors are wanted"):
            draw(mlp(), [batch])


@pytest.mark.parametrize("error", [KeyError("mask"), AttributeError("no such thing"), AssertionError("too small")])
def test_whatever_a_model_raises_on_its_first_batch_is_one_sentence(error):
    class Broken(nn.Linear):
        def forward(self, x):
            raise error

    with pytest.raises(UsageError, match=f"cannot be run on the data's batches: {type(error).__name__}"):
        draw(Broken(6, 3), batches())


def test_a_model_that_keeps_a_result_cannot_be_copied():
    model = mlp()
    model.cache = model(torch.zeros(1, 6))
    with pytest.raises(UsageError, match="model cannot be copied: Only Tensors created explicitly"):
        draw(model, batches())


def test_a_frozen_model_cannot_be_trained():
    with pytest.raises(UsageError, match="model has no parameter to train"):
        tombola.sparsify(mlp().requires_grad_(False), batches(), batches(), density=0.5, progress=False)


def test_targets_may_be_probabilities():
    data = [(x, nn.functional.one_hot(y, 3).float()) for x, y in batches(4, size=3)]
    recipe = tombola.Recipe(epochs=2)
    soft = tombola.sparsify(mlp(), data, data, density=0.5, recipe=recipe, finder=Random(), progress=False)
    plain = batches(4, size=3)
    hard = tombola.sparsify(mlp(), plain, plain, density=0.5, recipe=recipe, finder=Random(), progress=False)
    assert soft.ticket == hard.ticket
    assert soft.held_out_metric == hard.held_out_metric > 0


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_training_function_may_wrap_the_model(wrap):
    def fit(model, job):
        wrapped = wrap(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        job.hold(wrapped, optimizer)
        for epoch in job.epochs:
            train_epoch(wrapped, optimizer, job.batches(epoch))

    found = tombola.sparsify(
        mlp(), batches(), batches(), density=0.5, recipe=tombola.Recipe(epochs=2), fit=fit, finder=Random(),
        progress=False,
    )  # fmt: skip
    assert type(found.model) is nn.Sequential
    assert sum(int((value == 0).sum()) for name, value in found.model.named_parameters() if "weight" in name) >= 36


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="this system has no /dev/null")
def test_a_ticket_replaces_no_device(tmp_path):
    ticket = draw(mlp(), batches())
    link = tmp_path / "device"
    link.symlink_to("/dev/null")
    with pytest.raises(UsageError, match="it is no file"):
        ticket.save(link)
    assert link.is_symlink()


WRAPPED = """
import torch
from torch import nn

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(1))
        first, second = nn.Linear(64, 64), nn.Linear(64, 64)
        second.weight = first.weight
        layers = nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, 10)
        self.module = nn.Sequential(*layers[:5], torch.compile(layers[5], backend="eager"))

    def forward(self, x):
        return self.module(x + self.shift)

def build():
    return Wrapped()
"""


def test_a_run_of_a_model_with_tied_weights_and_wrapped_parts_is_exported(tmp_path, monkeypatch, capsys):
    (tmp_path / "wrapped_tombola.py").write_text(WRAPPED)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    options = ["--model", "wrapped_tombola:build", "--epochs", "1", "--milestones", "[]", "--threads", "1"]
    draw_at = ["--finder", "random", "--draw-at", "init", "--rewind-to", "0", "--out", str(tmp_path / "o")]
    assert main(["run", *options, *draw_at, "--json"]) == 0
    directory = Path(json.loads(capsys.readouterr().out)["run_dir"])
    plain, dense = tmp_path / "plain.pt", directory / "start.safetensors"
    assert main(["export", str(directory), "--weights", str(dense), "--out", str(plain)]) == 0
    from wrapped_tombola import build

    expected, found = build(), build()
    load_into(expected, read_weights(dense), dense)
    tombola.Ticket.load(directory / "ticket.safetensors").apply_(expected)
    load_into(found, read_weights(plain), plain)
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize(
    "finder", ["random", "cts", "edge-popup", "gem-miner", "rigl", "gradual", "saliency", "hutchinson"]
)
def test_tickets_do_not_depend_on_torchs_default_device(finder):
    """Which here has no numbers at all; the model and the data are on the CPU."""
    model, data = mlp(), TensorDataset(*batches(1, size=32)[0])
    found = FINDERS.known[finder]
    found = replace(found, steps=5) if hasattr(found, "steps") else found

    def drawn():
        return tombola.sparsify(
            model, data, data, density=0.4, finder=found, recipe=Recipe(epochs=2), rewind_to=1, progress=False
        )

    expected = drawn()
    with torch.device("meta"):
        again = drawn()
    assert again.ticket == expected.ticket
    for value, other in zip(again.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(value, other)


def test_synflow_without_statistics_does_not_depend_on_torchs_default_device():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))
    data, options = batches(), {"density": 0.5, "finder": "synflow", "progress": False}
    expected = tombola.draw(model, data, **options)
    with torch.device("meta"):
        assert tombola.draw(model, data, **options) == expected


@pytest.mark.parametrize("granularity", ["channel", "block:2x2"])
def test_groups_do_not_depend_on_torchs_default_device(granularity):
    model, data = mlp(), batches()
    options = {"density": 0.5, "finder": "random", "granularity": granularity, "progress": False}
    expected = tombola.draw(model, data, **options)
    with torch.device("meta"):
        assert tombola.draw(model, data, **options) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "finder",
    [
        "cts:steps=5", "edge-popup:steps=5", "gem-miner:steps=5", "rigl:updates=3", "set:updates=3", "hutchinson",
        "hutchinson-taylor", "joint", "continuous-sparsification:rounds=1",
    ],
)  # fmt: skip
def test_tickets_do_not_depend_on_torchs_default_dtype(finder, dtype):
    """The model and the data are of float32, and so are the scores."""
    model, data = mlp(), batches()
    options = {"density": 0.4, "finder": finder, "recipe": Recipe(epochs=2), "rewind_to": 1, "progress": False}
    expected = tombola.sparsify(model, data, data, **options)
    with default_dtype(dtype):
        again = tombola.sparsify(model, data, data, **options)
    assert again.ticket == expected.ticket
    assert again.held_out_metric == expected.held_out_metric
    for found, known in (
        (again.ticket.scores, expected.ticket.scores),
        (again.model.state_dict(), expected.model.state_dict()),
    ):
        assert all(found[name].dtype == known[name].dtype and torch.equal(found[name], known[name]) for name in known)


class Bag(nn.Module):
    def __init__(self, kind, sparse):
        super().__init__()
        self.embed, self.head = kind(9, 6, sparse=sparse), nn.Linear(6, 3)

    def forward(self, x):
        found = self.embed(x)
        return self.head(found.mean(1) if found.dim() == 3 else found)


def of_bag(kind, sparse, finder):
    torch.manual_seed(0)
    data = [(torch.randint(0, 9, (8, 4)), torch.randint(0, 3, (8,))) for _ in range(2)]
    model = Bag(kind, sparse)
    found = tombola.sparsify(
        model, data, data, density=0.5, finder=finder, include=["*", "embed.weight"], rewind_to=0,
        recipe=tombola.Recipe(epochs=1, weight_decay=0.0), progress=False,
    )  # fmt: skip
    assert found.model.embed.sparse == model.embed.sparse == sparse
    return found.ticket


@pytest.mark.parametrize("finder", ["snip", "grasp", "joint", "cts:steps=2", "saliency:objective=grad-norm"])
def test_embeddings_with_sparse_gradients_give_the_tickets_of_those_with_dense_ones(finder):
    assert of_bag(nn.Embedding, True, finder) == of_bag(nn.Embedding, False, finder)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("finder", ["prospr", "grasp", "hutchinson", "cts:steps=2:objective=grad-norm"])
def test_what_cannot_be_differentiated_twice_is_said_in_a_sentence(sparse, finder):
    with pytest.raises(UsageError, match=r"torch cannot differentiate twice \(.*embedding_bag.*\), which this finder"):
        of_bag(nn.EmbeddingBag, sparse, finder)
