"""One search in two processes, which divide each batch, on a Lightning Fabric of one's own.

It starts both by itself; where torchrun or srun did, `Fabric(devices=..., num_nodes=..., strategy="ddp")` joins them.
"""

import lightning_fabric
import sklearn.datasets
import torch

import tombola


def search(fabric: lightning_fabric.Fabric) -> tombola.Ticket:
    """Draw a ticket; every process gives the same model and all of the data, and gets the same ticket."""
    torch.set_num_threads(1)
    x, y = map(torch.tensor, sklearn.datasets.load_digits(return_X_y=True))
    batches = list(zip((x.float() / 16).split(64), y.split(64), strict=True))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
    return tombola.draw(model, batches, density=0.05, steps=200, fabric=fabric)


def main(fabric: lightning_fabric.Fabric) -> None:
    """Draw it and show it, once."""
    fabric.print(search(fabric))


if __name__ == "__main__":
    lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(main)
