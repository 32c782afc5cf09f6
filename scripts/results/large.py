"""Measures searches on large networks: a step beside one of dense training, peak memory, tickets saved and loaded.

Each case runs in a process of its own, whose peak memory is that of getrusage; a case that grows beyond --most GiB is
stopped, and its row says so. Images, tokens and labels are made; networks have their initial weights. On a CPU times
are the process's own, so that nothing else on the machine counts, for one thread: OMP_NUM_THREADS=1.

usage: python -m scripts.results.large FILE.json [--cases resnet50,vit-b-16,billion] [--only TEXT] [--steps 24]
           [--most 17] [--device cpu]
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

GIB = 2**30
# The first steps of a search or a training, which are not timed.
WARM = 2
DENSE_STEPS = WARM + 4
# Layers of the transformer that has a billion weights, and of smaller ones, by which its search is foretold.
BILLION, SMALLER = 20, (1, 3)
Row = dict[str, Any]


@contextmanager
def timed(times: list[float], device: str) -> Iterator[None]:
    """Append the seconds that the block takes, on a CPU those of the process."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    begin = clock()
    yield
    if device != "cpu":
        torch.cuda.synchronize()
    times.append(clock() - begin)


def images(samples: int) -> list[Any]:
    """Return four batches of made images of 224 pixels, (N, 3, 224, 224), with labels."""
    chance = torch.Generator().manual_seed(0)
    return [
        (torch.randn(samples, 3, 224, 224, generator=chance), torch.randint(1000, (samples,), generator=chance))
        for _ in range(4)
    ]


def tokens() -> list[Any]:
    """Return two batches of two made texts of 16 tokens, with labels."""
    chance = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(1, 8192, (2, 16), generator=chance),
            "labels": torch.randint(2, (2,), generator=chance),
        }
        for _ in range(2)
    ]


def vision(name: str, recomputed: bool) -> nn.Module:
    """Return a network of torchvision. recomputed: its blocks keep no activations (gradient checkpointing)."""
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name)
    kinds = (torchvision.models.resnet.Bottleneck, torchvision.models.vision_transformer.EncoderBlock)
    for block in model.modules():
        if recomputed and isinstance(block, kinds):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return model


def transformer(layers: int) -> nn.Module:
    """Return a Llama of so many layers of 51 million weights, in bfloat16, as a classifier of two classes."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=8192, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers,
        num_attention_heads=16, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    finally:
        torch.set_default_dtype(before)
    return model


def dense(model: nn.Module, data: Sequence[Any], device: str) -> Row:
    """Train by SGD with momentum, as everybody would."""
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    times: list[float] = []
    for step in range(DENSE_STEPS):
        with timed(times, device):
            inputs, targets = (part.to(device) for part in data[step % len(data)])
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return {"steps": len(times), "seconds_a_step": statistics.median(times[WARM:])}


def drawn(model: nn.Module, data: Sequence[Any], device: str, **options: Any) -> Row:
    """Draw a ticket, save it and load it; of a search also the time of a step."""
    import tombola
    from tombola.finders.cts import Search

    times: list[float] = []
    advance = Search.advance

    def timed_advance(self: Search, item: Any) -> dict[str, Any] | None:
        with timed(times, device):
            found = advance(self, item)
        return found

    Search.advance = timed_advance  # type: ignore[method-assign]
    whole: list[float] = []
    with timed(whole, device):
        ticket = tombola.draw(model.to(device), data, density=0.1, progress=False, **options)
    of_steps = {"steps": len(times), "seconds_a_step": statistics.median(times[WARM:])} if times else {}
    return {"seconds": whole[0], **of_steps, **kept(ticket)}


def kept(ticket: Any) -> Row:
    """Save a ticket and load it."""
    from tombola import Ticket

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticket.safetensors"
        with timed(times, "cpu"):
            ticket.save(path)
        with timed(times, "cpu"):
            again = Ticket.load(path)
        size = path.stat().st_size
    assert again == ticket
    facts = {"prunable": ticket.prunable, "kept": ticket.kept, "bytes": size}
    return facts | {"saving_seconds": times[0], "loading_seconds": times[1]}


def previewed(model: nn.Module) -> Row:
    """List what would be pruned."""
    import tombola

    times: list[float] = []
    with timed(times, "cpu"):
        found = tombola.preview(model)
        str(found)
    return {"seconds": times[0], "prunable": found.layout.total}


def from_transformer(layers: int, device: str, **options: Any) -> Row:
    """Draw from a transformer."""
    import tombola

    return drawn(transformer(layers), tokens(), device, task=tombola.Task.hugging_face(), **options)


def cases(steps: int, device: str) -> Mapping[str, Mapping[str, Callable[[], Row]]]:
    """Return what is measured, by network and by name."""

    def of_images(name: str, samples: int) -> dict[str, Callable[[], Row]]:
        return {
            "dense": lambda: dense(vision(name, False), images(samples), device),
            "dense, checkpointed": lambda: dense(vision(name, True), images(samples), device),
            "cts, checkpointed": lambda: drawn(
                vision(name, True), images(samples), device, steps=steps, objective="reverse-kl"
            ),
        }

    search = {"steps": 3, "objective": "loss"}
    return {
        "resnet50": of_images("resnet50", 16),
        "vit-b-16": of_images("vit_b_16", 8),
        "billion": {
            "preview": lambda: previewed(transformer(BILLION)),
            "magnitude": partial(from_transformer, BILLION, device, finder="magnitude"),
            **{f"cts, {n} layers": partial(from_transformer, n, device, **search) for n in SMALLER},
            "cts, attention": partial(from_transformer, BILLION, device, include="*self_attn*", **search),
            "cts, whole": partial(from_transformer, BILLION, device, **search),
        },
    }


def measured(network: str, name: str, options: argparse.Namespace) -> Row:
    """Return the row of a case, run in a process of its own."""
    command = [sys.executable, "-m", "scripts.results.large", "--case", network, name]
    command += ["--steps", str(options.steps), "--device", options.device]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stopped = False
    while child.poll() is None:
        if resident(child.pid) > options.most * GIB:
            child.kill()
            stopped = True
        time.sleep(0.05)
    text, _ = child.communicate()
    found: Row = {"network": network, "case": name}
    if stopped:
        return found | {"stopped_at_gib": options.most}
    return found | (json.loads(text.splitlines()[-1]) if child.returncode == 0 else {"failed": child.returncode})


def resident(process: int) -> int:
    """Return the bytes of memory that a process has now; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def run_case(network: str, name: str, options: argparse.Namespace) -> None:
    """Run one case here, and print its row."""
    row = cases(options.steps, options.device)[network][name]()
    row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    if options.device != "cpu":
        row["peak_gib_of_gpu"] = torch.cuda.max_memory_allocated() / GIB
    print(json.dumps(row))


def main() -> None:
    """Run the cases, each in a process of its own, and write their rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--cases", default="resnet50,vit-b-16,billion")
    parser.add_argument("--only", default="", help="only cases whose names contain this")
    parser.add_argument("--case", nargs=2, help="network and name of a case, to run here and now")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--most", type=float, default=17.0, help="GiB")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.case:
        run_case(options.case[0], options.case[1], options)
        return
    where = torch.cuda.get_device_name() if options.device != "cpu" else platform.machine()
    rows: list[Row] = []
    facts = {"torch": torch.__version__, "device": where, "threads": torch.get_num_threads(), "rows": rows}
    for network in options.cases.split(","):
        for name in cases(options.steps, options.device)[network]:
            if options.only in name:
                rows.append(measured(network, name, options))
                print(json.dumps(rows[-1]), flush=True)
                if options.file:  # after each, so that nothing measured is lost
                    options.file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
