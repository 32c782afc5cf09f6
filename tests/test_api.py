import copy
import functools
import pickle
import subprocess
import sys
import threading
import warnings
from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tombola
from tombola import CTS, Random, Recipe, Task, TicketWarning, UsageError
from tombola.api.own import mark_of_model, mark_of_own
from tombola.finders import FINDERS, SNIP
from tombola.training import SGD

from .conftest import TinyConv, batches, images, mlp, train

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def draw(model, data, **options):
    return tombola.draw(model, data, **{"density": 0.3, "steps": 5, "progress": False, **options})


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_unchanged_by_a_draw(training):
    torch.manual_seed(0)
    model = TinyConv().train(training)
    model.drop.train(not training)  # a mode of its own
    before, kind, names = snapshot(model), type(model), list(model.state_dict())
    draw(model, images())
    assert type(model) is kind
    assert list(model.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training is training
    assert model.drop.training is not training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model._forward_hooks
    copy.deepcopy(model)
    pickle.loads(pickle.dumps(model))
    model(images()[0][0])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = x.unsqueeze(1)
        return self.head(self.attention(x, x, x)[0].squeeze(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.other = nn.Linear(6, 6)
        self.other.weight = self.body.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.other(torch.relu(self.body(torch.relu(self.body(x))))))


@pytest.mark.parametrize("objective", ["loss", "reverse-kl", "grad-norm", "grad-match"])
@pytest.mark.parametrize("build", [mlp, Attending, Twice])
def test_any_module_as_it_is(build, objective):
    model = build()
    ticket = draw(model, batches(), objective=objective)
    assert ticket.kept == round(0.3 * tombola.preview(model).prunable)
    ticket.check(model)
    assert model(batches()[0][0]).shape == (16, 3)


def test_torchvision_models():
    from torchvision.models import resnet18

    model = resnet18(num_classes=4)
    data = [(torch.randn(4, 3, 32, 32), torch.randint(4, (4,)))]
    ticket = draw(model, data, density=0.05, steps=2)
    assert ticket.kept == round(0.05 * tombola.preview(model).prunable)
    assert model.bn1.num_batches_tracked == 0


def test_wrapped_models_give_the_same_ticket():
    model = mlp()
    plain = draw(model, batches())
    assert draw(nn.DataParallel(model), batches()) == plain
    assert draw(torch.compile(model), batches()) == plain
    plain.apply_(torch.compile(model))


def test_the_default_objective_is_loss_until_something_is_learned():
    model, data = mlp(seed=1), batches(4, size=64)
    assert draw(model, data).provenance.finder["objective"] == "loss"
    train(model, data, epochs=5)
    assert draw(model, data).provenance.finder["objective"] == "reverse-kl"
    assert draw(model, data, objective="loss").provenance.finder["objective"] == "loss"


def test_lists_loaders_and_generators():
    model, data = mlp(), batches()
    whole = draw(model, data)
    assert draw(model, (batch for batch in data)) == whole
    assert draw(model, tuple(data)) == whole
    loader = DataLoader(TensorDataset(*data[0]), batch_size=4, shuffle=True)
    first = draw(model, loader, objective="reverse-kl")
    torch.manual_seed(9)
    assert draw(model, loader, objective="reverse-kl") == first
    assert "recomputed" in first.provenance.teacher


def test_other_batches_need_a_task():
    model, data = mlp(), [{"x": x, "y": y} for x, y in batches()]
    task = Task(
        forward=lambda model, batch: model(batch["x"]),
        loss=lambda output, batch: nn.functional.cross_entropy(output, batch["y"]),
    )
    draw(model, data, task=task)
    with pytest.raises(UsageError, match="must be a pair"):
        draw(model, data)


def test_another_finder():
    found = draw(mlp(), batches(), steps=None, finder=Random()).provenance.finder
    assert set(found) == {"name", "allocation", "granularity"}
    assert FINDERS.read(found) == Random()
    written = draw(mlp(), batches(), steps=None, finder="snip:rounds=2")
    assert written == draw(mlp(), batches(), steps=None, finder=SNIP(rounds=2))
    with pytest.raises(UsageError, match="finder excludes steps"):
        draw(mlp(), batches(), finder=CTS())


def test_bad_densities():
    for density in (0, 1.5, -1, "0.1", None, True):
        with pytest.raises(UsageError, match=r"density must (lie|be a number) in \(0, 1\]"):
            draw(mlp(), batches(), density=density)


def test_signs_of_trouble_are_warnings():
    with pytest.warns(TicketWarning, match="no weight is left"):
        draw(mlp(), batches(), density=0.02)


def test_patterns():
    ticket = draw(mlp(), batches(), exclude="2.*")
    assert list(ticket) == ["0.weight"]


def test_sparsify_returns_a_trained_plain_model_and_its_ticket():
    model, data, held_out = mlp(hidden=32), batches(8, size=64), batches(2, size=64, seed=1)
    before = snapshot(model)
    found = tombola.sparsify(
        model, data, held_out, density=0.4, recipe=Recipe(epochs=12, learning_rate=0.2),
        finder=CTS(steps=60), progress=False,
    )  # fmt: skip
    sparse, ticket = found
    assert type(sparse) is type(model)
    assert list(sparse.state_dict()) == list(before)
    for name, mask in ticket.items():
        assert (sparse.get_parameter(name)[~mask] == 0).all()
    assert ticket.kept == round(0.4 * ticket.prunable)
    assert found.held_out_metric > 0.8
    with torch.no_grad():
        right = sum((sparse.eval()(x).argmax(1) == y).sum().item() for x, y in held_out)
    assert found.held_out_metric == pytest.approx(right / 128)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert ticket.provenance.at == "rewind"
    assert ticket.provenance.cost.backward >= 8 * 64 + 60 * 64


def test_sparsify_refuses_a_rewind_point_at_the_end():
    with pytest.raises(
        UsageError, match="rewind_to must be a whole number between 0 and 2, the recipe's last epoch but one, got 3"
    ):
        tombola.sparsify(mlp(), batches(), batches(), density=0.5, recipe=Recipe(epochs=3), rewind_to=3)
    with pytest.raises(UsageError, match="rewind_to must be 0 for the finder imp, got 1"):
        tombola.sparsify(mlp(), batches(), batches(), density=0.5, finder="imp")


def test_a_model_whose_shapes_are_not_known_yet_is_refused():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    message = r"0\.weight is not initialised yet; run the model once on a batch first"
    with pytest.raises(UsageError, match=message):
        tombola.draw(model, batches(), density=0.5)
    with pytest.raises(UsageError, match=message):
        tombola.preview(model)
    with pytest.raises(UsageError, match="seed must be a whole number that is not negative, got True"):
        tombola.draw(mlp(), batches(), density=0.5, seed=True)


def test_the_modules_of_the_python_interface_are_there_at_once():
    code = "import tombola; print(tombola.finders.SNIP.name, tombola.objectives.OBJECTIVES.named('loss').name)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["snip", "loss"]
    homes = dict.fromkeys(("allocation", "concrete", "controllers", "granularity"), "core") | {"task": "networks"}
    for name, room in homes.items():
        assert import_module(f"tombola.{name}") is import_module(f"tombola.{room}.{name}") is getattr(tombola, name)


def test_importing_tombola_imports_no_torch():
    code = "import sys, tombola, tombola.cli.main; assert 'torch' not in sys.modules; print(dir(tombola))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sparsify" in found.stdout


def test_public_names_exist():
    for name in tombola.__all__:
        assert getattr(tombola, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tombola.nothing


class OwnController:
    """Fields of an ordinary class are not known, so its tickets could not say what made them."""

    name = "own"

    def init(self, logits):
        raise AssertionError

    def update(self, *arguments):
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "10"}, "steps must be a whole number of at least 1, got '10'"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"controller": "pid"}, "controller 'pid' is unknown; allowed are gradbalance, proportional, lagrangian, or"),
        ({"controller": OwnController()}, "is no controller: it must be a dataclass"),
        ({"controller": Random()}, r"controller: Random\(.* is no controller: it lacks init and update"),
        ({"steps": None, "finder": "randon"}, "finder 'randon' is unknown; allowed are .*; did you mean random"),
        ({"steps": None, "finder": OwnController()}, "is no finder: it lacks draw"),
        ({"density": {}}, "density must hold patterns with their densities, got none"),
        ({"density": {"0.*": 0.5}}, r"density: no pattern matches 2\.weight; end with '\*' for all the rest"),
        ({"density": {"*": 0.5, "0.*": 0.1}}, r"density: the pattern '0\.\*' decides about no prunable layer"),
        ({"density": {"*": 2}}, r"density must lie in \(0, 1\], got 2; did you mean 0\.02\?$"),
        ({"density": 5}, r"density must lie in \(0, 1\], got 5; did you mean 0\.05\?$"),
        ({"density": 500}, r"density must lie in \(0, 1\], got 500$"),
        ({"density": "2%"}, r"density must be a number in \(0, 1\], such as 0\.02, got '2%'"),
        (
            {"steps": 5, "finder": "snip"},
            "steps is not an option of the finder snip, which has allocation,",
        ),
        ({"steps": 5, "finder": "cts"}, "finder excludes steps, objective and controller: give them to the finder"),
        ({"seed": -1}, "seed must be a whole number that is not negative"),
        ({"objective": "best"}, "objective 'best' is unknown"),
    ],
)
def test_wrong_arguments_get_a_sentence_before_any_work(options, message):
    model = mlp()
    model.register_forward_hook(lambda *_: pytest.fail("the model has been run"))
    with pytest.raises(UsageError, match=message):
        draw(model, batches(), **options)


def test_python_arguments_of_the_wrong_kind_get_a_sentence():
    data = batches()
    for options, message in (
        ({"include": 3}, "include must be a glob pattern of parameter names or a list of them, got 3"),
        ({"exclude": 5}, "exclude must be a glob pattern"),
        ({"task": Task}, r"task must be a tombola\.Task, got"),
        ({"held_out": 3}, "held_out must be an iterable"),
        ({"held_out": []}, "held_out is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            tombola.draw(mlp(), data, density=0.5, progress=False, **options)
    with pytest.raises(UsageError, match=r"recipe must be a tombola\.Recipe, got \{\}"):
        tombola.sparsify(mlp(), data, data, density=0.5, recipe={}, progress=False)
    with pytest.raises(UsageError, match="out must be a directory of a file system, and no address such as s3:"):
        tombola.sparsify(mlp(), data, data, density=0.5, out="s3://bucket/runs", progress=False)
    with pytest.raises(UsageError, match="data gives a batch without samples"):
        tombola.draw(mlp(), [(torch.zeros(0, 6), torch.zeros(0).long())], density=0.5, progress=False)
    few = torch.utils.data.TensorDataset(torch.zeros(3, 6), torch.zeros(3).long())
    none = torch.utils.data.DataLoader(few, 8, drop_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match=r"^data is empty: it gave no batch, as loaders"):
            tombola.draw(mlp(), none, density=0.5, progress=False)
        for name, given in (("train", (none, data)), ("held_out", (data, none))):
            with pytest.raises(UsageError, match=f"^{name} is empty: it gave no batch, as loaders with drop_last"):
                tombola.sparsify(mlp(), *given, density=0.5, finder="snip", progress=False, fit=pytest.fail)


def test_data_that_do_not_fit_the_model_get_a_sentence_before_any_training():
    x, y = batches(1)[0]
    narrow = [(x[:, :4], y)]
    for call in (
        lambda: draw(mlp(), narrow),
        lambda: draw(mlp(), narrow, finder=Random(), steps=None),
        lambda: draw(mlp(), batches(), held_out=narrow),
        lambda: tombola.sparsify(mlp(), narrow, batches(), density=0.5, progress=False),
        lambda: tombola.sparsify(mlp(), batches(), narrow, density=0.5, progress=False, fit=pytest.fail),
    ):
        with pytest.raises(UsageError, match=r"model cannot be run on the data's batches: .*shapes cannot be mult"):
            call()
    for wrong, words in ((y.float(), r"shape \(16,\) and type float32"), (y[:5], r"shape \(5,\) and type int64")):
        with pytest.raises(UsageError, match=rf"data's targets of {words} do not fit the model's outputs of shape"):
            draw(mlp(), [(x, wrong)])


def test_sparsify_names_milestones_beyond_the_last_epoch(capfd):
    recipe = tombola.Recipe(epochs=2, milestones=(1, 7))
    tombola.sparsify(mlp(), batches(), batches(), density=0.5, recipe=recipe, finder=Random())
    assert "no drop of the learning rate at milestones 7: epochs is 2" in capfd.readouterr().err


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_draw_works_where_gradients_are_off(mode):
    model, data = mlp(), batches()
    expected = draw(model, data)
    with mode():
        assert draw(model, data) == expected


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_sparsify_trains_where_gradients_are_off(mode):
    model, data = mlp(), batches()
    options = {"density": 0.5, "finder": "snip", "recipe": Recipe(epochs=2), "progress": False}
    expected = tombola.sparsify(model, data, data, **options)
    with mode():
        found = tombola.sparsify(model, data, data, **options)
    assert (found.ticket, found.held_out_metric) == (expected.ticket, expected.held_out_metric)


def all_equal(one, other):
    return all(torch.equal(other.state_dict()[name], value) for name, value in one.state_dict().items())


@pytest.mark.parametrize("around", [torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_draw_and_a_training_do_not_depend_on_autocast_around_them(precision, around):
    model, data = mlp(), batches()
    options = {"density": 0.9, "finder": "magnitude", "recipe": Recipe(epochs=20), "progress": False}
    options |= {"precision": precision, "execution": "dense"}
    drawn, expected = draw(model, data, precision=precision), tombola.sparsify(model, data, data, **options)
    assert expected.held_out_metric == 1, "each step sees the weights that the one before it left"
    with around:
        before = torch.is_autocast_enabled("cpu")
        found = draw(model, data, precision=precision)
        assert all(torch.equal(found.scores[name], scores) for name, scores in drawn.scores.items())
        found = tombola.sparsify(model, data, data, **options)
        assert torch.is_autocast_enabled("cpu") == before
    assert all_equal(found.model, expected.model)


@pytest.mark.parametrize(
    "around", [nullcontext(), torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)]
)
def test_a_training_function_may_stand_in_autocast_of_its_own(around):
    def fit(model, job):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        job.hold(model, optimizer)
        for epoch in job.epochs:
            for x, y in job.batches(epoch):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()

    data, recipe = batches(), Recipe(epochs=20)
    options = {"density": 0.9, "finder": "magnitude", "progress": False, "recipe": recipe}
    with around:
        assert tombola.sparsify(mlp(), data, data, fit=fit, **options).held_out_metric > 0.9


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"learning_rate": -1}, {"weight_decay": -1}])
def test_impossible_recipes_are_refused(fields):
    with pytest.raises(UsageError, match=f"^{next(iter(fields))} must be"):
        Recipe(**fields)
    with pytest.raises(UsageError, match=r"^momentum must be a number in \[0, 1\), got 5"):
        Recipe(optimizer=SGD(momentum=5))


def test_whole_tensors_are_told_from_batches():
    inputs, targets = batches(1, size=16)[0]
    with pytest.raises(UsageError, match=r"data is a pair of tensors, .*TensorDataset\(inputs, targets\)"):
        tombola.draw(mlp(), (inputs, targets), density=0.5, progress=False)
    tombola.draw(mlp(), ((inputs, targets),), density=0.5, finder="snip", progress=False)


@pytest.mark.parametrize("objective", ["reverse-kl", "forward-kl"])
def test_a_divergence_from_a_network_that_knows_nothing_is_warned_of(objective):
    options = {"density": 0.5, "steps": 60, "objective": objective, "progress": False}
    with pytest.warns(tombola.TicketWarning, match=f"{objective} imitates the network at the weights"):
        tombola.draw(mlp(), batches(), **options)
    trained = tombola.draw(train(mlp(), batches()), batches(), **options)
    assert not any("imitates" in sign for sign in trained.provenance.warnings)
    without_targets = [inputs for inputs, _ in batches()]
    unlabelled = tombola.Task(forward=lambda model, batch: model(batch), samples=len)
    ticket = tombola.draw(mlp(), without_targets, task=unlabelled, **options)
    assert not any("imitates" in sign for sign in ticket.provenance.warnings)


def fitted(model, job, lr=0.5, *, momentum=0.0):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    job.hold(model, optimizer)
    for epoch in job.epochs:
        for x, y in job.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def closed_over(lr):
    return lambda model, job: fitted(model, job, lr)


def by_default(lr):
    def fit(model, job, rate=lr):
        fitted(model, job, rate)

    return fit


def by_keyword_default(lr):
    def fit(model, job, *, settings={"lr": lr}):  # noqa: B006
        fitted(model, job, **settings)

    return fit


class Fitting:
    def __init__(self, lr):
        self.lr = torch.tensor(lr)

    def __call__(self, model, job):
        fitted(model, job, self.lr.item())


MAKERS = {
    "partial": lambda lr: functools.partial(fitted, lr=lr),
    "partial of a closure": lambda lr: functools.partial(closed_over(lr)),
    "wrapped": lambda lr: torch.enable_grad()(closed_over(lr)),
    "closure": closed_over,
    "default": by_default,
    "keyword default": by_keyword_default,
    "object": Fitting,
    "method": lambda lr: Fitting(lr).__call__,
    "another function of the file": {0.5: lambda m, j: fitted(m, j, 0.5), 0.01: lambda m, j: fitted(m, j, 0.01)}.get,
}


def kept(out, model=None, **options):
    options = {"finder": Random(), "recipe": Recipe(epochs=2), **options}
    model = mlp() if model is None else model
    found, _ = tombola.sparsify(model, batches(), batches(), density=0.5, out=out, progress=False, **options)
    return torch.cat([p.detach().flatten() for p in found.parameters()])


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_out_tells_training_functions_by_what_they_hold(tmp_path, maker):
    first, other = (kept(tmp_path, fit=maker(lr)) for lr in (0.5, 0.01))
    assert not torch.equal(first, other)
    before = len(list(tmp_path.iterdir()))
    assert torch.equal(kept(tmp_path, fit=maker(0.5)), first)
    assert len(list(tmp_path.iterdir())) == before, "the same call finds what is there"


class Noisy(torch.utils.data.Dataset):
    """Samples with noise from a generator of their own, or else from torch's global one."""

    def __init__(self, own):
        self.generator = torch.Generator().manual_seed(3) if own else None

    def __len__(self):
        return 32

    def __getitem__(self, row):
        return torch.randn(6, generator=self.generator), row % 3


def shuffled(dataset):
    return DataLoader(dataset, 16, shuffle=True, generator=torch.Generator())


@pytest.mark.parametrize("made", [lambda data: data, shuffled, lambda data: iter(shuffled(data))])
@pytest.mark.parametrize("own", [True, False])
def test_out_warns_of_data_that_are_others_when_they_are_read_again(tmp_path, made, own):
    data = made(Noisy(own))
    again = own and not hasattr(data, "__next__")  # what can be read only once was read into a list
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        tombola.sparsify(mlp(), data, batches(), density=0.5, finder="random", steps=None, out=tmp_path, progress=False)
    said = [
        str(each.message) for each in found if "the samples are others when they are read again" in str(each.message)
    ]
    assert len(said) == again
    assert all(each.filename == __file__ for each in found if str(each.message) in said)


RATE, SETTINGS, LOCK = 0.5, {"lr": 0.5}, threading.Lock()


def by_global(model, job):
    fitted(model, job, RATE)


def by_global_within(model, job):
    (lambda: fitted(model, job, SETTINGS["lr"]))()


def by_function(model, job):
    by_global(model, job)


class ByGlobal:
    def __call__(self, model, job):
        fitted(model, job, RATE)


@pytest.mark.parametrize("fit", [by_global, by_global_within, by_function, ByGlobal()])
def test_out_tells_training_functions_by_the_globals_that_they_read(tmp_path, monkeypatch, fit):
    def at(lr):
        monkeypatch.setitem(globals(), "RATE", lr)
        monkeypatch.setitem(SETTINGS, "lr", lr)
        return kept(tmp_path, fit=fit)

    first, other = at(0.5), at(0.01)
    assert not torch.equal(first, other)
    before = len(list(tmp_path.iterdir()))
    monkeypatch.setitem(globals(), "batches_of_nobody", 1)
    assert torch.equal(at(0.5), first)
    assert len(list(tmp_path.iterdir())) == before, "the same call finds what is there"


CONSOLE, SEEN = SimpleNamespace(lock=LOCK), []


def logs(model, job):
    SEEN.append(CONSOLE)
    fitted(model, job)


def test_globals_that_functions_change_or_that_cannot_be_told_from_others_are_no_new_call(tmp_path):
    first = kept(tmp_path, fit=logs)
    entries, seen = len(list(tmp_path.iterdir())), len(SEEN)
    assert torch.equal(kept(tmp_path, fit=logs), first)
    assert (len(list(tmp_path.iterdir())), len(SEEN)) == (entries, seen), "nothing is trained again"


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n > 0 and even(n - 1)


LOADER = DataLoader(TensorDataset(torch.zeros(2)), num_workers=1)
READ = {
    "functions that call each other": lambda: even(2),
    "a library's function and class": lambda: (pytest.approx, F.relu, torch.relu, DataLoader, functools.partial),
    "a loader": lambda: LOADER,
    "a type and a generator": lambda: (DTYPE, GENERATOR),
    "an attribute named as a global": lambda model: model.LOCK,
}
DTYPE, GENERATOR = torch.float16, torch.Generator()


@pytest.mark.parametrize("function", READ.values(), ids=READ)
def test_a_mark_of_what_a_function_reads_is_the_same_each_time(function):
    assert mark_of_own("fit", function) == mark_of_own("fit", function)


def test_out_tells_losses_and_objectives_by_what_they_hold(tmp_path):
    def weighted(weight):
        return Task(loss=lambda output, batch: F.cross_entropy(output, batch[1], weight=torch.tensor(weight)))

    def searched(factor):
        return CTS(steps=2, objective=lambda masked: factor * masked.sparse.square().mean())

    losses = [kept(tmp_path, task=weighted(weight)) for weight in ([1.0, 1.0, 1.0], [1.0, 50.0, 1.0])]
    assert not torch.equal(*losses)
    drawn = []
    for factor in (1.0, -1.0, 1.0):
        kept(tmp_path, finder=searched(factor))
        drawn.append(len(list(tmp_path.glob("draw-*"))))
    assert drawn[0] < drawn[1] == drawn[2]


def test_out_refuses_functions_that_hold_what_cannot_be_told_from_others(tmp_path):
    lock = threading.Lock()

    def locked(model, job):
        with lock:
            fitted(model, job)

    with pytest.raises(UsageError, match=r"out needs functions .* lock in .*locked cannot be \(TypeError"):
        kept(tmp_path / "out", fit=locked)
    assert list(tmp_path.iterdir()) == []
    kept(None, fit=locked)


def test_out_tells_models_by_settings_that_their_layers_do_not_print(tmp_path):
    def attending(heads, **options):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(4, heads, 8, 0.0, batch_first=True, **options)
        return nn.Sequential(nn.Linear(6, 8), nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.Linear(8, 3))

    models = {"one": attending(1), "four": attending(4), "first": attending(1, norm_first=True)}
    found = {name: kept(tmp_path, model) for name, model in models.items()}
    assert len({tuple(weights.tolist()) for weights in found.values()}) == len(models)
    entries = len(list(tmp_path.iterdir()))
    assert torch.equal(kept(tmp_path, attending(1).eval()), found["one"])
    assert len(list(tmp_path.iterdir())) == entries


def test_out_tells_models_by_layers_frozen_weights_and_code(tmp_path):
    def activated(function):
        class Activation(nn.Module):
            forward = function

        return Activation()

    def model(activation, frozen=False):
        found = mlp()
        found[0].requires_grad_(not frozen)
        found[1] = activation
        return found

    models = [
        model(nn.ReLU()),
        model(nn.Tanh()),
        model(nn.ReLU(), frozen=True),
        model(activated(lambda self, x: x.sin())),
        model(activated(lambda self, x: x.cos())),
    ]
    found = [kept(tmp_path, each) for each in models]
    assert len({tuple(weights.tolist()) for weights in found}) == len(models)
    entries = len(list(tmp_path.glob("train-*")))
    assert torch.equal(kept(tmp_path, model(nn.ReLU())), found[0])
    assert len(list(tmp_path.glob("train-*"))) == entries


def scaling(by):
    return lambda module, inputs, output: output * by


def test_models_are_told_apart_by_their_hooks():
    def marked(*hooks):
        model = mlp()
        for kind, hook in hooks:
            getattr(model[0], f"register_{kind}")(hook)
        return mark_of_model(model)

    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.handle = self.layer.register_forward_hook(self.seen)

        def seen(self, module, inputs, output):
            return output

    torch.manual_seed(0)
    first = mark_of_model(Held())
    torch.manual_seed(0)
    assert mark_of_model(Held()) == first, "handles count all hooks of a process"
    half, double = ("forward_hook", scaling(0.5)), ("forward_hook", scaling(2.0))
    before = ("forward_pre_hook", lambda module, inputs: (inputs[0] * 2,))
    assert len({marked(), marked(half), marked(double), marked(before), marked(half, before)}) == 5
    assert marked(half) == marked(("forward_hook", scaling(0.5)))


def test_warnings_of_sparsify_point_at_its_caller():
    data, options = batches(), {"density": 1e-9 + 2 / 99, "finder": "magnitude:allocation=global", "progress": False}
    model = mlp()
    with torch.no_grad():
        model[2].weight.mul_(1e-4)
    with pytest.warns(tombola.TicketWarning, match="no weight is left") as caught:
        tombola.sparsify(model, data, data, recipe=Recipe(epochs=2, learning_rate=1e-6), **options)
    assert {warning.filename for warning in caught if warning.category is tombola.TicketWarning} == {__file__}
