"""How long work will take, from a few measured steps."""

import time
from itertools import islice

import torch
from torch import nn

from tombola.core.seeds import seeded
from tombola.data import Feed
from tombola.networks.network import explained_batches, private_copy
from tombola.networks.runtime import Runtime
from tombola.networks.task import Task

# Steps that are measured, after one that is not.
MEASURED = 2


def seconds_of_steps(model: nn.Module, task: Task, feed: Feed, runtime: Runtime) -> list[float]:
    """Return the seconds that a few steps of the dense network take, forward and backward, on a feed's first batch.

    A copy of the model takes them, and nothing of the caller's is moved.
    """
    found: list[float] = []
    with seeded(0, "forecast", device=runtime.device):
        measured = runtime.place(private_copy(model)).train().requires_grad_(True)
        for item in islice(feed.epoch(0), 1):
            batch = runtime.move(item.batch)
            for _ in range(1 + MEASURED):
                since = time.perf_counter()
                with runtime.autocast(), explained_batches():
                    output = task.forward(measured, batch)
                task.loss(output, batch).backward()
                if runtime.device.type == "cuda":
                    torch.cuda.synchronize(runtime.device)
                found.append(time.perf_counter() - since)
    return found[1:]
