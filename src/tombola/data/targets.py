"""What the targets of a dataset are, which a task says."""

from enum import StrEnum

from tombola.errors import UsageError

# The label of pixels that do not count, by custom.
IGNORED_PIXEL = 255


class Targets(StrEnum):
    """Kinds of targets, each as an error calls it.

    CLASSES: one of several classes a sample, (N,) int64. TRUTHS: 0 or 1 a sample, (N,). LABELS: 0 or 1 for each of
    several labels, (N, L) float32. NUMBERS: (N, T) float32. PIXELS: a class for each pixel, (N, H, W) int64. ANY:
    whatever the data have, for a task of the user's own.
    """

    CLASSES = "a class a sample"
    TRUTHS = "one of two classes a sample"
    LABELS = "0 or 1 for each of several labels"
    NUMBERS = "numbers"
    PIXELS = "a class for each pixel"
    ANY = "targets of any kind"

    @property
    def are_classes(self) -> bool:
        """Whether a sample has one class of several, or of two."""
        return self in (Targets.CLASSES, Targets.TRUTHS)


def outputs_for(wanted: Targets, classes: int, name: str) -> int:
    """Return how many outputs a sample needs, for a dataset of so many classes; raises UsageError for other targets.

    name: of the data, for errors.
    """
    if wanted in (Targets.CLASSES, Targets.ANY):
        return classes
    if wanted is Targets.TRUTHS and classes == 2:
        return 1
    has = f"data {name} has {classes} classes, one a sample"
    raise UsageError(f"needs {wanted}, and {has}; classification is for such", option="task")
