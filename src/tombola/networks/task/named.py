"""Tasks by name, as `--task` takes them: each a part that says what targets it needs and makes the Task."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from tombola.core.parts import Part, one_of, option
from tombola.core.plugins import explained, source
from tombola.core.written import Family
from tombola.data.targets import IGNORED_PIXEL, Targets
from tombola.errors import UsageError
from tombola.networks.task.batches import Batch, Output
from tombola.networks.task.classification import in_shape, smoothed_cross_entropy
from tombola.networks.task.core import Task


@runtime_checkable
class NamedTask(Protocol):
    """What the targets of the data are, and how the model is used on them."""

    @property
    def targets(self) -> Targets:
        """The kind of targets that the data must have."""

    def build(self) -> Task:
        """Return the task."""

    def smoothed(self, task: Task, share: float) -> Task:
        """Return the task of trainings, a share of each label spread over all classes; share: in [0, 1)."""

    def check(self, task: Task, output: Output, batch: Batch, outputs: int, model: str) -> None:
        """Raise UsageError unless a model gives as many outputs as the data need; model: its name."""


@dataclass(frozen=True)
class _UsualTask(Part):
    """What most tasks share: labels are not smoothed, and any output will do that loss and metric can read."""

    targets: ClassVar[Targets]

    def build(self) -> Task:
        """Return the task."""
        raise NotImplementedError

    def smoothed(self, task: Task, share: float) -> Task:
        """Return the task as it is; raises UsageError for a share above 0: there are no classes to spread it over."""
        if share:
            what = f"is for tasks with classes; {self.name} has none to spread labels over"
            raise UsageError(what, option="label_smoothing")
        return task

    def check(self, task: Task, output: Output, batch: Batch, outputs: int, model: str) -> None:
        """Raise UsageError unless loss and metric can be had of an output."""
        for each in (task.loss, task.metric):
            found = each(output, batch)
            if isinstance(found, Tensor) and found.numel() != 1:
                what = f"must have a loss and a metric of one number, got one {in_shape(found)}"
                raise UsageError(what, option="task")


@dataclass(frozen=True)
class Classification(_UsualTask):
    """One class a sample; accuracy."""

    name: ClassVar[str] = "classification"
    targets: ClassVar[Targets] = Targets.CLASSES

    def build(self) -> Task:
        """Return the task."""
        return Task()

    def smoothed(self, task: Task, share: float) -> Task:
        """Return the same with a smoothed cross-entropy."""
        return replace(task, loss=smoothed_cross_entropy(share))

    def check(self, task: Task, output: Output, batch: Batch, outputs: int, model: str) -> None:
        """Raise UsageError unless there is one output a class."""
        wanted = max(outputs, 2)  # one alone has no alternative
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < wanted:
            shape = list(output.shape[1:]) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"model {model} must give {wanted} outputs a sample, one a class, got {shape}", option="model"
            )


@dataclass(frozen=True)
class Text(Classification):
    """The same of texts, whose tokens the model takes by name: input_ids, attention_mask."""

    name: ClassVar[str] = "text"

    def check(self, task: Task, output: Output, batch: Batch, outputs: int, model: str) -> None:
        """Raise UsageError also for data that are no texts."""
        if not isinstance(batch[0], dict) or "input_ids" not in batch[0]:
            raise UsageError("text needs texts as data, such as --data text", option="task")
        super().check(task, output, batch, outputs, model)


@dataclass(frozen=True)
class Binary(_UsualTask):
    """0 or 1 a sample, told by one output; accuracy."""

    name: ClassVar[str] = "binary"
    targets: ClassVar[Targets] = Targets.TRUTHS

    metric: str = option("accuracy", "accuracy, or f1 of the second class", must=one_of(("accuracy", "f1")))

    def build(self) -> Task:
        """Return the task."""
        return Task.binary(self.metric)


@dataclass(frozen=True)
class MultiLabel(_UsualTask):
    """0 or 1 for each of several labels, which do not exclude each other; F1."""

    name: ClassVar[str] = "multi-label"
    targets: ClassVar[Targets] = Targets.LABELS

    metric: str = option("f1", "f1 of all labels together, or label-accuracy", must=one_of(("f1", "label-accuracy")))

    def build(self) -> Task:
        """Return the task."""
        return Task.multi_label(self.metric)


@dataclass(frozen=True)
class Regression(_UsualTask):
    """Numbers; mean squared error."""

    name: ClassVar[str] = "regression"
    targets: ClassVar[Targets] = Targets.NUMBERS

    metric: str = option(
        "mean-squared-error",
        "mean-squared-error or mean-absolute-error",
        must=one_of(("mean-squared-error", "mean-absolute-error")),
    )

    def build(self) -> Task:
        """Return the task."""
        return Task.regression(self.metric)


@dataclass(frozen=True)
class Segmentation(_UsualTask):
    """A class for each pixel; mean IoU."""

    name: ClassVar[str] = "segmentation"
    targets: ClassVar[Targets] = Targets.PIXELS

    metric: str = option("mean-iou", "mean-iou or pixel-accuracy", must=one_of(("mean-iou", "pixel-accuracy")))
    ignored: int = option(IGNORED_PIXEL, "the class of pixels that do not count")

    def build(self) -> Task:
        """Return the task."""
        return Task.segmentation(self.ignored, self.metric)


@dataclass(frozen=True)
class OwnTask(_UsualTask):
    """A tombola.Task of the user's own, MODULE:NAME, or a function that returns one."""

    targets: ClassVar[Targets] = Targets.ANY

    name: str = ""  # type: ignore[misc]
    function: Callable[..., Any] | None = field(default=None, repr=False, compare=False)
    code: str = field(default="", compare=False)

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> "OwnTask":
        """Return the task of a function and its MODULE:FUNCTION."""
        return cls(name, function, source(name))

    def build(self) -> Task:
        """Return the task; raises UsageError where the function gives something else."""
        assert self.function is not None
        with explained("task", self.name, "failed"):
            found = self.function()
        if not isinstance(found, Task):
            raise UsageError(f"{self.name!r} must be or return a tombola.Task, got {found!r}", option="task")
        return found


class _Tasks(Family[NamedTask]):
    """Tasks by name; a Task object of the user's own is one too."""

    def _of_object(self, given: Any, shown: str = "") -> NamedTask:
        if isinstance(given, Task):
            if not shown:
                raise UsageError("must be written as MODULE:NAME, which files can hold", option=self.option)
            return OwnTask.of(shown.strip("'"), lambda: given)
        return super()._of_object(given, shown)


TASKS: Family[NamedTask] = _Tasks(
    "task",
    {kind.name: kind() for kind in (Classification, Binary, MultiLabel, Regression, Segmentation, Text)},
    NamedTask,
    OwnTask.of,
)
