"""Tickets' networks, sparse beside dense: steps of training, inference, what is compiled, and how much memory."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.figures import Figure, Work, in_own_process, interleaved, ratio
from tombola import draw
from tombola.core.allocation import ErdosRenyiKernel
from tombola.core.granularity import Block
from tombola.core.selection import Selection
from tombola.finders import Random
from tombola.networks.masking import survey
from tombola.networks.models import build
from tombola.networks.runtime import has_bf16_instructions, on_threads
from tombola.sparse.network import SparseNetwork
from tombola.ticket import Ticket

CIFAR = (3, 32, 32)
DENSITIES = (0.1, 0.05, 0.02, 0.01, 0.8**22, 0.005)
HEADLINE = 0.8**22
BLOCKS = (0.1, 0.05)
# Tickets drawn on CIFAR-10, beside random ones.
DRAWN = Path(__file__).parent / "tickets"
REPEATS = 9


def random_ticket(model: nn.Module, density: float) -> Ticket:
    """Return a ticket of random weights, whose layers have the densities of `erk`."""
    layout = survey(model).layout
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(layout.total, generator=generator)
    mask = Selection(layout, density, ErdosRenyiKernel()).keep(scores)
    return Ticket({name: part.bool() for name, part in layout.views(mask).items()})


def block_ticket(model: nn.Module, density: float) -> Ticket:
    """Return a ticket of random blocks of 4 x 4 channels, whose layers have the densities of `erk`."""
    data = [(torch.zeros(2, *CIFAR), torch.zeros(2).long())]
    random = Random(granularity=Block("4x4"), allocation=ErdosRenyiKernel())
    return draw(model, data, density=density, finder=random, progress=False)


def resnet20() -> nn.Module:
    """Return ResNet-20 for CIFAR-10, in evaluation mode."""
    torch.manual_seed(0)
    return build("resnet20", CIFAR, 10).eval()


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, half: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = network(images)
    loss = F.cross_entropy(output.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)


def _training(ticket: Ticket, batch: int) -> dict[str, Work]:
    """Return a step of training under a ticket, sparse and dense, as the library takes it."""
    model = ticket.apply_(resnet20()).train()
    dense = copy.deepcopy(model).to(memory_format=torch.channels_last)
    images, labels = torch.randn(batch, *CIFAR), torch.arange(batch) % 10
    laid = images.contiguous(memory_format=torch.channels_last)
    sparse = SparseNetwork(model, ticket, images[:2])
    optimizer, held = _sgd(sparse.trained_parameters()), _sgd(dense.parameters())
    ticket.attach(dense, held)
    works: dict[str, Work] = {
        "sparse": lambda: _step(sparse, optimizer, images, labels, False),
        "dense": lambda: _step(dense, held, laid, labels, False),
    }
    if has_bf16_instructions(torch.device("cpu")):
        works["bf16"] = lambda: _step(dense, held, laid, labels, True)
    return works


def training_steps() -> list[Figure]:
    """ResNet-20, one thread: a sparse step beside dense ones, by density; the goals are the headline's."""
    found = []
    with on_threads(1):
        for batch in (128, 512):
            for density in DENSITIES if batch == 128 else (HEADLINE,):
                works = _training(random_ticket(resnet20(), density), batch)
                found += _ratios(f"random ticket, {density:.2%}, batch {batch}", works, density)
            for density in BLOCKS if batch == 128 else ():
                works = _training(block_ticket(resnet20(), density), batch)
                found += _ratios(f"random 4x4 blocks, {density:.2%}, batch {batch}", works, density)
            for path in sorted(DRAWN.glob("*.safetensors")):
                found += _ratios(f"{path.stem}, batch {batch}", _training(Ticket.load(path), batch), HEADLINE)
    return found


def _ratios(name: str, works: Mapping[str, Work], density: float) -> list[Figure]:
    seconds = interleaved(works, REPEATS)
    goals = {"dense": 0.2, "bf16": 0.5} if density <= HEADLINE else {"dense": 1.0} if density >= 0.1 else {}
    found = [Figure(f"ResNet-20, {name}: sparse step", 1000 * median(seconds["sparse"]), "ms")]
    for other in sorted(seconds.keys() - {"sparse"}):
        title = f"ResNet-20, {name}: sparse step / {other} step"
        found.append(Figure(title, ratio(seconds, "sparse", other), "times", goals.get(other)))
    return found


def _best_dense(model: nn.Module, images: Tensor) -> dict[str, Work]:
    laid = copy.deepcopy(model).to(memory_format=torch.channels_last)
    other = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
    return {"contiguous": lambda: model(images), "channels_last": lambda: laid(other)}


def _onnx(model: nn.Module, images: Tensor) -> Work:
    import io

    import onnxruntime

    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    file = io.BytesIO(program.model_proto.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    name, array = session.get_inputs()[0].name, images.numpy()
    return lambda: session.run(None, {name: array})


def inference() -> list[Figure]:
    """One thread: an accelerated network beside PyTorch's best layout and onnxruntime."""
    torch.manual_seed(0)
    lenet = build("lenet-300-100", (1, 28, 28), 10).eval()
    found = []
    with on_threads(1), torch.no_grad():
        for name, model, shape, density, goals in (
            ("ResNet-20", resnet20(), CIFAR, HEADLINE, {(64, "PyTorch"): 8, (64, "onnxruntime"): 4, (1, "PyTorch"): 3}),
            ("LeNet-300-100", lenet, (1, 28, 28), 0.01, {(64, "PyTorch"): 5}),
        ):
            ticket = random_ticket(model, density)
            masked, fast = ticket.apply_(copy.deepcopy(model)), ticket.accelerate(model)
            for batch in (1, 64):
                found += _speedups(name, masked, fast, torch.randn(batch, *shape), density, goals)
    return found


def _speedups(
    name: str, model: nn.Module, fast: nn.Module, images: Tensor, density: float, goals: Mapping[tuple[int, str], float]
) -> list[Figure]:
    dense = _best_dense(model, images)
    works = {**dense, "onnxruntime": _onnx(model, images), "accelerated": lambda: fast(images)}
    seconds = interleaved(works, 50)
    best = min(dense, key=lambda layout: median(seconds[layout]))
    title = f"{name} at {density:.2%}, batch {len(images)}"
    found = [Figure(f"{title}: accelerated", 1000 * median(seconds["accelerated"]), "ms")]
    for label, key in (("PyTorch", best), ("onnxruntime", "onnxruntime")):
        faster = ratio(seconds, key, "accelerated")
        found.append(Figure(f"{title}: {label} / accelerated", faster, "times", goals.get((len(images), label)), True))
    return found


FIRST_STEP = """
import time, torch
from benchmarks.sparse import _training, random_ticket, resnet20
torch.set_num_threads(1)
works = _training(random_ticket(resnet20(), 0.01), 8)
since = time.perf_counter()
works["sparse"]()
first = time.perf_counter() - since
since = time.perf_counter()
works["sparse"]()
print(first - (time.perf_counter() - since))
"""
PEAK = """
import torch
from benchmarks.sparse import HEADLINE, _training, random_ticket, resnet20
torch.set_num_threads(1)
works = _training(random_ticket(resnet20(), HEADLINE), 512)
for _ in range(3):
    works["{execution}"]()
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@contextmanager
def _empty_cache(folder: str) -> Iterator[None]:
    before = os.environ.get("NUMBA_CACHE_DIR")
    os.environ["NUMBA_CACHE_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["NUMBA_CACHE_DIR"]
        else:
            os.environ["NUMBA_CACHE_DIR"] = before


def compilation() -> list[Figure]:
    """What the first sparse step waits for, the first time and from numba's cache."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, _empty_cache(folder):
        first, again = in_own_process(FIRST_STEP), in_own_process(FIRST_STEP)
    return [
        Figure("sparse kernels: compiled the first time", first, "s", 10),
        Figure("sparse kernels: loaded from the cache", again, "s", 1),
    ]


def memory() -> list[Figure]:
    """ResNet-20, batch 512: the peak memory of a process that trains sparse, and of one that trains dense."""
    sparse, dense = (in_own_process(PEAK.replace("{execution}", execution)) for execution in ("sparse", "dense"))
    return [
        Figure("ResNet-20, batch 512: peak memory, sparse / dense", sparse / dense, "times", 1.0),
        Figure("ResNet-20, batch 512: peak memory of sparse training", sparse, "MiB"),
    ]


SUITES: tuple[Callable[[], list[Figure]], ...] = (training_steps, inference, compilation, memory)
