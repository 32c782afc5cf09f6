"""How far tickets and networks of several processes lie from those of one, with BatchNorm and without, on digits.

Prints a row for each network and number of processes, means over seeds: accuracy on held-out digits, its difference
from that of one process, and the share of that one's ticket that is kept too. Usage: python -m scripts.method.processes
"""

from collections.abc import Sequence
from functools import partial
from statistics import fmean, stdev
from typing import Any

import lightning_fabric
import numpy.typing
import sklearn.datasets
import torch
from torch import nn

import tombola

SEEDS = 5
PROCESSES = (2, 4)
DENSITY = 0.1


def network(batch_norm: bool) -> nn.Module:
    """Return a small convolutional network."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(1, 16), *block(16, 32), nn.Flatten(), nn.Linear(128, 10))


# Arrays, not tensors: those would be shared with a process that has ended.
Masks = dict[str, numpy.typing.NDArray[numpy.bool_]]


def found(fabric: Any, batch_norm: bool, seed: int) -> tuple[Masks, float]:
    """Return a ticket's masks, and what its trained network reaches."""
    torch.set_num_threads(1)
    x, y = map(torch.tensor, sklearn.datasets.load_digits(return_X_y=True))
    batches = list(zip((x.float() / 16).view(-1, 1, 8, 8).split(128), y.split(128), strict=True))
    torch.manual_seed(seed)
    result = tombola.sparsify(
        network(batch_norm),
        batches[:11],
        batches[11:],
        density=DENSITY,
        recipe=tombola.Recipe(epochs=8, learning_rate=0.05),
        steps=300,
        seed=seed,
        precision="32-true",
        fabric=fabric,
        progress=False,
    )
    return {name: mask.numpy() for name, mask in result.ticket.items()}, result.held_out_metric


def overlap(one: Masks, other: Masks) -> float:
    """Return the share of one ticket's weights that another keeps too."""
    return sum(int((one[name] & other[name]).sum()) for name in one) / sum(int(mask.sum()) for mask in one.values())


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation in percent."""
    return f"{100 * fmean(values):.2f} ± {100 * stdev(values):.2f}"


def main() -> None:
    """Print a row each."""
    for batch_norm in (False, True):
        name = "BatchNorm" if batch_norm else "none"
        alone = [found(None, batch_norm, seed) for seed in range(SEEDS)]
        print(f"{name:>10} 1 process: accuracy {spread([each[1] for each in alone])}", flush=True)
        for count in PROCESSES:
            fabric = lightning_fabric.Fabric(accelerator="cpu", devices=count, strategy="ddp_fork")
            many = [fabric.launch(partial(found, batch_norm=batch_norm, seed=seed)) for seed in range(SEEDS)]
            shared = [overlap(one[0], other[0]) for one, other in zip(alone, many, strict=True)]
            gained = [other[1] - one[1] for one, other in zip(alone, many, strict=True)]
            print(
                f"{name:>10} {count} processes: accuracy {spread([each[1] for each in many])}, "
                f"difference {spread(gained)}, overlap {spread(shared)}, at least {100 * min(shared):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
