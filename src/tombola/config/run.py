"""RunConfig: every option of a run, its default, its meaning, and what its values may be."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, get_args, get_origin

from tombola.errors import UsageError

DRAW_AT = ("init", "rewind", "trained")
BATCH_NORMS = ("standard", "published")
LARGEST = 1e30  # what may be multiplied a little and still be a float32
# Options that belong to the finder, and what they are called there.
FINDER_OPTIONS = {
    "objective": "objective",
    "controller": "controller",
    "steps": "steps",
    "search_learning_rate": "learning_rate",
    "search_lr_schedule": "lr_schedule",
    "temperature": "temperature",
    "search_epsilon": "epsilon",
    "relaxation": "relaxation",
    "features": "features",
    "allocation": "allocation",
    "rounds": "rounds",
    "batches": "batches",
    "perturbation": "perturbation",
    "rate": "rate",
    "prospr_steps": "training_steps",
    "prospr_rate": "training_rate",
    "schedule": "schedule",
    "share": "share",
    "search_epochs": "epochs",
    "gate_start": "gate_start",
    "penalty": "penalty",
}


def option(default: Any, help: str, group: str, unset: str = "") -> Any:
    """Declare an option of the command line: its default, what it means, and under which heading it is shown.

    unset: in words, what happens without a value.
    """
    return field(default=default, metadata={"help": help, "group": group, "unset": unset})


@dataclass(frozen=True)
class RunConfig:
    """One cell, start to end. Options that are None are filled in by `tombola.cell.resolve`."""

    data: str = option(
        "digits", "dataset: digits, mnist, fashion-mnist, cifar10, cifar100, folder, or my_module:datasets", "data"
    )
    data_dir: str | None = option(None, "folder with the dataset's files", "data", unset="where packages put them")
    download: bool = option(False, "fetch the dataset's files into --data-dir if they are not there", "data")
    held_out: float = option(0.1, "share of the training data that is held out for choices; 0 for none", "data")
    train_samples: int | None = option(
        None,
        "train on only so many training samples, a random choice that is the same for every run",
        "data",
        unset="all",
    )
    image_size: int | None = option(None, "resize images to N x N pixels", "data", unset="as they are")
    mean: tuple[float, ...] = option((), "mean of each channel of images in [0, 1]", "data", unset="that of the data")
    std: tuple[float, ...] = option((), "standard deviation of each channel", "data", unset="that of the data")
    augmentation: str = option("none", "augmentation of training images: none, flip, flip-crop", "data")
    model: str = option(
        "lenet-300-100",
        "model: lenet-300-100, resnet20, resnet20-w8 (half as wide), resnet32, resnet56, vgg16, any of torchvision, or "
        "my_module:build",
        "model",
    )
    weights: str | None = option(
        None, "state_dict to start from, .safetensors or .pt", "model", unset="initialised from the seed"
    )
    batch_norm: str = option(
        "standard", "BatchNorm: standard, or published (scales drawn from U(0, 1), no running statistics)", "model"
    )
    include: tuple[str, ...] = option((), "globs of names of parameters to prune", "model", unset="all that can be")
    exclude: tuple[str, ...] = option((), "globs of names of parameters to leave dense", "model", unset="none")
    finder: str = option(
        "cts",
        "how to find the ticket: cts, joint, ltr, imp, gradual, continuous-sparsification, edge-popup, snip, grasp, "
        "grasp-magnitude, synflow, force, prospr, saliency, magnitude, random",
        "ticket",
    )
    density: float = option(
        0.02,
        "fraction of prunable weights to keep: 0.02, 2% or 0.8**22; or --sparsity with what to prune: 98%",
        "ticket",
    )
    draw_at: str = option("rewind", "weights to draw at: init, rewind, trained", "ticket")
    rewind_to: int = option(1, "epoch from which the ticket is trained, unless drawn at init", "ticket")
    objective: str | None = option(
        None,
        "what the search minimises: loss, delta-loss, grad-norm, reverse-kl, forward-kl, feature-mse, grad-match",
        "search",
        unset="loss at init, else reverse-kl",
    )
    controller: str | None = option(
        None,
        "what holds the density: gradbalance, proportional, lagrangian",
        "search",
        unset="proportional",
    )
    steps: int | None = option(None, "length of the search", "search", unset="1960")
    search_learning_rate: float | None = option(
        None,
        "learning rate of the logits, gates or scores",
        "search",
        unset="cts 588/steps, at most 1, or 0.1 with drop; else 0.1",
    )
    search_lr_schedule: str | None = option(
        None,
        "how that of cts moves: one-cycle, drop (as published: by ten, for the last fifth)",
        "search",
        unset="one-cycle",
    )
    temperature: float | None = option(
        None,
        "temperature of the binary Concrete distribution; of grasp's outputs; last β of continuous-sparsification",
        "search",
        unset="2/3; 200; 200",
    )
    relaxation: str | None = option(
        None, "how masks are sampled: concrete; ablations straight-through, deterministic", "search", unset="concrete"
    )
    search_epsilon: float | None = option(None, "epsilon of Adam on the logits", "search", unset="1e-8")
    features: tuple[str, ...] = option(
        (), "globs of names of the modules that feature-mse compares", "search", unset="every nn.ReLU"
    )
    search_batch_size: int | None = option(
        None, "samples a step of the search, or of a score's batch", "search", unset="64 for cts, else 512"
    )
    search_precision: str | None = option(None, "auto, 32-true, bf16-mixed", "search", unset="that of training")
    allocation: str | None = option(
        None,
        "of random, magnitude and edge-popup: global, uniform (layers alike), erk (small layers denser)",
        "rivals",
        unset="global; edge-popup uniform",
    )
    rounds: int | None = option(
        None,
        "rounds of a saliency, the density falling exponentially; of gradual; most of continuous-sparsification",
        "rivals",
        unset="1; synflow 100, force 60; 50; 2",
    )
    batches: int | None = option(None, "batches that a saliency is computed on", "rivals", unset="1")
    perturbation: float | None = option(
        None, "how far the saliency of an objective steps away from the dense network", "rivals", unset="0.01"
    )
    rate: float | None = option(
        None, "share of the remaining weights that a round of ltr or imp prunes", "rivals", unset="0.2"
    )
    prospr_steps: int | None = option(None, "steps of training that prospr looks ahead", "rivals", unset="3")
    prospr_rate: float | None = option(None, "learning rate of these steps", "rivals", unset="0.1")
    schedule: str | None = option(None, "of gradual: cubic or geometric", "rivals", unset="cubic")
    share: float | None = option(
        None, "share of a training in which gradual and joint fall to the density", "rivals", unset="0.6"
    )
    search_epochs: int | None = option(
        None,
        "epochs of the whole training in which joint, gradual or continuous-sparsification finds its mask",
        "rivals",
        unset="--epochs",
    )
    gate_start: float | None = option(
        None, "where the gates of continuous-sparsification start, smaller for sparser rounds", "rivals", unset="0"
    )
    penalty: float | None = option(None, "its price of an open gate", "rivals", unset="1e-8")
    epochs: int = option(20, "epochs of a whole training; a ticket trains those after its rewind point", "training")
    batch_size: int = option(128, "samples a step of training", "training")
    learning_rate: float = option(0.1, "learning rate of SGD", "training")
    momentum: float = option(0.9, "momentum of SGD", "training")
    weight_decay: float = option(1e-4, "weight decay of SGD", "training")
    milestones: tuple[int, ...] = option(
        (), "epochs after which the learning rate is divided by ten", "training", unset="none"
    )
    lr_schedule: str = option(
        "steps", "learning rate: steps (divided by ten at the milestones), or one-cycle (up, then down)", "training"
    )
    nesterov: bool = option(False, "Nesterov's momentum", "training")
    label_smoothing: float = option(0.0, "share of each label that is spread over all classes in training", "training")
    summed: bool = option(False, "follow the gradient of a batch's summed loss, not of its mean", "training")
    clip_norm: float | None = option(None, "largest 2-norm of a step's gradient", "training", unset="none")
    fit: str | None = option(
        None, "my_module:train, a training function of one's own", "training", unset="SGD, as configured"
    )
    seed: int = option(0, "everything random comes from it", "machine")
    device: str = option("auto", "auto, cpu, cuda or cuda:N", "machine")
    precision: str = option("auto", "auto, 32-true, bf16-mixed", "machine")
    layout: str = option("auto", "memory layout: auto, contiguous, channels-last", "machine")
    threads: int | None = option(None, "threads of the CPU", "machine", unset="all cores")

    def check(self) -> None:
        """Raise UsageError, naming the option and what is allowed, for values that make no sense."""
        _demand(0 < self.density <= 1, "density", "must lie in (0, 1]", self.density)
        _demand(0 <= self.held_out < 1, "held-out", "must lie in [0, 1)", self.held_out)
        _demand(
            self.batch_norm in BATCH_NORMS, "batch-norm", f"must be one of {', '.join(BATCH_NORMS)}", self.batch_norm
        )
        _demand(self.draw_at in DRAW_AT, "draw-at", f"must be one of {', '.join(DRAW_AT)}", self.draw_at)
        for name in ("epochs", "search_epochs", "batch_size", "search_batch_size", "steps", "threads", "image_size"):
            value = getattr(self, name)
            _demand(value is None or value >= 1, name.replace("_", "-"), "must be at least 1", value)
        cores = os.cpu_count() or 1
        _demand(not self.threads or self.threads <= cores, "threads", f"must lie between 1 and {cores}", self.threads)
        rising = all(early < late for early, late in pairwise((0, *self.milestones)))
        _demand(rising, "milestones", "must be epochs from 1 on, in rising order", list(self.milestones))
        _demand(self.seed >= 0, "seed", "must not be negative", self.seed)
        for name in ("learning_rate", "search_learning_rate", "temperature", "search_epsilon", "clip_norm"):
            value = getattr(self, name)
            fits = value is None or 0 < value <= LARGEST
            _demand(fits, name.replace("_", "-"), f"must be a number above 0, at most {LARGEST:g}", value)
        _demand(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)", self.momentum)
        _demand(0 <= self.label_smoothing < 1, "label-smoothing", "must lie in [0, 1)", self.label_smoothing)
        _demand(
            0 <= self.weight_decay <= LARGEST, "weight-decay", f"must lie between 0 and {LARGEST:g}", self.weight_decay
        )
        needed = 2 if self.draw_at == "rewind" else 1
        _demand(self.epochs >= needed, "epochs", f"must be at least {needed} (draw-at {self.draw_at})", self.epochs)
        # At 0 "rewind" would be the initial weights, and at the last epoch nothing would be left to train.
        lowest = 1 if self.draw_at == "rewind" else 0
        _demand(
            self.draw_at == "init" or lowest <= self.rewind_to < self.epochs,
            "rewind-to",
            f"must lie between {lowest} and {self.epochs - 1} (draw-at {self.draw_at}, {self.epochs} epochs)",
            self.rewind_to,
        )
        starts = self.rewind_to if self.draw_at == "rewind" else 0
        reaches = self.search_epochs is None or self.search_epochs > starts
        _demand(reaches, "search-epochs", f"must lie above {starts}, where the search starts", self.search_epochs)

    def with_threads(self) -> "RunConfig":
        """Return the configuration with the number of threads written out."""
        return self if self.threads else replace(self, threads=len(os.sched_getaffinity(0)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def _demand(holds: bool, option_name: str, allowed: str, value: object) -> None:
    if not holds:
        raise UsageError(f"--{option_name} {allowed}, got {value}")


def from_dict(values: dict[str, Any]) -> RunConfig:
    """Return a configuration from plain values, such as those of a run directory's config.yaml."""
    if not isinstance(values, dict):
        raise UsageError("config: it must hold keys and values")
    known = {f.name for f in fields(RunConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(f"config: unknown keys {', '.join(unknown)}")
    return from_values(values)


def from_values(values: Mapping[str, Any]) -> RunConfig:
    """Return a configuration from values by field name, lists made tuples; raises UsageError for a wrong type."""
    settled: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    for f in fields(RunConfig):
        allowed: Any = tuple if get_origin(f.type) is tuple else f.type
        value = settled.get(f.name, f.default)
        number_for_float = isinstance(value, int) and not isinstance(value, bool) and isinstance(0.0, allowed)
        inner = get_args(f.type)[0] if allowed is tuple else None
        kind = int | float if inner is float else inner
        strange = isinstance(value, tuple) and kind and not all(isinstance(part, kind) for part in value)
        if strange or (not isinstance(value, allowed) and not number_for_float):
            raise UsageError(f"config: {f.name} cannot be {value!r}")
    return RunConfig(**settled)
