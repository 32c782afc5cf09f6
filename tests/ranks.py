"""Real processes for tests: forked from this one, so that PyTorch is not loaded anew, and joined by gloo."""

import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what work(fabric, ...) gives on each of several processes of Lightning Fabric."""
    from lightning_fabric import Fabric

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of forks beside threads, and of Slurm where it is installed
        fabric = Fabric(accelerator="cpu", devices=count, strategy="ddp_fork")
        # By files: a pipe would hold 64 KiB, and tensors would go with the process that shares them.
        fabric.launch(_work, Path(folder), work, *arguments)
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(count)]


def _work(fabric: Any, folder: Path, work: Callable[..., Any], *arguments: Any) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
    (folder / str(fabric.global_rank)).write_bytes(pickle.dumps(work(fabric, *arguments)))
