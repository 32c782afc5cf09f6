"""A step of the search beside a step of training, and beside the plain transcription of the method."""

import copy
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.cases import ARITHMETIC, GRAD_MATCH, GRAD_NORM, REVERSE_KL, Case, without_numba
from benchmarks.figures import Figure, in_own_process, interleaved, ratio
from examples.cts_on_one_page import PlainSearch
from tombola.networks.masking import survey

CIFAR = (3, 32, 32)
BATCH, REPEATS = 512, 7


def _step(plain: PlainSearch, images: Tensor) -> None:
    plain.step(images)


def search_steps(device: str = "cpu") -> list[Figure]:
    """ResNet-20, batch 512: reverse KL beside the dense training step and the plain transcription."""
    case = Case.make("resnet20", CIFAR, 10, BATCH, 2, device)
    dense, reverse, arithmetic = case.training(), case.search(REVERSE_KL), case.search(ARITHMETIC)
    naive = PlainSearch(copy.deepcopy(case.model).to(case.runtime.device), list(survey(case.model).layout.names), 0.01)
    images = case.images()
    seconds = interleaved(
        {
            "dense": lambda: dense.take(1),
            "search": lambda: reverse.take(1),
            "naive": partial(_step, naive, images),
            "arithmetic": lambda: arithmetic.take(1),
        },
        REPEATS,
    )
    return [
        Figure("ResNet-20: search step / dense step", ratio(seconds, "search", "dense"), "times", 0.95),
        Figure("ResNet-20: search step / plain transcription", ratio(seconds, "search", "naive"), "times", 0.25),
        Figure("ResNet-20: mask arithmetic / search step", ratio(seconds, "arithmetic", "search"), "times", 0.04),
        *(Figure(f"ResNet-20: {name} step", 1000 * median(found), "ms") for name, found in seconds.items()),
    ]


def double_backward_steps() -> list[Figure]:
    """ResNet-20, batch 512: the objectives that are differentiated twice."""
    case = Case.make("resnet20", CIFAR, 10, BATCH, 2)
    dense, norm, match = case.training(), case.search(GRAD_NORM), case.search(GRAD_MATCH)
    seconds = interleaved(
        {"dense": lambda: dense.take(1), "grad-norm": lambda: norm.take(1), "grad-match": lambda: match.take(1)}, 3
    )
    return [
        Figure(f"ResNet-20: {name} step / dense step", ratio(seconds, name, "dense"), "times", 3.0)
        for name in ("grad-norm", "grad-match")
    ]


class _Images(Dataset[tuple[Tensor, Tensor]]):
    """What one would write first: a sample at a time, transformed in the loader."""

    def __init__(self, case: Case) -> None:
        self._arrays = case.arrays
        self._transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomCrop(32, padding=4, padding_mode="reflect"),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._transform(self._arrays.inputs[row]), self._arrays.targets[row]


def training_steps() -> list[Figure]:
    """ResNet-20, batch 512: the dense training step beside a plain PyTorch loop with a DataLoader."""
    case = Case.make("resnet20", CIFAR, 10, BATCH, 2)
    training = case.training()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def plain() -> None:
        for images, labels in DataLoader(_Images(case), BATCH, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(case.model(images), labels).backward()
            torch.nn.utils.clip_grad_norm_(case.model.parameters(), 2.0)
            optimizer.step()

    seconds = interleaved({"plain": plain, "ours": lambda: training.take(2)}, 3)
    return [Figure("ResNet-20: plain loop's step / ours", ratio(seconds, "plain", "ours"), "times", 3.0, at_least=True)]


_STEPS = """
import time
from tombola import process
if {tuned}:
    process.tune()
from benchmarks.cases import Case
training = Case.make("resnet20", (3, 32, 32), 10, 512, 1).training()
training.take(2)
since = time.perf_counter()
training.take(8)
print(time.perf_counter() - since)
"""


def kept_memory() -> list[Figure]:
    """The dense training step in a process of its own, as Python starts it and as the command line sets it up."""
    pairs = [[in_own_process(_STEPS.format(tuned=tuned)) for tuned in (False, True)] for _ in range(5)]
    ratios = [plain / tuned for plain, tuned in pairs]
    return [Figure("ResNet-20: training step, process as it starts / tuned", median(ratios), "times")]


def large_networks() -> list[Figure]:
    """Mask arithmetic on ViT-B/16 and ResNet-50, as it runs here and without numba."""
    figures = []
    for name, batch in (("vit_b_16", 8), ("resnet50", 16)):
        case = Case.make(name, (3, 224, 224), 1000, batch, 1)
        arithmetic, real = case.search(ARITHMETIC), case.search(REVERSE_KL)
        with without_numba():
            plain = case.search(ARITHMETIC)
        works = {"arithmetic": arithmetic, "arithmetic without numba": plain, "search": real}
        seconds = interleaved({name: partial(steps.take, 1) for name, steps in works.items()}, 3)
        share = ratio(seconds, "arithmetic", "search")
        figures += [
            Figure(f"{name}, batch {batch}: mask arithmetic / search step", share, "times", 0.1),
            *(Figure(f"{name}, batch {batch}: {work} step", median(found), "s") for work, found in seconds.items()),
        ]
    return figures
