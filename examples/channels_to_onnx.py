"""A channel ticket as a smaller dense network in ONNX: sparsify by channels, cut the dead ones out, export.

Needs `pip install tombola[onnx]`. Digits, 8 x 8 pixels, a small residual network.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import sklearn.datasets
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import tombola
from tombola.ticket.formats import Subject, format_named


class Residual(nn.Module):
    """A stem, a residual block and a linear layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.first, self.first_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (N, 10) of images (N, 1, 8, 8)."""
        x = torch.relu(self.norm(self.stem(x)))
        inner = torch.relu(self.first_norm(self.first(x)))
        x = torch.relu(x + self.second_norm(self.second(inner)))
        scores: Tensor = self.head(x.mean(dim=(2, 3)))
        return scores


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's digits, to train on and to test on."""
    x, y = map(torch.tensor, sklearn.datasets.load_digits(return_X_y=True))
    images = (x.float() / 16).view(-1, 1, 8, 8)
    return TensorDataset(images[:1400], y[:1400]), TensorDataset(images[1400:], y[1400:])


@dataclass(frozen=True)
class Exported:
    """What came out: accuracy of the ticket, parameters before and after, and what the export says of itself."""

    ticket: tombola.Ticket
    accuracy: float
    before: int
    after: int
    said: str


def main(epochs: int = 12, density: float = 0.5, finder: str = "snip:allocation=uniform") -> Exported:
    """Draw a ticket of channels after an epoch, train it, cut dead channels out, and export what is left."""
    torch.manual_seed(0)
    train, test = digits()
    model = Residual()
    sparse, ticket = found = tombola.sparsify(
        model, train, test, density=density, granularity="channel", finder=finder, rewind_to=1,
        recipe=tombola.Recipe(epochs=epochs, learning_rate=0.1), progress=False,
    )  # fmt: skip
    images = test.tensors[0][:64]
    small = ticket.compact(sparse, images)
    with tempfile.TemporaryDirectory() as folder:
        # Compacts as well, and compares onnxruntime's outputs with PyTorch's.
        said = format_named("onnx").write(
            Path(folder) / "channels.onnx", Subject(ticket, sparse.state_dict(), sparse, images[:2])
        )
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, small))
    return Exported(ticket, found.held_out_metric, before, after, said)


if __name__ == "__main__":
    found = main()
    print(f"{found.ticket}: {found.accuracy:.1%} of the digits are told right")
    print(f"{found.before:,} parameters became {found.after:,}; {found.said}")
