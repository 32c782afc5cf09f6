"""Fine-tuning a trained model to a 2:4 ticket: 2 of every 4 weights along each layer's inputs are kept."""

import sklearn.datasets
import torch
from torch import nn
from torch.utils.data import TensorDataset

import tombola


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's digits, to train on and to test on."""
    x, y = map(torch.tensor, sklearn.datasets.load_digits(return_X_y=True))
    return TensorDataset(x[:1400].float() / 16, y[:1400]), TensorDataset(x[1400:].float() / 16, y[1400:])


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Return the share of samples that a model tells right."""
    inputs, targets = data.tensors
    with torch.no_grad():
        return float((model(inputs).argmax(dim=1) == targets).float().mean())


def fit(model: nn.Module, data: TensorDataset, epochs: int, rate: float, ticket: tombola.Ticket | None = None) -> None:
    """Train a model, under a ticket if there is one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    held = ticket.attach(model, optimizer) if ticket else None
    for _ in range(epochs):
        for inputs, targets in torch.utils.data.DataLoader(data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    if held:
        held.detach()


def main(epochs: int = 10, steps: int = 300) -> tuple[tombola.Ticket, float, float, float]:
    """Return the ticket, and the accuracy of the dense network, of the ticket cut out of it, and fine-tuned."""
    torch.manual_seed(0)
    train, test = digits()
    # The last layer has ten outputs; its 128 inputs are a multiple of 4 as all others are.
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    fit(model, train, epochs, rate=0.05)
    dense = accuracy(model, test)
    ticket = tombola.draw(model, train, density=0.5, granularity="2:4", steps=steps, progress=False)
    cut = accuracy(ticket.apply_(model), test)
    fit(model, train, max(1, epochs // 4), rate=0.01, ticket=ticket)
    return ticket, dense, cut, accuracy(model, test)


if __name__ == "__main__":
    ticket, dense, cut, tuned = main()
    print(f"{ticket}: dense {dense:.1%}, cut {cut:.1%}, fine-tuned {tuned:.1%}")
