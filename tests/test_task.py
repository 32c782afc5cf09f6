import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tombola
from tombola import Task, UsageError
from tombola.data import feed_of
from tombola.networks.evaluation import evaluate
from tombola.networks.runtime import Runtime
from tombola.networks.task import batch_size

from .conftest import batches, mlp

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


def test_samples_are_counted_in_any_batch():
    assert batch_size(torch.zeros(3, 2)) == 3
    assert batch_size((torch.zeros(4, 2), torch.zeros(4))) == 4
    assert batch_size({"text": "a", "x": torch.zeros(5)}) == 5
    with pytest.raises(UsageError, match="a batch must hold a tensor, got str"):
        batch_size("a")


def test_segmentation_ignores_labels_by_hand():
    task = Task.segmentation(ignored=255)
    # Two pixels with probabilities (1/2, 1/2) and (9/10, 1/10); the second does not count.
    output = torch.tensor([[[[0.5, 0.9]], [[0.5, 0.1]]]]).log()
    reference = torch.tensor([[[[0.25, 0.1]], [[0.75, 0.9]]]]).log()
    batch = (None, torch.tensor([[[1, 255]]]))
    assert task.loss(output, batch).item() == pytest.approx(math.log(2), rel=1e-5)
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert task.divergence(output, reference, batch).item() == pytest.approx(by_hand, rel=1e-5)
    assert task.metric(output, batch).item() == 0
    nothing = (None, torch.tensor([[[255, 255]]]))
    assert task.divergence(output, reference, nothing).item() == 0


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
@pytest.mark.parametrize("metric", ["pixel-accuracy", "mean-iou"])
def test_classes_of_pixels_are_whole_numbers_of_any_type(kind, metric):
    task, classes = Task.segmentation(metric=metric), 20  # 20 times 20 is more than a byte holds
    targets = torch.arange(36).view(1, 6, 6) % classes
    targets[0, 0, 0] = 255
    output = torch.randn(1, classes, 6, 6)
    for part in (task.loss, task.metric):
        score = part.counts if metric == "mean-iou" and part is task.metric else part
        assert score(output, (None, targets.to(kind))).equal(score(output, (None, targets)))


def test_targets_of_pixels_that_are_no_classes_are_named():
    task, output = Task.segmentation(), torch.randn(2, 3, 4, 4)
    wrong = torch.zeros(2, 4, 4).long()
    wrong[1, 2, 3] = 7
    for targets, message in (
        (wrong, "data has the label 7; the model's outputs are 0 to 2"),
        (torch.zeros(2, 4, 4), "type float32, must be the whole numbers of pixels' classes"),
        (torch.zeros(2, 4, 4).bool(), "type bool, must be the whole numbers"),
        (torch.zeros(2, 5, 4).long(), r"targets of shape \(2, 5, 4\) do not fit the model's outputs"),
    ):
        with pytest.raises(UsageError, match=message):
            task.loss(output, (None, targets))
    with pytest.raises(UsageError, match=r"targets of shape \(2, 4, 4\) do not fit the model's outputs"):
        task.loss(torch.randn(2, 3), (None, wrong))
    wrong[0, 0, 0] = 255  # ignored
    for label in (7, -1):
        wrong[1, 2, 3] = label
        with pytest.raises(UsageError, match=f"data has the label {label}; the model's outputs are 0 to 2"):
            Task.segmentation(metric="mean-iou").metric(output, (None, wrong))


def test_no_label_of_a_class_is_left_out():
    targets = torch.tensor([0, -100])
    with pytest.raises(UsageError, match="data has the label -100; the model's outputs are 0 to 2"):
        Task().loss(torch.randn(2, 3), (None, targets))


class Segmenter(nn.Module):
    """A model with a dictionary of outputs, as torchvision's have."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 1))

    def forward(self, x):
        return {"out": self.body(x)}


def test_drawing_from_a_segmentation_model():
    data = [(torch.randn(2, 1, 6, 6), torch.randint(3, (2, 6, 6)))]
    data[0][1][0] = 255
    for objective in ("loss", "reverse-kl", "feature-mse"):
        ticket = tombola.draw(
            Segmenter(), data, density=0.5, steps=4, task=Task.segmentation(), objective=objective, progress=False
        )
        assert ticket.kept == 24


def test_regression_compares_outputs_by_squared_error():
    task = Task.regression()
    output, reference = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    batch = (None, torch.tensor([[1.0], [1.0]]))
    assert task.loss(output, batch).item() == 2
    assert task.metric(output, batch).item() == -2
    assert task.divergence(output, reference, batch).item() == task.divergence(reference, output, batch).item() == 2.5
    x = torch.randn(32, 6)
    data = [(x, x[:, :3])]
    for objective in ("loss", "reverse-kl", "forward-kl", "feature-mse"):
        ticket = tombola.draw(mlp(), data, density=0.5, steps=4, task=task, objective=objective, progress=False)
        assert ticket.kept == 36


def test_targets_of_a_regression_may_lack_the_axis_of_length_one():
    task = Task.regression()
    output, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 3.0])
    assert task.loss(output, (None, targets)).item() == 0
    assert task.loss(output.squeeze(1), (None, targets.unsqueeze(1) + 1)).item() == 1
    assert task.metric(output, (None, targets)).item() == 0
    message = r"targets of shape \(3,\) do not fit the model's outputs of shape \(2, 1\)"
    with pytest.raises(UsageError, match=message):
        task.loss(output, (None, torch.zeros(3)))


def evaluated(task, data, model=None):
    model = nn.Conv2d(1, 3, 1) if model is None else model
    return evaluate(model, task, feed_of(data, 0, 1), Runtime.choose(model, "cpu"))


def test_an_evaluation_of_pixels_does_not_depend_on_how_the_data_are_cut():
    torch.manual_seed(0)
    x, y = torch.randn(4, 1, 2, 2), torch.randint(3, (4, 2, 2))
    y[0], y[1, 0] = 255, 255
    task, model = Task.segmentation(), nn.Conv2d(1, 3, 1)
    whole = evaluated(task, [(x, y)], model)
    each = evaluated(task, list(zip(x.split(1), y.split(1), strict=True)), model)
    assert whole.samples == each.samples == 4
    assert each.metric == pytest.approx(whole.metric)
    assert each.loss == pytest.approx(whole.loss)
    pixels = model(x).argmax(dim=1)[y != 255] == y[y != 255]
    assert whole.metric == pytest.approx(pixels.double().mean().item())


def test_a_batch_in_which_nothing_counts_moves_nothing():
    task, model = Task.segmentation(), nn.Conv2d(1, 3, 1)
    x, y = torch.randn(2, 1, 2, 2), torch.full((2, 2, 2), 255)
    loss = task.loss(model(x), (x, y))
    loss.backward()
    assert loss.item() == 0
    assert model.weight.grad.abs().sum() == 0
    with pytest.raises(UsageError, match="has no target that counts: there is nothing to evaluate on"):
        evaluated(task, [(x, y)], model)


def test_a_model_that_draws_numbers_in_eval_mode_is_evaluated_alike_each_time():
    class Dropping(nn.Linear):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5)

    torch.manual_seed(0)
    model, data = Dropping(6, 3), batches()
    before = torch.get_rng_state()
    first = evaluated(Task(), data, model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert evaluated(Task(), data, model) == first


class Transformer(nn.Module):
    """Takes and gives what Hugging Face models do: token by token, or one label a sample."""

    def __init__(self, by_token):
        super().__init__()
        self.embed, self.head, self.by_token = nn.Embedding(7, 6), nn.Linear(6, 3), by_token

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embed(input_ids)
        logits = self.head(hidden if self.by_token else hidden.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return SimpleNamespace(logits=logits, loss=loss)


@pytest.mark.parametrize("by_token", [False, True])
def test_hugging_face_batches(by_token):
    task = Task.hugging_face()
    tokens = torch.randint(7, (4, 5))
    labels = torch.randint(3, (4, 5) if by_token else (4,))
    batch = {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones(4, 5)}
    for objective in ("loss", "reverse-kl"):
        ticket = tombola.draw(
            Transformer(by_token), [batch], density=0.5, steps=3, task=task, objective=objective, progress=False
        )
        assert ticket.kept == 9
    output = task.forward(model := Transformer(by_token), batch)
    right = (output.logits.argmax(-1) == labels).double().mean()
    assert task.metric(output, batch) == (right if not by_token else -output.loss)
    with pytest.raises(UsageError, match="batches need labels"):
        task.loss(task.forward(model, {"input_ids": tokens}), batch)


def test_tokens_that_are_masked_out_do_not_count():
    half = SimpleNamespace(logits=torch.tensor([[[0.0, 0.0], [5.0, 0.0]]]))
    other = SimpleNamespace(logits=torch.tensor([[[0.0, 0.0], [0.0, 5.0]]]))
    task = Task.hugging_face()
    assert task.divergence(half, other, {"attention_mask": torch.tensor([[1, 0]])}).item() == 0
    assert task.divergence(half, other, {}).item() > 1
