"""Tickets that train sparse: like dense ones, to rounding; and what a sparse network refuses."""

import copy
import pickle
import warnings

import pytest

pytest.importorskip("numba")

import torch
from torch import nn

import tombola
from tombola.core.progress import Silent
from tombola.data import ListFeed
from tombola.errors import TicketWarning, UsageError
from tombola.networks.evaluation import evaluate
from tombola.networks.masking import survey
from tombola.networks.models import build
from tombola.networks.task import Task
from tombola.runs import pipeline
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig, built
from tombola.sparse import choice
from tombola.sparse.network import SparseNetwork
from tombola.sparse.rules import LayerCost, is_faster_sparse
from tombola.sparse.tracing import Untraceable
from tombola.storage.store import MemoryStore
from tombola.ticket import Ticket
from tombola.training import SGD, AdamW, Recipe, State, TrainingSetup, fit
from tombola.training.execution import DenseExecution, SparseExecution, execution_of
from tombola.training.trainer import Trainer

from .conftest import CPU, Dying, Killed, Listening, default_dtype, images


def resnet(seed=0):
    torch.manual_seed(seed)
    model = build("resnet20-w8", (1, 8, 8), 3)
    with torch.no_grad():  # off the kinks of ReLU, where either side is right
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias += torch.linspace(0.1, 0.4, len(layer.bias))
    return model


def pictures(count=3, size=8):
    return [(torch.nn.functional.interpolate(x, (8, 8)), y) for x, y in images(count, size)]


def ticket_of(model, density=0.05):
    layout = survey(model).layout
    generator = torch.Generator().manual_seed(1)
    return Ticket(
        {n: torch.rand(s, generator=generator) < density for n, s in zip(layout.names, layout.shapes, strict=True)}
    )


def setup(model, execution, **recipe):
    values = {"epochs": 2, "learning_rate": 0.05, **recipe}
    data = pictures()
    return TrainingSetup(
        model, Task(), ListFeed(data), ListFeed(data), Recipe(**values), CPU, 7, Silent(), execution=execution
    )


def entry(store=None):
    return (store or MemoryStore()).entry("fit", {"name": "x"})


OPTIMIZERS = {
    "sgd": SGD(),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "without momentum": SGD(momentum=0.0),
    "adamw": AdamW(),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_epoch_of_sparse_training_is_one_of_dense_training(optimizer):
    model = resnet()
    ticket = ticket_of(model)
    trained = {}
    for execution in ("dense", "sparse"):
        plan = setup(model, execution, epochs=1, optimizer=optimizer, weight_decay=1e-3)
        where = entry()
        trained[execution] = fit(plan, State.of(model), 1, where, "t", ticket), where.rows()
    (dense, rows), (sparse, sparse_rows) = trained["dense"], trained["sparse"]
    assert sparse_rows[0]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-4)
    assert sparse.tensors.keys() == dense.tensors.keys()
    for name, wanted in dense.tensors.items():
        found = sparse.tensors[name]
        assert found.shape == wanted.shape
        if "running" not in name and "tracked" not in name:
            # AdamW steps as far on a gradient that is rounding alone.
            assert torch.allclose(found, wanted, atol=2e-4 if type(optimizer) is SGD else 1e-1), name
        if name in ticket:
            assert found[~ticket[name]].eq(0).all()
    assert (sparse.cost.forward, sparse.cost.backward) == (dense.cost.forward, dense.cost.backward)


@pytest.mark.parametrize("optimizer", [SGD(), AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_sparse_training_goes_on_to_the_same_bits(optimizer, after):
    model = resnet()
    ticket, plan = ticket_of(model), setup(model, "sparse", optimizer=optimizer)
    straight = fit(plan, State.of(model), 2, entry(), "t", ticket)
    store = MemoryStore()
    dying = Dying(entry(store), after)
    with pytest.raises(Killed):
        fit(plan, State.of(model), 2, dying, "t", ticket)
    assert fit(plan, State.of(model), 2, entry(store), "t", ticket).digest == straight.digest


def test_checkpoints_are_of_the_plain_model():
    model = resnet()
    ticket, kept = ticket_of(model), {}
    for execution in ("dense", "sparse"):
        where = entry()
        fit(setup(model, execution, epochs=1), State.of(model), 1, where, "t", ticket)
        kept[execution] = where.resume()
    dense, sparse = kept["dense"], kept["sparse"]
    assert sparse["model"].keys() == dense["model"].keys()
    for ours, theirs in zip(sparse["optimizer"]["state"].values(), dense["optimizer"]["state"].values(), strict=True):
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_layers_that_run_dense_are_held_too(monkeypatch):
    monkeypatch.setattr(LayerCost, "is_lower_sparse", property(lambda self: self.positions > 1))  # not the last layer
    model = resnet()
    ticket = ticket_of(model)
    trained = fit(setup(model, "sparse"), State.of(model), 2, entry(), "t", ticket)
    assert trained.tensors["fc.weight"][~ticket["fc.weight"]].eq(0).all()
    assert trained.tensors["fc.weight"].count_nonzero() == ticket.kept_by_layer["fc.weight"]


def test_a_ticket_that_keeps_most_weights_trains_dense():
    model = resnet()
    for density, kind in ((0.9, DenseExecution), (0.05, SparseExecution)):
        assert type(execution_of(setup(model, "sparse"), copy.deepcopy(model), ticket_of(model, density))) is kind
    assert type(execution_of(setup(model, "sparse"), copy.deepcopy(model), None)) is DenseExecution


def config(**values):
    found = {"data": "digits", "model": "resnet20-w8", "finder": "magnitude", "density": 0.01, "epochs": 2}
    return built([{**found, "rewind_to": 1, "train_samples": 96, "batch_size": 32, "threads": 1, **values}])


def test_a_run_says_how_its_ticket_trained_and_is_called_by_that(tmp_path):
    progress, names = Listening(), {}
    for execution in ("dense", "sparse"):
        found = pipeline.run(config(execution=execution), tmp_path, progress)
        names[execution] = found.directory.name
    assert names["dense"] != names["sparse"]
    assert sum("tickets train sparse" in text for text in progress.said) == 1
    assert "execution: sparse" in (tmp_path / names["sparse"] / "config.yaml").read_text()
    # The same dense training serves both.
    assert len(list((tmp_path / ".store" / "shared").glob("dense*"))) <= 1


def test_a_finder_that_trains_tickets_draws_sparse_ones_for_itself(tmp_path):
    drawn = {}
    for finder in ("ltr:rate=0.5", "gradual"):
        for execution in ("dense", "sparse"):
            pipeline.draw(config(finder=finder, density=0.4, execution=execution), tmp_path, Silent())
            drawn[finder, execution] = {path.name for path in (tmp_path / ".store").glob("draw-*")}
    assert len(drawn["ltr:rate=0.5", "dense"]) == 1
    assert len(drawn["ltr:rate=0.5", "sparse"]) == 2
    # What trains weights and mask together does so dense, and its draw serves both.
    assert len(drawn["gradual", "sparse"]) == len(drawn["gradual", "dense"]) == 3


def test_dense_results_keep_their_names():
    cells = [Cell.prepare(resolve(config(execution=execution))) for execution in ("dense", "sparse")]
    assert "execution" not in cells[0].identity()
    assert cells[1].identity()["execution"] == ["sparse", choice.VERSION]


def test_auto_is_sparse_where_the_rule_says_so(monkeypatch):
    assert Cell.prepare(resolve(config(model="lenet-300-100", density=0.02))).config.execution == "dense"
    monkeypatch.setattr("tombola.sparse.choice.is_faster_sparse", lambda costs, samples: True)
    assert Cell.prepare(resolve(config(model="lenet-300-100", density=0.02))).config.execution == "sparse"


def test_the_rule():
    headline = LayerCost(weights=2304, kept=17, inputs=16, outputs=16, positions=1024)
    assert headline.is_lower_sparse
    assert is_faster_sparse([headline] * 20, 128)
    assert not is_faster_sparse([LayerCost(2304, 2304, 16, 16, 1024)], 128)
    assert not is_faster_sparse([LayerCost(640, 13, 64, 10, 1)], 16)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"clip_norm": 2.0}, "clip_norm is of the whole gradient"),
    ],
)
def test_sparse_is_refused_where_it_cannot_be(values, words):
    with pytest.raises(UsageError, match=words) as caught:
        Cell.prepare(resolve(config(execution="sparse", **values)))
    assert caught.value.option in {"execution", "model"}


def test_without_numba_tickets_train_dense_and_sparse_is_refused(monkeypatch):
    for where in ("tombola.sparse.choice", "tombola.ticket.core"):
        monkeypatch.setattr(f"{where}.numba_works", lambda: False)
    assert Cell.prepare(resolve(config())).config.execution == "dense"
    with pytest.raises(UsageError, match=r"pip install 'tombola\[fast\]'"):
        Cell.prepare(resolve(config(execution="sparse")))
    with pytest.raises(UsageError, match=r"pip install 'tombola\[fast\]'"):
        ticket_of(resnet()).accelerate(resnet())


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.body(x))


def test_a_network_that_cannot_run_sparse_trains_dense_and_says_why():
    model = Normed()
    found, note = choice.choose("auto", model, survey(model).layout, 0.01, lambda: torch.randn(2, 6), 128)
    assert found == "dense"
    assert (
        note == "tickets train dense, though numba is there: it holds an operation that has no sparse form: LayerNorm"
    )


def test_outputs_that_are_wrong_are_noticed(monkeypatch):
    monkeypatch.setattr("tombola.sparse.network.error_of", lambda network, example: 0.5)
    monkeypatch.setattr("tombola.sparse.choice.is_faster_sparse", lambda costs, samples: True)
    model = nn.Sequential(nn.Linear(6, 8))
    with pytest.raises(UsageError, match=r"outputs would be off by 0\.5"):
        choice.choose("sparse", model, survey(model).layout, 0.1, lambda: torch.randn(2, 6), 8)


def test_what_a_task_calls_a_model_with():
    x = torch.randn(2, 3)

    def found(forward):
        return choice.first_inputs(Task(forward=forward), ListFeed([(x, None)]))

    assert found(lambda model, batch: model(batch[0])) is x
    assert not isinstance(found(lambda model, batch: model(x, mask=None)), torch.Tensor)
    assert found(lambda model, batch: x) is None


def test_sparsify_trains_sparse_where_it_is_asked_to():
    model, data = resnet(), pictures()
    recipe = Recipe(epochs=2, learning_rate=0.05)
    given = {"density": 0.05, "recipe": recipe, "finder": "magnitude", "precision": "32-true", "progress": False}
    found = {
        execution: tombola.sparsify(model, data, data, execution=execution, **given)
        for execution in ("dense", "sparse")
    }
    assert found["dense"].ticket == found["sparse"].ticket
    for name, wanted in found["dense"].model.named_parameters():
        assert torch.allclose(found["sparse"].model.get_parameter(name), wanted, atol=2e-4)
    with pytest.raises(UsageError, match="execution 'fast' is unknown"):
        tombola.sparsify(model, data, data, execution="fast", **given)


@pytest.mark.parametrize(
    "read",
    [
        nn.Module.parameters,
        lambda model: [each.weight for each in model.modules() if type(each) is nn.Linear],
        lambda model: [each.detach() for each in model.parameters()],
    ],
)
def test_a_penalty_on_the_weights_trains_dense_and_says_so(read, capfd):
    def forward(model, batch):
        return model(batch[0]), sum(each.square().sum() for each in read(model) if each.dim() > 1)

    def loss(output, batch):
        return nn.functional.cross_entropy(output[0], batch[1]) + 0.1 * output[1]

    task = Task(forward=forward, loss=loss, metric=lambda output, batch: -loss(output, batch))
    model = nn.Sequential(nn.Linear(64, 400), nn.Linear(400, 400), nn.Linear(400, 3))
    data = [(torch.randn(8, 64), torch.randint(0, 3, (8,)))]
    given = {"density": 0.05, "task": task, "recipe": Recipe(epochs=2), "finder": "magnitude:allocation=uniform"}
    dense = tombola.sparsify(model, data, data, execution="dense", **given)
    found = tombola.sparsify(model, data, data, **given)
    assert "tickets train dense, though numba is there: its loss reads" in capfd.readouterr().err
    assert found.held_out_metric == dense.held_out_metric
    with pytest.raises(UsageError, match="cannot be sparse: its loss reads the model's weights"):
        tombola.sparsify(model, data, data, execution="sparse", **given)


class Dropping(nn.Module):
    """Reads again what a dropout changes in place."""

    def __init__(self, drop):
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(32, 300), nn.Linear(300, 300), drop

    def forward(self, x):
        x = self.first(x)
        return x + self.last(self.drop(x))


@pytest.mark.parametrize(
    "drop",
    [
        nn.Dropout(0.5, inplace=True),
        lambda x: nn.functional.dropout(x, 0.5, True, True),
        lambda x: nn.functional.dropout(x, 0.5, inplace=True),
    ],
)
def test_a_dropout_in_place_on_what_is_read_again_does_not_run_sparse(drop):
    masks = {name: torch.rand(300, inputs) < 0.02 for name, inputs in (("first.weight", 32), ("last.weight", 300))}
    with pytest.raises(Untraceable, match="a dropout in place changes what is read elsewhere too"):
        SparseNetwork(Dropping(drop), masks, torch.randn(2, 32))
    SparseNetwork(Dropping(nn.Dropout(0.5)), masks, torch.randn(2, 32))


class Sum(nn.Module):
    """Takes two tensors, by place or by name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, one, other):
        return self.layer(one + other)


def test_a_float32_model_is_accelerated_whatever_the_default_is(monkeypatch):
    model, x = resnet(), next(iter(pictures()))[0]
    ticket = tombola.draw(model, pictures(), density=0.1, finder="magnitude", progress=False)
    expected = ticket.accelerate(model)(x)
    with default_dtype(torch.float64), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ticket.accelerate(model)(x).equal(expected)


def test_an_accelerated_network_computes_in_float32_under_autocast():
    model, x = resnet(), next(iter(pictures()))[0]
    ticket = ticket_of(model)
    fast = ticket.accelerate(model)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        found = fast(x)
        behind = ticket.accelerate(model)(x.bfloat16())  # as a layer before it would give them
    assert found.equal(ticket.accelerate(model)(x))
    assert behind.equal(ticket.accelerate(model)(x.bfloat16().float()))


def test_a_network_that_is_accelerated_to_itself_follows_autocast():
    model, x = Normed(), torch.randn(4, 6)
    fast = Ticket({"body.weight": torch.rand(8, 6) < 0.3}).accelerate(model)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(TicketWarning, match="runs dense"):
            found = fast(x)
        assert found.equal(fast.dense()(x))


def test_a_model_of_two_inputs_is_accelerated_to_itself():
    model, x = Sum(), torch.randn(5, 4)
    ticket = tombola.Ticket({"layer.weight": torch.rand(3, 4) < 0.5})
    fast, masked = ticket.accelerate(model), ticket.apply_(copy.deepcopy(model))
    with pytest.warns(TicketWarning, match="the model runs dense: it is called with something else than one tensor"):
        found = fast(x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fast(x, other=x).equal(found)
    assert found.equal(masked(x, x))


@pytest.mark.parametrize("samples", [0, 1, 3, 70])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_accelerated_network_computes_what_the_masked_one_does(samples, threads):
    torch.set_num_threads(threads)
    model = resnet().train()
    for x, _ in pictures():
        model(x)  # running statistics
    ticket = ticket_of(model)
    fast, before = ticket.accelerate(model), copy.deepcopy(model.state_dict())
    masked = ticket.apply_(copy.deepcopy(model)).eval()
    x = torch.randn(samples, 1, 8, 8)
    for _ in range(2):
        found = fast(x)
        assert found.shape == (samples, 3)
        assert torch.allclose(found, masked(x), atol=1e-5)
        assert not found.requires_grad
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert twin(x).equal(found)
    plain = fast.dense()
    assert type(plain) is type(model)
    assert plain(x).equal(masked(x))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv1d(2, 6, 3, padding=1), (2, 15)), (nn.Linear(5, 6), (5,)), (nn.Conv2d(1, 6, 3), (1, 6, 7))],
)
def test_signals_features_and_images_are_accelerated(layer, shape):
    width = nn.Sequential(layer, nn.Flatten())(torch.zeros(1, *shape)).shape[1]
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(width, 4))
    ticket = Ticket({n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1})
    fast, x = ticket.accelerate(model), torch.randn(3, *shape)
    assert torch.allclose(fast(x), fast.dense()(x), atol=1e-5)


def test_an_accelerated_network_that_cannot_run_sparse_says_so_once():
    model = Normed()
    ticket = Ticket({"body.weight": torch.rand(8, 6) < 0.3})
    fast, x = ticket.accelerate(model), torch.randn(4, 6)
    with pytest.warns(TicketWarning, match="runs dense: it holds an operation that has no sparse form: LayerNorm"):
        found = fast(x)
    assert torch.allclose(found, ticket.apply_(copy.deepcopy(model))(x))
    fast(x)
    why = "it holds an operation that has no sparse form: LayerNorm"
    assert f"runs samples of [6]: dense: {why}" in repr(fast)


def test_a_network_elsewhere_than_on_the_cpu_is_accelerated_to_itself():
    fast = Ticket({"0.weight": torch.ones(3, 4, dtype=torch.bool)}).accelerate(
        nn.Sequential(nn.Linear(4, 3)).to("meta")
    )
    with pytest.warns(TicketWarning, match=r"runs dense: 0.weight is torch.float32 on meta, not float32 on the CPU"):
        assert fast(torch.empty(2, 4, device="meta")).shape == (2, 3)


def test_an_accelerated_network_says_how_it_runs():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    fast = Ticket({"0.weight": torch.arange(30).reshape(6, 5) < 9}).accelerate(model)
    assert repr(fast) == (
        "Accelerated(Sequential, 9 of 30 weights kept; the first call says whether it can run sparse)"
    )
    fast(torch.zeros(1, 5))
    assert repr(fast) == "Accelerated(Sequential, 9 of 30 weights kept; runs samples of [5]: by its kept weights)"


def test_several_threads_may_use_an_accelerated_network():
    from concurrent.futures import ThreadPoolExecutor

    model = resnet().eval()
    ticket = ticket_of(model)
    fast, batches = ticket.accelerate(model), [torch.randn(3, 1, 8, 8) for _ in range(12)]
    wanted = [fast(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(fast, batches), wanted, strict=True):
            assert found.equal(expected)


def test_evaluation_is_that_of_the_plain_model():
    model = resnet()
    ticket = ticket_of(model)
    where = entry()
    plan = setup(model, "sparse")
    trained = fit(plan, State.of(model), 2, where, "t", ticket)
    plain = resnet()
    plain.load_state_dict(trained.tensors)
    assert where.rows()[-1]["held_out_loss"] == pytest.approx(
        evaluate(plain, Task(), plan.held_out, CPU).loss, rel=1e-3
    )


def test_the_store_keeps_sparse_and_dense_trainings_apart():
    model = resnet()
    store = MemoryStore()
    trainers = [Trainer(setup(model, execution), State.of(model), store, {}) for execution in ("dense", "sparse")]
    ticket = ticket_of(model)
    for trainer in trainers:
        entry = trainer.ticket_entry(ticket, State.of(model))
        assert entry.get("x") is None
        entry.put("x", 1)
    assert trainers[1].ticket_entry(None, State.of(model)).get("x") is None
    assert RunConfig().execution == "auto"


class Woven(nn.Module):
    """Reads a tensor again after an operation in place has changed it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3), nn.Linear(32, 10)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.first(x)
        out = self.second(self.relu(x))
        return self.last(out.mean((2, 3)) + x.mean((2, 3)))


def unnormed():
    conv = nn.Conv2d(3, 32, 3)
    return nn.Sequential(conv, nn.BatchNorm2d(32, track_running_stats=False), nn.Flatten(), nn.Linear(32 * 36, 10))


@pytest.mark.parametrize(
    ("model", "shape", "why"),
    [
        (Woven, (3, 8, 8), "its outputs would be off by"),
        (unnormed, (3, 8, 8), "BatchNorm without running statistics"),
        (lambda: nn.Sequential(nn.Linear(8, 90), nn.ReLU(), nn.MaxPool1d(9), nn.Linear(10, 4)), (8,), "MaxPool1d"),
    ],
)
def test_what_the_sparse_steps_would_get_wrong_runs_dense_and_says_so(model, shape, why, capfd):
    model, x = model(), torch.randn(6, *shape)
    ticket = Ticket({n: torch.rand(p.shape) < 0.05 for n, p in model.named_parameters() if p.dim() > 1})
    fast = ticket.accelerate(model)
    with pytest.warns(TicketWarning, match=why):
        found = fast(x)
    assert found.equal(ticket.apply_(copy.deepcopy(model)).eval()(x.clone()))
    assert capfd.readouterr().err == "", "no traceback of torch.fx"


def test_sparse_where_it_was_asked_for_is_checked_too():
    model = Woven()
    with pytest.raises(UsageError, match="execution cannot be sparse: its outputs would be off by"):
        choice.choose("sparse", model, survey(model).layout, 0.2, lambda: torch.randn(4, 3, 8, 8), 4)


def test_an_optimizer_of_ones_own_sees_whole_weights_unless_it_says_that_it_needs_none():
    class Mine:
        def build(self, parameters, learning_rate, weight_decay):
            raise NotImplementedError

    cpu = torch.device("cpu")
    assert "may tell weights by their shapes" in choice.against_sparse(cpu, None, False, Mine())
    assert choice.against_sparse(cpu, None, False, type("Flat", (Mine,), {"by_shape": False})()) == ""
    assert choice.against_sparse(cpu, None, False, SGD()) == choice.against_sparse(cpu, None, False) == ""


def test_a_model_that_keeps_its_network_in_an_attribute_named_module_is_accelerated():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

        def forward(self, x):
            return self.module(x)

    model, x = Held(), torch.randn(4, 64)
    ticket = ticket_of(model)
    fast = ticket.accelerate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(fast(x), ticket.apply_(copy.deepcopy(model))(x), atol=1e-5)
    assert repr(fast).endswith("by its kept weights)")


class Tempered(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = 2.0
        self.layers = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 3))

    def forward(self, x):
        return self.layers(x)


def by_attribute(model, batch):
    return model(batch[0]) / model.temperature


def by_layer(model, batch):
    return model(batch[0]) + 0 * model.layers[0].weight.sum()


@pytest.mark.parametrize(("forward", "found"), [(by_attribute, "sparse"), (by_layer, "dense")])
def test_auto_trains_sparse_what_a_training_can_step_and_all_else_dense(forward, found, capsys, monkeypatch):
    monkeypatch.setattr(choice, "is_faster_sparse", lambda *_: True)
    torch.manual_seed(0)
    data = [(torch.randn(32, 64), torch.randint(0, 3, (32,))) for _ in range(2)]
    options = {"density": 0.02, "finder": "random", "recipe": Recipe(epochs=2), "task": Task(forward=forward)}
    trained = tombola.sparsify(Tempered(), data, data, execution="auto", **options)
    said = capsys.readouterr().err
    assert f"tickets train {found}" in said
    assert ("a step of its training fails" in said) == (found == "dense")
    dense = tombola.sparsify(Tempered(), data, data, execution="dense", progress=False, **options)
    assert dense.ticket == trained.ticket


def test_trying_a_step_changes_neither_model_nor_generators():
    torch.manual_seed(0)
    model, data = Tempered(), ListFeed([(torch.randn(8, 64), torch.randint(0, 3, (8,)))])
    before, x, stepped = copy.deepcopy(model.state_dict()), torch.randn(2, 64), []
    random = torch.get_rng_state()

    def step(network):
        stepped.append(network.dense.training)
        return choice.first_loss(Task(), data, network)

    found = choice.choose("sparse", model, survey(model).layout, 0.02, lambda: x, 8, step=step)
    assert (found[0], stepped) == ("sparse", [True, True])
    assert torch.get_rng_state().equal(random)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
