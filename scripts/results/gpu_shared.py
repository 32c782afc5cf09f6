"""Prints how many training steps of ResNet-20 a second one process takes on a GPU, and several at once together.

Run it also where NVIDIA's MPS is started, to see what that changes. usage, from the checkout (6 and cuda unless given):
python -m scripts.results.gpu_shared [PROCESSES] [DEVICE]
"""

import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from tombola.networks.models import build

BATCH, WARM_UP, SECONDS = 512, 5, 3.0
# Importing PyTorch and the first steps; all start to count at the same moment.
PREPARATION = 14.0


def steps_per_second(start: float, device: str) -> float:
    """Return how many steps a second this process takes from a moment on, given in seconds since 1970."""
    torch.set_num_threads(1)
    model = build("resnet20", (3, 32, 32), 10).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images = torch.randn(BATCH, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,), device=device)

    def take(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.bfloat16):
                output = model(images)
            F.cross_entropy(output.float(), labels).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    take(WARM_UP)
    if time.time() > start:
        raise SystemExit("preparation took too long; the figures would not be of the same moment")
    time.sleep(start - time.time())
    taken = 0
    while time.time() < start + SECONDS:
        take(10)
        taken += 10
    return taken / (time.time() - start)


def together(processes: int, device: str) -> float:
    """Return how many steps a second some processes take at once, all together."""
    start = time.time() + PREPARATION
    command = [sys.executable, "-m", "scripts.results.gpu_shared", "--from", str(start), device]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    outputs = [each.communicate()[0] for each in running]
    if any(each.returncode for each in running):
        raise SystemExit("a process failed")
    return sum(map(float, outputs))


def main() -> None:
    """Print a line for one process and one for several, or as one of them its own figure."""
    if sys.argv[1:2] == ["--from"]:
        print(steps_per_second(float(sys.argv[2]), sys.argv[3]))
        return
    processes, device = int((sys.argv[1:2] or ["6"])[0]), (sys.argv[2:3] or ["cuda"])[0]
    for count in (1, processes):
        print(f"{count} at once: {together(count, device):.0f} steps of {BATCH} images a second", flush=True)


if __name__ == "__main__":
    main()
