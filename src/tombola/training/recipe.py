"""Recipe: how networks are trained."""

from dataclasses import dataclass

from tombola.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How networks are trained: SGD, the learning rate divided by ten at each milestone.

    epochs: of the whole training. milestones: epochs after which the learning rate drops. summed: follow the gradient
    of the batch's summed loss instead of its mean. clip_norm: the largest 2-norm of a step's gradient, all parameters
    together and pruned weights included; none by default. Published runs clip the summed loss's gradient at 2, which
    in effect makes it a normalised gradient.
    """

    epochs: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[int, ...] = ()
    summed: bool = False
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for name, holds, allowed in (
            ("epochs", isinstance(self.epochs, int) and self.epochs >= 1, "a whole number of at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "not negative"),
            ("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0"),
        ):
            if not holds:
                raise UsageError(f"recipe: {name} must be {allowed}, got {getattr(self, name)!r}")

    def learning_rate_in(self, epoch: int) -> float:
        """Return the learning rate of one epoch, counted from 0."""
        return self.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
