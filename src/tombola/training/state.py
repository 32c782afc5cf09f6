"""State: a network's values at some point of training."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tombola.core.cost import Cost
from tombola.networks.masking import unwrap
from tombola.networks.values import changed_buffers
from tombola.storage.identity import digest_tensors


@dataclass(frozen=True)
class State:
    """A network's values at some point of training.

    tensors: its state_dict, and by name the buffers beyond it that training has changed. epoch: how many epochs of
    training are behind it. cost: what it took from θ₀ on.
    """

    tensors: Mapping[str, Any]
    epoch: int = 0
    cost: Cost = Cost()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors."""
        return digest_tensors(self.tensors)

    @classmethod
    def at(cls, model: nn.Module) -> "State":
        """Return a model's values as they are; they are the model's own where it lies on the CPU."""
        values = {
            name: value.detach().cpu() if isinstance(value, torch.Tensor) else value
            for name, value in model.state_dict().items()
        }
        return cls(values)

    @classmethod
    def of(cls, model: nn.Module, epoch: int = 0, cost: Cost | None = None, base: nn.Module | None = None) -> "State":
        """Copy a model's values; base: what it is a copy of, where it was trained since."""
        changed = {} if base is None else changed_buffers(model, base)
        values = {
            name: value.clone() if isinstance(value, torch.Tensor) else value
            for name, value in {**cls.at(model).tensors, **changed}.items()
        }
        return cls(values, epoch, cost or Cost())

    def is_of(self, model: nn.Module) -> bool:
        """Whether a model's parameters have these values still."""
        return all(
            torch.equal(parameter.detach().cpu(), self.tensors[name])
            for name, parameter in unwrap(model).named_parameters()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors for the store."""
        return {"tensors": dict(self.tensors), "epoch": self.epoch, "cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "State":
        """Read what `to_dict` wrote."""
        return cls(values["tensors"], values["epoch"], Cost(**values["cost"]))
