"""RunConfig: everything that a run is made from, parts as objects, and what its values may be."""

import os
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from tombola.core.parts import (
    BELOW_ONE,
    COUNT,
    NATURAL,
    NOT_NEGATIVE,
    Part,
    called,
    describe,
    one_of,
    option,
    plain,
    written_name,
)
from tombola.core.selection import Density, check_even, check_fixed
from tombola.core.written import Family
from tombola.data import AUGMENTATIONS, DATASETS, Source
from tombola.errors import UsageError
from tombola.finders import CTS, FINDERS, ORIGINS, Finder, Finds, needs_of
from tombola.finders.origins import ORIGIN_HELP
from tombola.networks.models import MODELS, Model
from tombola.networks.runtime import MEMORY_FORMATS, PRECISIONS
from tombola.networks.task import TASKS, NamedTask
from tombola.runs.config.densities import parse_density
from tombola.sparse.choice import EXECUTIONS
from tombola.storage.identity import digest
from tombola.trackers import TRACKERS, Tracker
from tombola.training import Recipe

DRAW_AT = ("init", "rewind", "trained")
BATCH_NORMS = ("standard", "published")

TRAININGS: Family[Recipe] = Family("training", {"recipe": Recipe()}, Recipe)


@dataclass(frozen=True)
class RunConfig(Part):
    """One cell, start to end."""

    name: ClassVar[str] = "run"
    data: Source = option(
        DATASETS.named("digits"),
        f"dataset: {', '.join(DATASETS)}, the path of a folder with train and test or of a table, or "
        "my_module:datasets",
        family=DATASETS,
        group="data",
        named=False,
    )
    held_out: float = option(
        0.1, "share of the training data that is held out for choices; 0 for none", must=BELOW_ONE, group="data"
    )
    train_samples: int | None = option(
        None,
        "train on only so many training samples, a random choice that is the same for every run",
        unset="all",
        group="data",
    )
    image_size: int | None = option(
        None, "resize images to N x N pixels", must=COUNT, unset="as they are", group="data"
    )
    mean: tuple[float, ...] = option(
        (), "mean of each channel of images in [0, 1]", unset="that of the data", group="data"
    )
    std: tuple[float, ...] = option((), "standard deviation of each channel", unset="that of the data", group="data")
    augmentation: str = option(
        "none",
        "augmentation of training images: none, flip, flip-crop (after padding by 4), resized-crop (of 8 to 100 % of "
        "the area, and flip), randaugment (after that)",
        must=one_of(AUGMENTATIONS),
        group="data",
    )
    mixup: float = option(
        0.0,
        "mix training images and their labels: alpha of the Beta distribution of shares; 0 for none",
        must=NOT_NEGATIVE,
        group="data",
    )
    model: Model = option(
        MODELS.named("lenet-300-100"),
        "model: lenet-300-100, resnet20, resnet20-w8 (half as wide), resnet32, resnet56, vgg16, any of torchvision, "
        "timm:NAME, hf:CONFIG_OR_FOLDER, or my_module:build",
        family=MODELS,
        group="model",
    )
    task: NamedTask = option(
        TASKS.named("classification"),
        f"what the targets are, and how results are measured: {', '.join(TASKS)}, or my_module:task",
        family=TASKS,
        group="data",
    )
    weights: str | None = option(
        None,
        "state_dict to start from, .safetensors or .pt",
        unset="initialised from the seed",
        group="model",
        named=False,
    )
    batch_norm: str = option(
        "standard",
        "BatchNorm: standard, or published (scales drawn from U(0, 1), no running statistics)",
        must=one_of(BATCH_NORMS),
        group="model",
    )
    include: tuple[str, ...] = option(
        (), "globs of names of parameters to prune", unset="all that can be", group="model"
    )
    exclude: tuple[str, ...] = option((), "globs of names of parameters to leave dense", unset="none", group="model")
    finder: Finds = option(
        CTS(),
        f"how to find the ticket, with options of its own behind colons (cts:steps=500): {', '.join(FINDERS)}, or "
        "my_module:MyFinder",
        family=FINDERS,
        group="ticket",
    )
    density: Density = option(
        0.02,
        "fraction of prunable weights to keep: 0.02, 2% or 0.8**22, or by patterns of names: 'conv*=5%; *=20%'; or "
        "--sparsity with what to prune: 98%",
        read=parse_density,
        group="ticket",
    )
    draw_at: str = option("rewind", "weights to draw at: init, rewind, trained", must=one_of(DRAW_AT), group="ticket")
    rewind_to: int = option(
        1, "epoch from which the ticket is trained, unless drawn at init", must=NATURAL, group="ticket"
    )
    train_from: str = option("rewind", ORIGIN_HELP, must=one_of(ORIGINS), group="ticket")
    search_precision: str | None = option(
        None,
        "auto, 32-true, bf16-mixed",
        must=one_of(PRECISIONS),
        unset="that of training",
        group="search",
        named=False,
    )
    training: Recipe = option(Recipe(epochs=20), "how to train", family=TRAININGS, group="training")
    batch_size: int = option(128, "samples a step of training", must=COUNT, group="training")
    label_smoothing: float = option(
        0.0, "share of each label that is spread over all classes in training", must=BELOW_ONE, group="training"
    )
    fit: str | None = option(
        None,
        "my_module:train, a training function of one's own",
        unset="the recipe",
        group="training",
        named=False,
    )
    tracker: Tracker | None = option(
        None,
        f"where the metrics go beside the run directory, with options of its own behind colons (wandb:project=x): "
        f"{', '.join(TRACKERS)}, or my_module:MyTracker",
        unset="nowhere",
        family=TRACKERS,
        group="training",
        named=False,
    )
    seed: int = option(0, "everything random comes from it", must=NATURAL, group="machine")
    device: str = option("auto", "auto, cpu, cuda or cuda:N", group="machine", named=False)
    precision: str = option("auto", "auto, 32-true, bf16-mixed", must=one_of(PRECISIONS), group="machine", named=False)
    layout: str = option(
        "auto",
        "memory layout: auto, contiguous, channels-last",
        must=one_of(MEMORY_FORMATS),
        group="machine",
        named=False,
    )
    execution: str = option(
        "auto",
        "how tickets train: sparse (by their kept weights alone, on a CPU; needs tombola[fast]), dense, or auto "
        "(sparse where that is faster)",
        must=one_of(EXECUTIONS),
        group="machine",
        named=False,
    )
    threads: int | None = option(
        None,
        "threads of the CPU",
        must=COUNT,
        unset="OMP_NUM_THREADS, else all cores",
        group="machine",
        named=False,
    )

    @property
    def drawn_at(self) -> int:
        """The epoch of the dense training at which the ticket is drawn."""
        return {"init": 0, "rewind": self.rewind_to, "trained": self.training.epochs}[self.draw_at]

    @property
    def title(self) -> str:
        """The network and the data, in words."""
        return f"{called(plain(self.model))} on {called(plain(self.data))}"

    def _check_fixed(self) -> None:
        """Raise UsageError for densities that a granularity such as 2:4 does not leave open."""
        fixed = getattr(getattr(self.finder, "granularity", None), "fixed_density", None)
        if fixed is None or not isinstance(self.density, float) or self.density == 1:
            return
        check_fixed(self.density, fixed)
        if isinstance(self.finder, Finder):
            default = next(field.default for field in fields(self.finder) if field.name == "allocation")
            whose = f", the default of {written_name(self.finder)}" if self.finder.allocation == default else ""
            check_even(self.finder.allocation, whose)

    def check(self) -> None:
        """Raise UsageError, naming the option and what is allowed, for values that do not go together, or in files."""
        digest(self.to_dict())  # raises for options that no file holds, before one is begun
        cores = os.cpu_count() or 1
        _demand(not self.threads or self.threads <= cores, "threads", f"lie between 1 and {cores}", self.threads)
        epochs, needed = self.training.epochs, 2 if self.draw_at == "rewind" else 1
        _demand(epochs >= needed, "epochs", f"be at least {needed} (draw-at {self.draw_at})", epochs)
        # At 0 "rewind" would be the initial weights, and at the last epoch nothing would be left to train.
        lowest = 1 if self.draw_at == "rewind" else 0
        _demand(
            self.draw_at == "init" or lowest <= self.rewind_to < epochs,
            "rewind_to",
            f"lie between {lowest} and {epochs - 1} (draw-at {self.draw_at}, {epochs} epochs)",
            self.rewind_to,
        )
        self._check_fixed()
        needs = needs_of(self.finder)
        needs.check_at(written_name(self.finder), self.draw_at)
        if self.fit and not needs.own_training:
            raise UsageError(
                f"finder {written_name(self.finder)} trains weights and masks together, by the recipe; leave it out",
                option="fit",
            )
        if self.fit and self.label_smoothing:
            words = f"must be 0 where {self.fit} has a loss of its own, got {self.label_smoothing:g}"
            raise UsageError(words, option="label_smoothing")
        if self.tracker is not None:
            self.tracker.check()
        if isinstance(self.finder, Finder):
            self.finder.check_epochs(self.rewind_to if self.draw_at == "rewind" else 0, epochs)

    def with_threads(self) -> "RunConfig":
        """Return the configuration with the number of threads written out."""
        return self if self.threads else replace(self, threads=default_threads())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML."""
        return {key: value for key, value in describe(self).items() if key != "name"}


def default_threads() -> int:
    """Return OMP_NUM_THREADS where it is set to a number that this machine has, else the cores that are ours to use."""
    ours = len(os.sched_getaffinity(0))
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(asked), os.cpu_count() or 1) if asked.isdigit() and int(asked) else ours


def _demand(holds: bool, option_name: str, allowed: str, value: object) -> None:
    if not holds:
        raise UsageError(f"must {allowed}, got {value}", option=option_name)
