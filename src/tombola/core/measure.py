"""Measure: what the figure of a task's metric is called, in which unit it is shown, and which way is better."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tombola.errors import UsageError

PERCENT = "%"


@dataclass(frozen=True)
class Measure:
    """How people read a task's metric.

    name: as tables write it. unit: "%" of shares, else nothing. scale: a task's metric, of which larger is better,
    times this is what is shown; below 0 of figures of which smaller is better, such as errors. lowest, highest: what no
    shown figure can pass.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    lowest: float = -math.inf
    highest: float = math.inf

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.scale or not math.isfinite(self.scale):
            raise UsageError(
                f"a Measure needs a name and a scale that is not 0, got {self.name!r} and {self.scale}", option="task"
            )

    @property
    def larger_is_better(self) -> bool:
        """Whether larger figures are better ones."""
        return self.scale > 0

    @property
    def in_percent(self) -> bool:
        """Whether figures are shares in percent, and their differences points."""
        return self.unit == PERCENT

    @property
    def key(self) -> str:
        """What columns and files call it: mean_squared_error."""
        return "_".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split()) or "metric"

    @property
    def dashed(self) -> str:
        """What options call it: mean-squared-error."""
        return self.key.replace("_", "-")

    @property
    def test(self) -> str:
        """The key of a figure on test data."""
        return f"test_{self.key}"

    @property
    def dense_test(self) -> str:
        """The key of the dense network's."""
        return f"dense_test_{self.key}"

    @property
    def tests(self) -> str:
        """The key of several figures on test data, one a seed."""
        return "test_accuracies" if self == ACCURACY else f"{self.test}_by_seed"

    @property
    def words(self) -> str:
        """The name with its unit: accuracy (%)."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def title(self) -> str:
        """The name as a heading begins: Accuracy."""
        return f"{self.name[:1].upper()}{self.name[1:]}"

    @property
    def margin(self) -> float:
        """By how much a mean may lie behind another's and be not worse: half a point, nothing where there are none."""
        return 0.5 if self.in_percent else 0.0

    def of(self, metric: float) -> float:
        """Return the figure to show of a task's metric."""
        return self.scale * metric

    def gain(self, mine: float, other: float) -> float:
        """Return by how much a figure is better than another, below 0 where it is worse."""
        return mine - other if self.larger_is_better else other - mine

    def tolerance(self, dense: float) -> float:
        """Return by how much a figure may be worse than the dense network's before it has fallen behind."""
        return 1.0 if self.in_percent else abs(dense) / 10

    @property
    def tolerance_words(self) -> str:
        """The same in words, which follow on "more than"."""
        return "a point" if self.in_percent else "a tenth of it"

    @property
    def worse_side(self) -> str:
        """Where worse figures lie."""
        return "below" if self.larger_is_better else "above"

    def number(self, value: float) -> str:
        """Return a figure without its unit."""
        return f"{value:z.2f}" if self.in_percent else f"{value:z.4g}"

    def shown(self, value: float) -> str:
        """Return a figure in words."""
        return self.with_unit(self.number(value))

    def signed(self, value: float) -> str:
        """Return a difference without a unit."""
        return f"{value:+z.2f}" if self.in_percent else f"{value:+z.4g}"

    def spread(self, mean: float, std: float | None) -> str:
        """Return a mean with its deviation, if there is one, without a unit."""
        digits = ".2f" if self.in_percent else ".2g"
        return self.number(mean) if std is None else f"{self.number(mean)} ± {std:{digits}}"

    def with_unit(self, text: str) -> str:
        """Return a text with the unit behind it."""
        return f"{text} {self.unit}" if self.unit else text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what is infinite is left out, which JSON has no word for."""
        return {key: value for key, value in asdict(self).items() if value not in (-math.inf, math.inf)}

    def noted(self) -> dict[str, Any]:
        """Return what a result says of its measure: nothing of accuracy, which it was before there were others."""
        return {} if self == ACCURACY else {"measure": self.to_dict()}


ACCURACY = Measure("accuracy", PERCENT, 100.0, 0.0, 100.0)
LABEL_ACCURACY = Measure("label accuracy", PERCENT, 100.0, 0.0, 100.0)
F1 = Measure("F1", PERCENT, 100.0, 0.0, 100.0)
MEAN_IOU = Measure("mean IoU", PERCENT, 100.0, 0.0, 100.0)
PIXEL_ACCURACY = Measure("pixel accuracy", PERCENT, 100.0, 0.0, 100.0)
MEAN_SQUARED_ERROR = Measure("mean squared error", "", -1.0, 0.0)
MEAN_ABSOLUTE_ERROR = Measure("mean absolute error", "", -1.0, 0.0)


def measure_in(values: Mapping[str, Any]) -> Measure:
    """Return the measure of a result: accuracy where it names none. Raises UsageError for one that cannot be read."""
    found = values.get("measure")
    if found is None:
        return ACCURACY
    try:
        return Measure(**found)
    except (TypeError, AttributeError) as error:
        raise UsageError(f"the measure of a result cannot be read: {found!r}") from error
