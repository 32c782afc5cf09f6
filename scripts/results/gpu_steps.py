"""Prints what a training step of ResNet-20 takes on a GPU, launched by Python and replayed as a graph, in milliseconds.

The replay waits for the GPU alone, so that the difference is what launching costs. usage, on a machine with CUDA:
python scripts/results/gpu_steps.py   (from the checkout)
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tombola.networks.models import build

WARM_UP, STEPS = 3, 30


def milliseconds(call: Callable[[], object]) -> float:
    """Return how long a call takes, over some of them."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        call()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / STEPS


def step_of(model: nn.Module, batch: int, half: bool, layout: torch.memory_format) -> Callable[[], None]:
    """Return a pass forward and backward of random images."""
    images = torch.randn(batch, 3, 32, 32, device="cuda").contiguous(memory_format=layout)
    labels = torch.randint(10, (batch,), device="cuda")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=half, cache_enabled=False):
            output = model(images)
        F.cross_entropy(output.float(), labels).backward()

    return step


def measure(batch: int, half: bool, layout: torch.memory_format) -> tuple[float, float]:
    """Return the time of a step launched by Python, and of one replayed."""
    model = build("resnet20", (3, 32, 32), 10).cuda().to(memory_format=layout).train()
    step, graph = step_of(model, batch, half, layout), torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    launched = milliseconds(step)
    with torch.cuda.graph(graph):
        step()
    return launched, milliseconds(graph.replay)


def main() -> None:
    """Print a table."""
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    print("| batch | precision | layout | launched (ms) | replayed (ms) |\n| --- | --- | --- | --- | --- |")
    for batch in (512, 128):
        for half in (True, False):
            for layout in (torch.channels_last, torch.contiguous_format):
                launched, replayed = measure(batch, half, layout)
                words = f"{'bf16' if half else 'float32'} | {str(layout).removeprefix('torch.')}"
                print(f"| {batch} | {words} | {launched:.1f} | {replayed:.1f} |", flush=True)


if __name__ == "__main__":
    main()
