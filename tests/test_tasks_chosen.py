"""The task that targets ask for: chosen where they say so plainly, refused with the choices where they do not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tombola
from tombola import Recipe, Task, UsageError
from tombola.networks.task import settle_task, smoothed_cross_entropy, softmax_divergence
from tombola.objectives.features import _standardised

from .conftest import batches, mlp

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def points(count=200, outputs=1):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :outputs] > 0.5).float()


def named(task):
    """A task's preset, by what its loss belongs to."""
    loss = task.loss
    return type(getattr(loss, "__self__", None)).__name__ if hasattr(loss, "__self__") else loss.__class__.__name__


def draw(model, data, **keywords):
    return tombola.draw(model, data, **{"density": 0.5, "steps": 3, "progress": False, **keywords})


def sparsify(model, data, held_out, **keywords):
    options = {"density": 0.5, "finder": tombola.Random(), "recipe": Recipe(epochs=2), "progress": False}
    return tombola.sparsify(model, data, held_out, **{**options, **keywords})


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.long, torch.bool])
@pytest.mark.parametrize("squeezed", [False, True])
def test_one_output_and_targets_of_0_and_1_are_binary(shape, kind, squeezed):
    x, y = points()
    data = TensorDataset(x, y.reshape(shape).to(kind))
    model = nn.Sequential(mlp(classes=1), nn.Flatten(0)) if squeezed else mlp(classes=1)
    found = sparsify(model, data, data)
    right = ((found.model(x) > 0).reshape(-1) == y.reshape(-1).bool()).double().mean().item()
    assert found.held_out_metric == pytest.approx(right)
    assert 0.1 < right < 1


def test_binary_by_hand():
    task = Task.binary()
    output, reference = torch.tensor([[0.0], [math.log(3)]]), torch.tensor([[math.log(3)], [math.log(3)]])
    batch = (None, torch.tensor([1, 0]))
    # Probabilities 1/2 and 3/4.
    assert task.loss(output, batch).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert task.divergence(output, reference, batch).item() == pytest.approx(kl / 2, rel=1e-5)
    assert task.metric(torch.tensor([[-1.0], [2.0]]), batch).item() == 0
    assert task.metric(torch.tensor([3.0, 2.0]), batch).item() == 0.5
    assert task.prediction(output).flatten().tolist() == pytest.approx([0.5, 0.75])


def test_multi_label_by_hand():
    task = Task.multi_label()
    output = torch.tensor([[0.0, math.log(3), -1.0]])
    batch = (None, torch.tensor([[1.0, 1.0, 1.0]]))
    assert task.metric(output, batch).item() == pytest.approx(1 / 3)
    wanted = (math.log(2) + math.log(4 / 3) + math.log(1 + math.e)) / 3
    assert task.loss(output, batch).item() == pytest.approx(wanted, rel=1e-5)
    kl = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 3
    other = torch.tensor([[math.log(3), math.log(3), -1.0]])
    assert task.divergence(output, other, batch).item() == pytest.approx(kl, rel=1e-5)


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=6))
def test_a_divergence_of_labels_is_finite_not_negative_and_zero_where_outputs_agree(values):
    output = torch.tensor([values])
    for task in (Task.binary(), Task.multi_label()):
        mine = output.T if task.divergence.__self__.__class__.__name__ == "OneLabel" else output
        assert task.divergence(mine, mine, None).item() == 0
        assert task.divergence(mine, mine.flip(0).flip(1) + 1, None).item() >= -1e-6
        assert math.isfinite(task.divergence(mine, -mine, None).item())


def test_several_labels_of_0_and_1_are_multi_label():
    x, y = points(outputs=3)
    for targets in (y, y.long(), y.bool()):
        found = sparsify(mlp(), TensorDataset(x, targets), TensorDataset(x, targets))
        assert found.held_out_metric == pytest.approx(((found.model(x) > 0) == y.bool()).double().mean().item())
    ticket = draw(mlp(), [(x, y)], objective="reverse-kl")
    assert ticket == draw(mlp(), [(x, y)], objective="reverse-kl", task=Task.multi_label())


@pytest.mark.parametrize("soft", [True, False])
def test_rows_of_probabilities_stay_classification(soft):
    data = [(x, torch.eye(3)[y] * (0.8 if soft else 1) + (0.2 / 3 if soft else 0)) for x, y in batches()]
    task = settle_task(None, mlp()(data[0][0]), data[0], data[1:])
    assert named(task) == "Default"
    assert task.metric(data[0][1], data[0]).item() == 1


def test_rows_with_one_label_each_may_be_labels_of_a_batch_to_come():
    x, y = points(8, outputs=3)
    y[:4], y[4:] = torch.eye(3)[0], torch.tensor([1.0, 1.0, 0.0])
    first, second = (x[:4], y[:4]), (x[4:], y[4:])
    assert named(settle_task(None, mlp()(x[:4]), first, [second])) == "ManyLabels"
    task = settle_task(None, mlp()(x[:4]), first)
    with pytest.raises(UsageError, match=r"not the probabilities of classes: give Task\.multi_label\(\)"):
        task.loss(mlp()(x[4:]), second)


@pytest.mark.parametrize(
    ("classes", "targets", "words"),
    [
        (1, lambda y: y * 1.5, r"\(1\.5 is one\).*Task\.regression\(\) for numbers, task=Task\.binary\(\)"),
        (1, lambda y: y * 0, r"\(all are 0\).*Task\.regression\(\).*Task\.binary\(\)"),
        (1, lambda y: (y * 0 + 1).long(), r"\(all are 1\)"),
        (1, lambda y: y * 2 - 1, r"\(-1 is one\)"),
        (1, lambda y: y.repeat(1, 2), r"do not fit the model's outputs.*Task\.binary\(\) and Task\.regression\(\)"),
        (1, lambda y: (2 * y).long(), r"has one column, over which a softmax is constant; give task=Task\.binary\(\)"),
        (3, lambda y: torch.randn(len(y), 3), r"Task\.regression\(\) for numbers, task=Task\.multi_label\(\)"),
        (3, lambda y: torch.zeros(len(y), 3), r"\(all are 0\).*Task\.multi_label\(\)"),
        (3, lambda y: torch.eye(3).long()[y.long().flatten()], r"one 1 in each row.*each row adds up to 1"),
    ],
)
def test_what_targets_do_not_say_is_an_error_that_names_the_choices(classes, targets, words):
    x, y = points(40)
    with pytest.raises(UsageError, match=words):
        draw(mlp(classes=classes), [(x, targets(y))])


def test_sorted_labels_are_binary_where_further_batches_say_so():
    x, y = points(64)
    order = y.flatten().argsort()
    dataset = TensorDataset(x[order], y[order])
    for data in (list(zip(x[order].split(8), y[order].split(8), strict=True)), DataLoader(dataset, batch_size=8)):
        assert draw(mlp(classes=1), data) == draw(mlp(classes=1), data, task=Task.binary())
    numbers = torch.cat([torch.zeros(32, 1), torch.rand(32, 1)])
    with pytest.raises(UsageError, match="do not say what they are"):
        draw(mlp(classes=1), DataLoader(TensorDataset(x, numbers), batch_size=8))


def test_what_was_taken_for_labels_and_is_none_ends_in_a_sentence():
    x, y = points(16)
    data = [(x, y)] * 10 + [(x, y * 3)]
    with pytest.raises(UsageError, match="the target 3 where labels are 0 or 1"):
        draw(mlp(classes=1), data, steps=12)


def test_masks_of_one_channel_are_binary_pixel_by_pixel():
    x = torch.randn(4, 1, 6, 6)
    mask = (x > 0).float()
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    found = sparsify(model, [(x, mask)], [(x, mask)])
    assert found.held_out_metric == pytest.approx(((found.model(x) > 0) == mask.bool()).double().mean().item())
    same = sparsify(model, [(x, mask[:, 0].long())], [(x, mask[:, 0].long())])
    assert same.held_out_metric == found.held_out_metric
    with pytest.raises(UsageError, match=r"one column.*Task\.binary\(\)"):
        draw(model, [(x, mask[:, 0].long())], task=Task.segmentation())
    with pytest.raises(UsageError, match=r"targets of shape \(4, 1, 6, 6\) do not fit"):
        Task.segmentation().metric(torch.randn(4, 3, 6, 6), (None, torch.zeros(4, 1, 6, 6).long()))


def test_classification_never_takes_a_softmax_over_one_class():
    output, batch = torch.randn(4, 1), (None, torch.zeros(4).long())
    for part in (
        lambda: Task().loss(output, batch),
        lambda: Task().divergence(output, output, batch),
        lambda: Task().metric(output, batch),
        lambda: Task().prediction(output),
        lambda: smoothed_cross_entropy(0.1)(output, batch),
    ):
        with pytest.raises(UsageError, match="has one column, over which a softmax is constant"):
            part()


def test_classification_compares_each_output_with_its_own_target():
    with pytest.raises(UsageError, match="do not fit"):
        Task().metric(torch.randn(4, 3), (None, torch.zeros(4, 1).long()))


def binary_loss(output, batch):
    return nn.functional.binary_cross_entropy_with_logits(output, batch[1])


def test_half_a_task_does_not_keep_the_softmax():
    task = Task(loss=binary_loss)
    output, batch = torch.full((8, 4), 9.0), (None, torch.ones(8, 4))
    for name, part in (
        ("divergence", lambda: task.divergence(-output, output, batch)),
        ("metric", lambda: task.metric(output, batch)),
        ("prediction", lambda: task.prediction(output)),
    ):
        with pytest.raises(UsageError, match=rf"give Task\({name}=\.\.\.\) too"):
            part()
    x, y = points(outputs=3)
    assert draw(mlp(), [(x, y)], task=task, objective="loss").kept == 36, "what is not asked for need not be given"
    assert draw(mlp(), [(x, y)], task=task).provenance.finder["objective"] == "loss"
    for objective, name in (("reverse-kl", "divergence"), ("forward-kl", "divergence"), ("feature-mse", "prediction")):
        with pytest.raises(UsageError, match=rf"Task\({name}="):
            draw(mlp(), [(x, y)], task=task, objective=objective)
    with pytest.raises(UsageError, match=r"Task\(metric="):
        sparsify(mlp(), [(x, y)], [(x, y)], task=task)
    with pytest.raises(UsageError, match=r"Task\(divergence=\.\.\.\) too, or take the objective loss"):
        sparsify(mlp(), [(x, y)], [(x, y)], task=task, finder=None)


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
        lambda output, batch: nn.functional.cross_entropy(output, batch[1], torch.tensor([1.0, 2.0, 3.0])),
        lambda output, batch: (1 - output.softmax(dim=1).gather(1, batch[1][:, None])).pow(2).mean(),
        smoothed_cross_entropy(0.1),
    ],
)
def test_a_loss_that_sees_the_softmax_alone_keeps_the_rest_of_classification(loss):
    data, task = batches(), Task(loss=loss)
    assert draw(mlp(), data, task=task, objective="reverse-kl") == draw(mlp(), data, objective="reverse-kl")
    found = sparsify(mlp(), data, data, task=task)
    right = torch.cat([found.model(x).argmax(dim=1) == y for x, y in data]).double().mean().item()
    assert found.held_out_metric == pytest.approx(right)


def test_a_model_of_log_probabilities_keeps_the_rest_of_classification():
    model, data = nn.Sequential(mlp(), nn.LogSoftmax(dim=1)), batches()
    task = Task(loss=lambda output, batch: nn.functional.nll_loss(output, batch[1]))
    assert draw(model, data, task=task, objective="reverse-kl").kept == 36


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, batch: (output - nn.functional.one_hot(batch[1], 3)).square().mean(),
        lambda output, batch: nn.functional.binary_cross_entropy_with_logits(
            output, nn.functional.one_hot(batch[1], 3).float()
        ),
        lambda output, batch: nn.functional.cross_entropy(nn.functional.normalize(output), batch[1]),
    ],
)
def test_a_loss_that_sees_more_than_the_softmax_does_not(loss):
    with pytest.raises(UsageError, match=r"Task\(divergence="):
        draw(mlp(), batches(), task=Task(loss=loss), objective="reverse-kl")


def test_what_is_given_by_name_is_kept():
    task = Task(loss=binary_loss, divergence=softmax_divergence)
    assert task.divergence(torch.zeros(2, 3), torch.zeros(2, 3), None).item() == 0


def test_targets_of_0_and_1_do_not_change_a_task_given_in_parts():
    x, y = points(outputs=3)
    with pytest.raises(UsageError, match=r"beside the metric, give Task\(loss=\.\.\.\) too"):
        draw(mlp(), [(x, y)], task=Task(metric=lambda output, batch: output.mean()))
    of_x = Task(forward=lambda model, batch: model(batch[0] * 1))
    assert draw(mlp(), [(x, y)], task=of_x) == draw(mlp(), [(x, y)])


def test_a_single_number_a_sample_is_compared_as_it_is():
    assert torch.equal(_standardised(torch.tensor([1.0, 3.0])), torch.tensor([[1.0], [3.0]]))
    x, y = points()
    values = draw(mlp(classes=1), [(x, y)], objective="feature-mse").provenance.objective
    assert math.isfinite(values["hard"])


def test_the_command_line_refuses_a_single_class(tmp_path, bring, monkeypatch, capsys):
    from tombola.cli.main import main

    bring(
        "single",
        "import torch\nfrom torch import nn\nfrom torch.utils.data import TensorDataset\n"
        "def build(shape, classes):\n    return nn.Linear(6, classes)\n"
        "def datasets():\n    return [TensorDataset(torch.randn(40, 6), torch.zeros(40).long()) for _ in range(3)]\n",
    )
    monkeypatch.chdir(tmp_path)
    command = ["draw", "--model", "single:build", "--data", "single:datasets", "--density", "0.5", "--out", "out"]
    assert main(command) == 2
    assert "must give 2 outputs a sample" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "shape", "message"),
    [
        (tombola.Task.binary(), (4, 2), r"is not one logit a sample, \(samples,\) or \(samples, 1, \.\.\.\)"),
        (tombola.Task.multi_label(), (4,), r"is no batch of logits \(samples, labels, \.\.\.\)"),
    ],
)
def test_outputs_that_are_no_logits_of_labels_are_refused(task, shape, message):
    output = torch.zeros(shape)
    with pytest.raises(UsageError, match=message):
        task.loss(output, (None, torch.zeros(shape)))
