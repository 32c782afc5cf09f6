"""Model: a part that builds a network for the shape of the data."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import nn

from tombola.core.parts import Part
from tombola.core.plugins import code_of, explained


@runtime_checkable
class Model(Protocol):
    """Builds a freshly initialised network."""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the network for inputs of a shape, and so many classes."""


@dataclass(frozen=True)
class OwnModel(Part):
    """A network that a function of the user's own builds, MODULE:FUNCTION, which takes (shape, classes) or nothing."""

    name: str = ""  # type: ignore[misc]
    function: Callable[..., Any] | None = field(default=None, repr=False, compare=False)
    code: str = field(default="", compare=False)

    @classmethod
    def of(cls, name: str, function: Callable[..., Any]) -> "OwnModel":
        """Return the model of a function and its MODULE:FUNCTION."""
        return cls(name, function, code_of(function))

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return what the function builds; its errors are explained."""
        assert self.function is not None
        takes = len(inspect.signature(self.function).parameters)
        with explained("model", self.name, "failed"):
            built: nn.Module = self.function(shape, classes) if takes else self.function()
        return built
