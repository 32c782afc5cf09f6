import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tombola
from tombola import Task, UsageError
from tombola.task import batch_size

from .conftest import mlp

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
