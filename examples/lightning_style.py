"""A ticket inside a Lightning-style loop: modules with `training_step` and `configure_optimizers`, driven by Fabric."""

from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tombola


class Classifier(nn.Module):
    """Knows its own loss and optimiser, as a LightningModule does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 5)."""
        found: Tensor = self.body(x)
        return found

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def points(count: int, seed: int) -> DataLoader[Any]:
    """Return points whose class is the largest of their first five coordinates."""
    x = torch.randn(count, 20, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x[:, :5].argmax(dim=1)), batch_size=64, shuffle=True)


def main(epochs: int = 10, steps: int = 400) -> tuple[tombola.Ticket, float]:
    """Draw after the first epoch, go on under the ticket, and return it with the accuracy on new points."""
    torch.manual_seed(0)
    fabric = lightning_fabric.Fabric(accelerator="auto", devices=1)
    plain, loader = Classifier(), points(2048, seed=0)
    model, optimizer = fabric.setup(plain, plain.configure_optimizers())
    model.mark_forward_method("training_step")
    batches = fabric.setup_dataloaders(loader)
    for epoch in range(epochs):
        if epoch == 1:
            ticket = tombola.draw(model, loader, density=0.1, steps=steps)
            ticket.attach(model, optimizer)
        for number, batch in enumerate(batches):
            optimizer.zero_grad()
            fabric.backward(model.training_step(batch, number))
            optimizer.step()
    right = [(model(x).argmax(dim=1) == y).double().mean() for x, y in fabric.setup_dataloaders(points(512, seed=1))]
    return ticket, float(sum(right) / len(right))


if __name__ == "__main__":
    ticket, reached = main()
    print(f"{ticket}, accuracy {reached:.1%}")
