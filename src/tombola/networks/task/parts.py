"""Parts of a task that nobody gave: what they are then, and what is said where they do not follow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tombola.errors import UsageError


@dataclass(frozen=True)
class Default:
    """Classification's part, in its place because the user gave no other."""

    name: str
    part: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Return what classification's part returns."""
        return self.part(*arguments)


@dataclass(frozen=True)
class Missing(Default):
    """Classification's part beside a loss that it need not belong to: to be given, should anybody ask for it."""

    def __call__(self, *arguments: Any) -> Any:
        """Raise UsageError naming the part."""
        otherwise = ", or take the objective loss" if self.name == "divergence" else ""
        raise UsageError(
            f"Task(loss=...) is given without {self.name}, and classification's, made for softmaxes, does not belong "
            f"to it: give Task({self.name}=...) too{otherwise}"
        )
